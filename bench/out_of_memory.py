"""`make out-of-memory`: the largest batch, and the largest image, whose loss and gradient fit a limit of memory.

Each try is one call in a fresh process that is refused more than the limit: private memory (RLIMIT_DATA, Linux) beyond
what Python, torch and the weights take; on a GPU what torch's allocator has. Between what fits and what does not, the
middle is tried. README.md says more.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import console, results
from .case import ImageCase
from .memory import in_fresh_process, status_bytes
from .suites import loss, metrics

TILES = "ours, tiles fp32"
VARIANTS = (
    *("eager fp32", "lpips fp32", "torchmetrics fp32", "piq fp32", "DISTS_pytorch fp32"),
    *("ours fp32", "ours, chunk 1 fp32", TILES),
)


def among(variants: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in VARIANTS if name in variants)


LOSSES: Mapping[str, ImageCase] = {
    "lpips-vgg": metrics.of("lpips-vgg", "1x256x256", among(metrics.LPIPS)),
    "dists": metrics.of("dists", "1x256x256", among(metrics.DISTS)),
    "johnson-style": loss.of("1x256x256", among(loss.VARIANTS)),
}
LIMITS = (1000, 2000, 4000)  # MB, 1e6 bytes
KEYS = ("loss", "axis", "variant", "dtype", "limit_mb")
COLUMNS = (*KEYS, "largest", "at_cap", *results.OF_MACHINE)
SHARE = 32  # what fits is found to this part of itself
# What errors say of memory that was refused: torch's allocators, C++'s. Others, such as oneDNN's, name no reason.
REFUSED = ("can't allocate memory", "out of memory", "bad_alloc")


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
        unit: Its least step.
        cap: Where a search ends for its time.
        quick_cap: The same of a quick run.
        of: (case, size) -> the case of that size.
        other: Losses and variants that make another number at those sizes, or the same call as another.
    """

    name: str
    unit: int
    cap: int
    quick_cap: int
    of: Callable[[ImageCase, int], ImageCase]
    other: Container[tuple[str, str]] = ()

    def variants(self, loss: str, device_type: str) -> tuple[str, ...]:
        """That can be had. Of two images, as chunks of one are no chunks."""
        names = replace(LOSSES[loss], batch=2).available(device_type)
        return tuple(name for name in names if (loss, name) not in self.other)


OF_ONE = [(loss, "ours, chunk 1 fp32") for loss in LOSSES]
AXES = (
    Axis("batch", 1, 512, 64, lambda case, size: replace(case, batch=size), [(loss, TILES) for loss in LOSSES]),
    # piq's DISTS makes images of more than 256 pixels smaller.
    Axis(
        "side",
        32,
        8192,
        2048,
        lambda case, size: replace(case, height=size, width=size),
        [*OF_ONE, ("dists", "piq fp32")],
    ),
)


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that memory was refused."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in REFUSED)


def fits(case: ImageCase, name: str, limit: int, device: torch.device) -> bool:
    """Whether a call fits so many bytes, in a process of which this is the first.

    Raises:
        RuntimeError: Anything but memory is missing.
    """
    warm = replace(case, batch=1, height=64, width=64).call(name, device)
    warm()
    lift = cap(limit, device)
    del warm  # its weights make room for those of the call
    try:
        case.call(name, device)()
    except (MemoryError, RuntimeError) as error:
        if not is_refusal(error):  # memory it was where the call passes without the cap
            lift()
            case.call(name, device)()
        return False
    return True


def cap(limit: int, device: torch.device) -> Callable[[], None]:
    """Refuses this process more than so many bytes beyond what it has; () -> None lifts that."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        share = (torch.cuda.memory_reserved(device) + limit) / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)
        return lambda: torch.cuda.set_per_process_memory_fraction(1.0, device)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (status_bytes("VmData") + limit, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, before)


def largest(is_fit: Callable[[int], bool], cap: int, start: int = 1, known: int = 0) -> int:
    """The largest number up to `cap` that fits, to a part of itself; 0 where none does.

    Args:
        is_fit: True up to some number, False above it.
        start: Where the search begins, by doubling or halving.
        known: A number that fits, where one is known; the search begins above it.
    """
    low, high = known, cap + 1
    size = min(2 * known or start, cap)
    while low < cap and high - low > max(1, low // SHARE):
        if is_fit(size):
            low = size
        else:
            high = size
        size = min(2 * low, cap) if high > cap else (low + high) // 2
    return low


def search(name: str, case: ImageCase, axis: Axis, limits: Sequence[int], cap: int, device: torch.device) -> list[int]:
    """The largest size of a variant for each limit, from the least on: what fits one fits the next."""
    found: list[int] = []
    for limit in limits:

        def is_fit(steps: int, limit: int = limit) -> bool:
            size = steps * axis.unit
            fit: bool = in_fresh_process(fits, axis.of(case, size), name, limit * 10**6, device)
            print(f"  {name}, {limit} MB: {size} {'fits' if fit else 'does not fit'}", file=sys.stderr, flush=True)
            return fit

        known = found[-1] // axis.unit if found else 0
        found.append(axis.unit * largest(is_fit, cap // axis.unit, 4, known))
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.out_of_memory", description="The largest batch and image that fit."
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV")
    default_limits = f"default: {' '.join(map(str, LIMITS))}, of a GPU also all its memory"
    parser.add_argument("--limits", type=int, nargs="+", metavar="MB", help=default_limits)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help='by parts, such as "dists batch"')
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS, metavar="NAME")
    caps = ", ".join(f"{axis.name} {axis.quick_cap} or {axis.cap}" for axis in AXES)
    parser.add_argument("--full", action="store_true", help=f"searches end later: {caps}")
    options = parser.parse_args(arguments)
    if not options.limits:
        options.limits = [*LIMITS]
        if options.device == "cuda":
            options.limits.append(torch.cuda.get_device_properties("cuda").total_memory // 10**6)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)
    machine = results.this_machine(device)
    path = options.out / f"{machine.slug}-out-of-memory.csv"
    known = [(name, axis.name) for name in LOSSES for axis in AXES]
    lines = [["loss", "axis", "variant", *(f"{limit} MB" for limit in options.limits)]]
    for name, axis in known_pairs(options.only):
        end = axis.cap if options.full else axis.quick_cap
        for variant in axis.variants(name, device.type):
            if variant not in options.variants:
                continue
            print(f"{name}, {axis.name}, {variant} ...", file=sys.stderr, flush=True)
            limits = sorted(options.limits)
            found = search(variant, LOSSES[name], axis, limits, end, device)
            common = {"loss": name, "axis": axis.name, **vars(machine)}
            common |= dict(zip(("variant", "dtype"), variant.rsplit(" ", 1), strict=True))
            rows = [
                common | {"limit_mb": str(limit), "largest": str(size), "at_cap": "yes" if size == end else ""}
                for limit, size in zip(limits, found, strict=True)
            ]
            results.update(path, rows, known, KEYS, COLUMNS)
            cells = [f"{'>= ' if row['at_cap'] else ''}{row['largest']}" for row in rows]
            lines.append([name, axis.name, variant, *cells])
    print(f"\n{machine}\n{path}\n")
    print("\n".join(console.aligned(lines, left=3)))
    return 0


def known_pairs(only: Sequence[str]) -> list[tuple[str, Axis]]:
    """Losses and axes that are meant."""
    return [(name, axis) for name in LOSSES for axis in AXES if any(part in f"{name} {axis.name}" for part in only)]


if __name__ == "__main__":
    sys.exit(main())
