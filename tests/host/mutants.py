"""Seeded faults: small changes of the kernels that the host execution must find.

Each is applied to a copy of csrc, built, and run over the small cases of one launcher.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from host.build import ROOT, build

CSRC = ROOT / "csrc"
# The launchers of each room, by the first words of their cases.
ROOMS = {
    "activation": (
        "normalize",
        "normalize_backward",
        "bias_relu",
        "bias_relu_backward",
        "bias_relu_pool",
        "bias_relu_pool_backward",
        "l2_pool",
        "l2_pool_backward",
    ),
    "dists": ("dists", "dists_backward"),
    "gram": ("gram", "style", "symmetrise", "gram_gradient"),
    "feature_loss": ("feature_loss", "feature_loss_gradient", "feature_loss_with_gradient"),
    "lpips": ("lpips", "lpips_gradient", "lpips_with_gradient", "lpips_map", "lpips_map_gradient"),
    "total_variation": ("total_variation", "total_variation_gradient", "total_variation_with_gradient"),
}

# How a fault shows: regular expressions of what is said.
VALUES = "wrong values"
ORDER = "gives other bits"
GUARD = "written at byte|written from byte|memory outside the view was written"
ADDRESS = "AddressSanitizer"
MISALIGNED = "misaligned access"


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: The kernel and the fault.
        launcher: Whose small cases must find it.
        path: The file in csrc.
        text: What stands there, once.
        replacement: What the mutant says instead.
        caught: How it shows.
        configuration: The build that shows it.
    """

    name: str
    launcher: str
    path: str
    text: str
    replacement: str
    caught: str
    configuration: str = "plain"

    @property
    def room(self) -> str:
        return next(room for room, launchers in ROOMS.items() if self.launcher in launchers)

    @property
    def folder(self) -> str:
        return f"{self.room}/{self.name.replace(':', '').replace(' ', '_')}"

    def source(self) -> str:
        """The mutated file. ValueError where the text is not there, or not once."""
        original = (CSRC / self.path).read_text()
        if original.count(self.text) != 1:
            raise ValueError(
                f"mutant {self.name!r}: {self.path} has its text {original.count(self.text)} times, not once"
            )
        return original.replace(self.text, self.replacement)


def build_mutants(mutants: list[Mutant]) -> dict[str, Path]:
    """The module folder of each mutant, by name."""
    folders: dict[str, Path] = {}
    for configuration in sorted({mutant.configuration for mutant in mutants}):
        chosen = [mutant for mutant in mutants if mutant.configuration == configuration]
        sources = ROOT / "build" / "host" / f"mutants-{configuration}"
        for old in sources.glob("*/*"):
            if str(old.relative_to(sources)) not in {mutant.folder for mutant in chosen}:
                shutil.rmtree(old)
        for mutant in chosen:
            _write_copy(mutant, sources / mutant.folder)
        modules = build(configuration, sources) / "mutants"
        folders |= {mutant.name: modules / mutant.folder for mutant in chosen}
    return folders


def _write_copy(mutant: Mutant, folder: Path) -> None:
    """csrc with the fault, of the .cu files those that see it. What is right keeps its time: only news is built."""
    for path in CSRC.rglob("*"):
        name = path.relative_to(CSRC)
        if path.suffix not in (".h", ".cuh", ".cu") or (path.suffix == ".cu" and not _sees(path, CSRC / mutant.path)):
            continue
        text = mutant.source() if str(name) == mutant.path else path.read_text()
        copy = folder / name
        if not copy.exists() or copy.read_text() != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)


def _sees(source: Path, file: Path) -> bool:
    """Whether the file is `source` or included by it, over any number of files."""
    open_, seen = [source.resolve()], set()
    while open_:
        path = open_.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        open_ += [(path.parent / name).resolve() for name in re.findall(r'^#include "(.+)"', path.read_text(), re.M)]
    return file.resolve() in seen
