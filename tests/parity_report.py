"""How far losses are from the libraries they stand in for, as a table: the cases of tests/test_compat_*.py, and more.

`make parity` prints it as markdown and writes bench/results/parity.csv. Differences are over the
largest value; gradients are compared with the peer's in fp64, ours beside the worst of the peer's own in fp32.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peer_torchvision import import_torchvision
from peers import Difference, difference, pairs
from pytest import MonkeyPatch
from torch import Tensor
from torch.nn import Module

import perceptual_ops as po

import_torchvision()  # before ours look for torchmetrics
basicsr, dists, lpips, piq, torchmetrics, torchmetrics_dists = (
    importlib.import_module(f"test_compat_{name}")
    for name in ("basicsr", "dists", "lpips", "piq", "torchmetrics", "torchmetrics_dists")
)
stlpips = importlib.import_module("test_stlpips")

TABLE = Path(__file__).parents[1] / "bench" / "results" / "parity.csv"
UNUSUAL = ("odd size", "flat", "black")
COLUMNS = ["peer", "case", "value", "gradient", "peer's own gradient", "value in fp64", "gradient in fp64"]


def cases() -> Iterator[tuple[str, str, Difference]]:
    """Each peer, case and difference."""
    for part in (lpips_cases, piq_cases, basicsr_cases, torchmetrics_cases, dists_cases, stlpips_cases):
        yield from part()


def lpips_cases() -> Iterator[tuple[str, str, Difference]]:
    for settings in lpips.SETTINGS:
        pair = lpips.in_range(*pairs()["batch"])
        yield "lpips", name_of("LPIPS", settings), difference(*lpips.both(**settings), *pair, lpips.set_input_map)
    for name, pair in pairs().items():
        found = difference(*lpips.both(), *lpips.in_range(*pair), lpips.set_input_map)
        yield "lpips", f"LPIPS, {name}", found


def piq_cases() -> Iterator[tuple[str, str, Difference]]:
    for kind, settings in piq.CASES:
        losses = piq.our_loss(kind, **settings), piq.their_loss(kind, **settings)
        yield "piq", name_of(kind, settings), difference(*losses, *pairs()["batch"], piq.set_input_map)
    settings = {"layers": ("relu1_2", "relu2_2"), "weights": [1.0, 0.5]}
    for kind in ("ContentLoss", "StyleLoss"):
        for name in UNUSUAL:
            losses = piq.our_loss(kind, **settings), piq.their_loss(kind, **settings)
            yield "piq", f"{kind}, {name}", difference(*losses, *pairs()[name], piq.set_input_map)


def part_of(part: int, loss: Module, x: Tensor, y: Tensor) -> Tensor:
    """One of the two results of BasicSR's loss of images (N, 3, H, W)."""
    return loss(x, y)[part]


def basicsr_cases() -> Iterator[tuple[str, str, Difference]]:
    for settings in basicsr.SETTINGS:
        ours, theirs = basicsr.both(**settings)
        for part, name in enumerate(("perceptual", "style")):
            if getattr(theirs, f"{name}_weight") > 0:
                call = partial(part_of, part)
                found = difference(ours, theirs, *basicsr.batch(settings), basicsr.set_input_map, call)
                yield "BasicSR (its formulas)", name_of(f"PerceptualLoss, {name}", settings), found


def torchmetrics_cases() -> Iterator[tuple[str, str, Difference]]:
    for settings in torchmetrics.SETTINGS:
        pair = torchmetrics.case("batch", settings.get("normalize", False))
        found = difference(*torchmetrics.both(**settings), *pair, torchmetrics.set_input_map)
        yield "torchmetrics", name_of("LPIPS", settings), found
    for name in UNUSUAL:
        found = difference(*torchmetrics.both(), *torchmetrics.case(name), torchmetrics.set_input_map)
        yield "torchmetrics", f"LPIPS, {name}", found
    for name in ("photograph", "batch", "odd size"):
        yield "torchmetrics", f"DISTS, {name}", torchmetrics_dists.dists_difference(*pairs()[name])


def dists_cases() -> Iterator[tuple[str, str, Difference]]:
    for name in ("photograph", "batch", "odd size", "black"):
        found = difference(*dists.both(), *pairs()[name], dists.set_input_map, dists.with_gradient)
        yield "DISTS-pytorch", f"DISTS, {name}", found


def stlpips_cases() -> Iterator[tuple[str, str, Difference]]:
    """With its own weights. In fp32 its poolings may find other maxima than ours, and so another gradient."""
    with MonkeyPatch.context() as patch:
        package = stlpips.package(patch)
        theirs = package.LPIPS(net="alex", variant="shift_tolerant", verbose=False).requires_grad_(False)
        theirs.register_forward_hook(lambda module, inputs, value: value.flatten())  # (N, 1, 1, 1)
        for name in stlpips.PHOTOGRAPHS:
            found = difference(po.LPIPS("alex", weights="stlpips"), theirs, *stlpips.pair(name), lpips.set_input_map)
            yield "stlpips-pytorch", f"LPIPS alex, {name}", found


def name_of(what: str, settings: dict[str, object]) -> str:
    def short(value: object) -> str:
        if isinstance(value, (list, tuple)):
            return " ".join(map(short, value))
        if isinstance(value, Module):
            return "own"
        return "tensor" if isinstance(value, Tensor) else str(value)

    return ", ".join([what, *(f"{key} {short(value)}" for key, value in settings.items())])


def named(peer: str) -> str:
    try:
        return f"{peer} {version(peer)}"
    except PackageNotFoundError:
        return peer


def main() -> None:
    rows = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for peer, case, found in cases():
        numbers = (found.value, found.gradient, found.naive_gradient, found.value_fp64, found.gradient_fp64)
        rows.append([named(peer), case, *(f"{number:.1e}" for number in numbers)])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
