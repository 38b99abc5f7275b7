"""Bank conflicts of every pattern by which a warp accesses shared memory, from the addresses that kernels compute.

The rule is that of the CUDA C++ Programming Guide ("Shared Memory", compute capability 5.x and later). Successive words
of 4 bytes lie in successive banks, of which there are 32; a bank gives one word at a time. Lanes that ask for bytes of
one word are served together: a load is broadcast, of several stores one stays. Where lanes ask a bank for n words there
is an n-way conflict. 32 lanes of 8 bytes ask for more words than there are banks: each half of the warp goes by itself.
Of 16 bytes it is each quarter, 8 lanes. So is each 8 x 8 matrix of ldmatrix, to which 8 lanes give a row of 16 bytes
each, and cp.async writes as a store of 16 bytes does. These phases are no conflict. What they need beyond one pass over
the banks each is what Nsight Compute lists as wavefronts in excess ("L1 Wavefronts Shared Excessive").

It is a model, nothing is measured. An access is as wide as in the source, whose types say how they are aligned; the
compiler may join neighbours. hostcuda/bank_ledger.h says which accesses are one instruction's. Kernels are compiled for
fp32 and bfloat16 alone.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench import cubins
from host.build import ROOT, build
from host.suite import small_cases
from host.traffic import HEAD, SMALL
from host.traffic_table import ROWS
from host.worker import Launch, run_apart

TABLE = ROOT / "bench" / "results" / "kernel_bank_conflicts.csv"
KINDS = ("load", "store", "ldmatrix", "cp.async")
# Words in the names of cases whose patterns others have.
LEFT_OUT = {"32768", "waves", "special", "many", "charbonnier", "l1", "huber"}


class Place(NamedTuple):
    """A kernel and where it accesses shared memory.

    Attributes:
        kernel: Its name, with the type of its elements where it has one.
        access: One of KINDS.
        bytes: Of a lane.
        file: In the repository.
        code: The line there: unlike its number it stays while others change.
    """

    kernel: str
    access: str
    bytes: int
    file: str
    code: str


@dataclass(frozen=True)
class Pattern:
    """What the accesses at a place have needed.

    Attributes:
        accesses: Of warps.
        phases: Groups of lanes that go by themselves.
        wavefronts: Passes over the banks.
        worst: Those of one phase.
        one_address: Whether the lanes of each access had one address.
    """

    accesses: int = 0
    phases: int = 0
    wavefronts: int = 0
    worst: int = 0
    one_address: bool = True

    def joined(self, other: Pattern) -> Pattern:
        return Pattern(
            self.accesses + other.accesses,
            self.phases + other.phases,
            self.wavefronts + other.wavefronts,
            max(self.worst, other.worst),
            self.one_address and other.one_address,
        )


Patterns = dict[Place, Pattern]


def launches() -> list[Launch]:
    """Of every kernel with shared memory; of DISTS, whose threads stand by channels, also those of VGG16's taps."""
    small = [case.make()[0] for case in small_cases() if not LEFT_OUT & set(case.name.split())]
    dists = [
        row
        for row in ROWS
        if row.launcher.startswith(("dists", "channel_statistics")) and "nhwc" in row.layouts and HEAD in row.taps
    ]
    taps = [SMALL[tap] for tap in HEAD]
    return [*small, *(row.launch(dtype, "nhwc", taps) for row in dists for dtype in row.dtypes)]


def patterns(launches: Iterable[Launch]) -> Patterns:
    """Of all launches together."""
    joined: Patterns = {}
    for found in patterns_of_each(launches):
        for place, pattern in found.items():
            joined[place] = joined.get(place, Pattern()).joined(pattern)
    return joined


def patterns_of_each(launches: Iterable[Launch]) -> list[Patterns]:
    """Runs launches in the traffic build. RuntimeError with the sentence where one fails."""
    folder = build("traffic")
    answers = run_apart(folder, [replace(launch, orders=1) for launch in launches], runner="accesses")
    if failed := [answer for answer in answers if isinstance(answer, str)]:
        raise RuntimeError(failed[0])
    found = list(chain.from_iterable(answers))
    modules = folder / "kernels.so"
    kernels = _kernels(modules, sorted({kernel for kernel, *_ in found}))
    lines = _lines(modules, sorted({caller for _, caller, *_ in found}))
    of_each: list[Patterns] = [{} for _ in answers]
    for answer, joined in zip(answers, of_each, strict=True):
        for kernel, caller, kind, width, *counted in answer:
            if "hostcuda" in lines[caller].parts:  # the emulation's own: ldmatrix and cp.async are told of apart
                continue
            place = Place(kernels[kernel], KINDS[kind], width, *_source(lines[caller]))
            joined[place] = joined.get(place, Pattern()).joined(Pattern(*counted))
    return of_each


def rows(found: Patterns) -> list[dict[str, str]]:
    """The table: what can conflict, that is what lanes access at more than one address."""
    return [
        {
            "kernel": place.kernel,
            "access": place.access,
            "bytes": str(place.bytes),
            "file": place.file,
            "code": place.code,
            "accesses": str(pattern.accesses),
            "worst_ways": str(pattern.worst),
            "mean_ways": f"{pattern.wavefronts / pattern.phases:.2f}",
        }
        for place, pattern in sorted(found.items())
        if not pattern.one_address
    ]


def _kernels(modules: Path, addresses: list[int]) -> dict[int, str]:
    symbols = _addr2line(modules, addresses, "-f")[::2]
    return {address: of_element(name) for address, name in zip(addresses, cubins.kernel_names(symbols), strict=True)}


def of_element(kernel: str) -> str:
    """A kernel's name without what it is compiled for besides its elements: gram_sum_kernel<float>."""
    name, _, arguments = kernel.partition("<")
    element = re.match(r"(float|double|__half|__nv_bfloat16)\b", arguments)
    return f"{name}<{element[0]}>" if element else name


def _lines(modules: Path, addresses: list[int]) -> dict[int, Path]:
    """Where a call returns to -> the file and in it the line of the call, as one path."""
    found = _addr2line(modules, [address - 1 for address in addresses])
    return {address: Path(line.split(" (discriminator")[0]) for address, line in zip(addresses, found, strict=True)}


def _addr2line(modules: Path, addresses: list[int], *options: str) -> list[str]:
    command = ["addr2line", *options, "-e", str(modules), *map(hex, addresses)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _source(line: Path) -> tuple[str, str]:
    path, _, number = str(line).rpartition(":")
    file = Path(path).resolve()
    return str(file.relative_to(ROOT)), _text(file)[int(number) - 1].strip()


@cache
def _text(file: Path) -> list[str]:
    return file.read_text().splitlines()
