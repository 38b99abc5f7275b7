"""Seeded faults: small changes of the kernels that the host execution must find.

All are built at once, into a copy of csrc that chooses at run time: `a + b` becomes `(hostcuda::mutated(7) ? a - b :
a + b)`. Without a choice the copy is csrc, and what the cases of tests/test_host_kernels.py run. The small cases of a
fault's launcher then run with it alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

# How a fault shows: regular expressions of what is said.
VALUES = "wrong values"
ORDER = "gives other bits"
GUARD = "written at byte|written from byte|memory outside the view was written"
ADDRESS = "AddressSanitizer"
MISALIGNED = "misaligned access"


@cache
def _source(path: str) -> str:
    return (CSRC / path).read_text()


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: The kernel and the fault.
        launcher: Whose small cases must find it.
        path: The file in csrc.
        text: What stands there, once: a whole expression, or whole statements up to ";" or "}". Where more is needed to
            say which of several, «» are around the expression or statement itself.
        replacement: What the mutant says instead of it.
        caught: How it shows.
        configuration: The build that shows it.
        case: Part of the name of the case that finds it, which is tried before the others.
    """

    name: str
    launcher: str
    path: str
    text: str
    replacement: str
    caught: str
    configuration: str = "plain"
    case: str = ""

    @property
    def number(self) -> int:
        """By which it is chosen. Others that come or go leave it, and so what is built."""
        return zlib.crc32(self.name.encode())

    @property
    def span(self) -> range:
        """Where its expression or statement stands in the file. ValueError where the text is not there, or not once."""
        original, text = _source(self.path), self.text.replace("«", "").replace("»", "")
        if original.count(text) != 1:
            raise ValueError(f"mutant {self.name!r}: {self.path} has its text {original.count(text)} times, not once")
        before, _, rest = self.text.rpartition("«")
        begin = original.index(text) + len(before)
        return range(begin, begin + len(rest.partition("»")[0]))

    def or_else(self, original: str) -> str:
        """Code that does the one or the other."""
        chosen = f"hostcuda::mutated({self.number}u)"
        if original.rstrip().endswith((";", "}")):
            return f"{{ if ({chosen}) {{ {self.replacement}\n}} else {{ {original}\n}} }}"
        # Of the original's type, whatever the fault's: so the original is what it is without the fault.
        return f"({chosen} ? hostcuda::like<decltype(({original}))>({self.replacement}) : ({original}))"


def seeded(path: str, mutants: list[Mutant]) -> str:
    """A file of csrc with all of its faults, none of which is chosen."""
    original = _source(path)

    def rendered(begin: int, end: int, mutants: list[Mutant]) -> str:
        """From begin to end. Of faults in one another the outermost comes first."""
        parts, at = [], begin
        while mutants:
            outer, *mutants = mutants
            inner = [mutant for mutant in mutants if mutant.span.start < outer.span.stop]
            if outer.span.start < at or any(mutant.span.stop > outer.span.stop for mutant in inner):
                raise ValueError(f"mutant {outer.name!r}: its text ends inside of another's")
            parts += [
                original[at : outer.span.start],
                outer.or_else(rendered(outer.span.start, outer.span.stop, inner)),
            ]
            mutants, at = mutants[len(inner) :], outer.span.stop
        return "".join([*parts, original[at:end]])

    return rendered(0, len(original), sorted(mutants, key=lambda mutant: (mutant.span.start, -mutant.span.stop)))


def write_seeded(mutants: Iterable[Mutant], folder: Path) -> None:
    """A copy of csrc that holds the faults; of its .cu files those that see one."""
    faults: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        faults.setdefault(mutant.path, []).append(mutant)
    for path in CSRC.rglob("*"):
        if path.suffix in (".h", ".cuh", ".cu"):
            name = path.relative_to(CSRC)
            wanted = path.suffix != ".cu" or _sees(path, {CSRC / file for file in faults})
            _write(folder / name, seeded(str(name), faults.get(str(name), [])) if wanted else None)


def _write(file: Path, text: str | None) -> None:
    """Nothing where the text is None. What is right keeps its time: only news is compiled."""
    if text is None:
        file.unlink(missing_ok=True)
    elif not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _sees(source: Path, files: set[Path]) -> bool:
    """Whether one of the files is `source` or included by it, over any number of files."""
    open_, seen = [source.resolve()], set()
    while open_:
        path = open_.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        open_ += [(path.parent / name).resolve() for name in re.findall(r'^#include "(.+)"', path.read_text(), re.M)]
    return not seen.isdisjoint(files)
