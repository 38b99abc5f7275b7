"""Parts that do not match, and losses that cannot be had in parts, are the same error on every rank, never a hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from process_group import on_processes, process_group
from sharded_cases import Loss, TinyMetric, images, of_all, perceptual
from torch import Tensor, nn

import perceptual_ops as po

Call = Callable[[int], Any]  # by rank
RANKS = 2


def other(loss: Loss, **settings: Any) -> Loss:
    for name, value in settings.items():
        setattr(loss, name, value)
    return loss


def of_band(make: Callable[[int], Loss], *shape: int, **settings: Any) -> Call:
    """A call with a band of images, of a shape and settings that differ by rank."""

    def call(rank: int) -> Tensor:
        return po.distributed.sharded(make(rank))(*(x(rank) for x in parts))

    parts = [settings.get(name, lambda rank, seed=seed: images(seed, *shape)) for seed, name in enumerate(NAMES)]
    return call


NAMES = ("output", "target")
SHAPE = (1, 3, 20, 24)


def content(rank: int = 0) -> Loss:
    return perceptual(style_layers=None)


def on_second(*shape: int, dtype: torch.dtype = torch.float64) -> Callable[[int], Tensor]:
    """Images that have another shape or dtype on rank 1."""
    return lambda rank: images(0, *(shape if rank else SHAPE), dtype=dtype if rank else torch.float64)


def style_of(seed: Callable[[int], int]) -> Callable[[int], Loss]:
    def make(rank: int) -> Loss:
        loss = perceptual()
        loss.set_style(images(seed(rank), 1, 3, 20, 21) ** (1 + seed(rank)))
        return loss

    return make


def unlike_network(rank: int) -> Loss:
    loss = content()
    if rank:
        loss.replace_network_weights({name: 2 * x for name, x in loss.frozen_network.state_dict().items()})
    return loss


# What is called, and the error of both.
REFUSED: dict[str, tuple[Call, str]] = {
    "batch": (
        of_band(content, *SHAPE, output=on_second(2, 3, 20, 24), target=on_second(2, 3, 20, 24)),
        r"rank 1: expected output '\(1, 3, \*, 24\), torch.float64, on cpu, without gradient', as on rank 0; got '\(2",
    ),
    "width": (
        of_band(content, *SHAPE, output=on_second(1, 3, 20, 25), target=on_second(1, 3, 20, 25)),
        r"rank 1: expected output .*; got '\(1, 3, \*, 25\)",
    ),
    "dtype": (
        of_band(content, *SHAPE, output=on_second(*SHAPE, dtype=torch.float32)),
        "rank 1: expected output .*; got .*torch.float32",
    ),
    "no target": (
        of_band(content, *SHAPE, target=lambda rank: None if rank else images(1, *SHAPE)),
        "rank 1: expected target .*, as on rank 0; got None",
    ),
    "target of another size": (
        of_band(content, *SHAPE, target=on_second(1, 3, 21, 24)),
        r"rank 1: target: expected the batch and size of output, or a batch of 1; output is \(1, 3, 20, 24\)",
    ),
    "gradient": (
        of_band(content, *SHAPE, output=lambda rank: images(0, *SHAPE).requires_grad_(rank == 0)),
        "rank 1: expected output .*with gradient', as on rank 0; got .*without gradient",
    ),
    "no tensor": (
        of_band(content, *SHAPE, output=lambda rank: "image" if rank else images(0, *SHAPE)),
        r"rank 1: output: expected a tensor of images \(N, 3, H, W\), got str",
    ),
    "device": (
        of_band(content, *SHAPE, output=lambda rank: images(0, *SHAPE).to("meta" if rank else "cpu")),
        "rank 1: output: expected images on cpu, where the loss is; got meta",
    ),
    "a clip": (
        of_band(content, *SHAPE, output=on_second(1, 3, 2, 20, 24), target=on_second(1, 3, 2, 20, 24)),
        r"rank 1: expected output '\(1, 3, \*, 24\).*; got '\(1, 3, \*, 20, 24\)",
    ),
    "settings": (
        of_band(lambda rank: other(content(), tile_size=64 if rank else 16), *SHAPE),
        "rank 1: expected tile_size 16, as on rank 0; got 64",
    ),
    "terms": (
        of_band(lambda rank: perceptual(style_layers=None, tv_weight=0.1 + rank), *SHAPE),
        "rank 1: expected variation 0.1, as on rank 0; got 1.1",
    ),
    "another loss": (
        of_band(lambda rank: TinyMetric("dists" if rank else "lpips"), *SHAPE),
        "rank 1: expected architecture .*; got .*image",
    ),
    "weights": (of_band(unlike_network, *SHAPE), "rank 1: expected weights '.*', as on rank 0; got"),
    "another style": (of_band(style_of(lambda rank: rank), *SHAPE), "rank 1: expected the kept targets of rank 0"),
    "no style": (
        of_band(lambda rank: style_of(lambda rank: 1)(0) if rank else perceptual(style_weight=1.0), *SHAPE),
        "rank 1: expected style",
    ),
    "an empty batch": (of_band(content, 0, 3, 20, 24), "rank 0: output: expected a batch of at least one, got"),
    "too small": (
        of_band(content, 1, 3, 20, 1),
        "output: expected at least .* pixels for Sequential, got 40 x 1",
    ),
    "no content part": (
        of_band(lambda rank: perceptual(content_layers=None), *SHAPE),
        "target: expected None, since this loss has no content part",
    ),
    "a Gram over the clip": (
        of_band(lambda rank: perceptual(gram_over="clip"), 1, 3, 2, 20, 24),
        'rank 0: criterion: expected gram_over="frame" for frames on several ranks, got "clip"',
    ),
    "no chain": (
        of_band(lambda rank: po.LPIPS("squeezenet1_1", weights="random").double(), *SHAPE),
        "rank 0: criterion: expected one that runs in tiles, but squeezenet1_1 is no chain",
    ),
    "a mask": (
        lambda rank: po.distributed.sharded(content())(*[images(0, *SHAPE)] * 2, **({"mask": None} if rank else {})),
        "rank 1: mask: expected output and target alone, .*, and call the criterion itself for masks",
    ),
    "weights and frames": (
        lambda rank: po.distributed.sharded(content())(images(0, *SHAPE), sample_weight=[1.0], frames=True),
        "rank 0: sample_weight, frames: expected output and target alone, .*; multiply what reduction=.none. gives",
    ),
    "autograd": (
        of_band(lambda rank: other(content(), engine="autograd"), *SHAPE),
        'rank 0: criterion: expected one that runs in tiles, but engine="autograd" keeps',
    ),
}


def on_each(rank: int) -> list[dict[str, tuple[str, str]]]:
    """By rank and name the type of the error of each call, and its text; and that the group serves afterwards."""
    found = {}
    for name, (call, _) in REFUSED.items():
        try:
            call(rank)
            found[name] = "none", ""
        except Exception as error:
            found[name] = type(error).__name__, str(error)
    assert of_band(content, *SHAPE)(rank) > 0
    return of_all(found)


@pytest.fixture(scope="module")
def everyones(library: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[str, str]]]:
    return on_processes(RANKS, tmp_path_factory.mktemp("ranks") / "store", on_each)


@pytest.mark.parametrize("name", REFUSED)
def test_every_rank_has_the_same_error(name: str, everyones: list[dict[str, tuple[str, str]]]) -> None:
    first, *others = (found[name] for found in everyones)
    assert first[0] == "ValueError" and all(found == first for found in others)
    with pytest.raises(ValueError, match=REFUSED[name][1]):
        raise ValueError(first[1])


def test_no_group() -> None:
    with pytest.raises(RuntimeError, match=r"group: expected a process group of torch.distributed, got none; start"):
        po.distributed.sharded(content())


def test_no_loss() -> None:
    with pytest.raises(TypeError, match="criterion: expected a PerceptualLoss, an LPIPS or a DISTS, got MSELoss"):
        po.distributed.sharded(nn.MSELoss())


def _outside(rank: int) -> str:
    first = dist.new_group([0])
    if rank == 0:
        return ""
    with pytest.raises(ValueError, match="group: expected one that this process is in, got one without global rank 1"):
        po.distributed.sharded(content(), first)
    return ""


def test_a_group_of_others(tmp_path: Any) -> None:
    on_processes(2, tmp_path / "store", _outside)


def test_second_derivatives_are_refused(tmp_path: Any, library: None) -> None:
    with process_group(tmp_path / "store"):
        band = images(0, *SHAPE).requires_grad_()
        loss = po.distributed.sharded(content())(band, images(1, *SHAPE))
        with pytest.raises(RuntimeError, match=r"create_graph: expected False, .*; run the whole image in one process"):
            torch.autograd.grad(loss, band, create_graph=True)
