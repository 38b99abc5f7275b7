"""Pictures that need not fit in memory: read by rectangles, the gradient written by rectangles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maps import assert_close_by_scale
from torch import Tensor

import perceptual_ops as po
from perceptual_ops import DISTS, LPIPS, PerceptualLoss, gradient_of
from perceptual_ops.losses.base import FrozenLoss

pytestmark = pytest.mark.usefixtures("library")

SIZE, TILE = (99, 71), 64


def picture(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand((3, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_of(name: str) -> FrozenLoss:
    if name == "lpips":
        return LPIPS("alexnet", weights="random", tile_size=TILE, reduction="mean").double()
    if name == "dists":
        return DISTS(weights="random", tile_size=TILE, reduction="mean").double()
    style = {"style_layers": ["relu1_1", "relu2_1"], "style_weight": 1e3, "tv_weight": 0.01}
    loss = PerceptualLoss("vgg11", weights="random", content_layers=["relu2_1"], tile_size=TILE, **style).double()
    loss.set_style(picture(3, (40, 50))[None])
    return loss


def by_autograd(loss: FrozenLoss, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    loss.tile_size = None
    leaf = output[None].clone().requires_grad_()
    value = loss(leaf, target[None])
    (gradient,) = torch.autograd.grad(value, leaf)
    loss.tile_size = TILE
    return value.detach(), gradient


@dataclass
class Reader:
    """A picture that only hands out rectangles, and remembers the largest."""

    numbers: Tensor  # (3, H, W)
    largest: int = field(default=0)

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    def read(self, rows: slice, columns: slice) -> Tensor:
        part = self.numbers[:, rows, columns]
        self.largest = max(self.largest, part.shape[1])
        return part


class Slice:
    """What `safetensors.safe_open(...).get_slice(...)` is like."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers

    def get_shape(self) -> list[int]:
        return list(self._numbers.shape)

    def __getitem__(self, index: Any) -> Tensor:
        return self._numbers[index]


def memory_mapped(folder: Path, numbers: Tensor) -> np.memmap:
    found = np.memmap(folder / "picture.bin", dtype="float64", mode="w+", shape=tuple(numbers.shape))
    found[:] = numbers.numpy()
    found.flush()
    return np.memmap(folder / "picture.bin", dtype="float64", mode="r", shape=tuple(numbers.shape))


SOURCES: dict[str, Callable[[Path, Tensor], Any]] = {
    "tensor": lambda folder, x: x[None],
    "array": lambda folder, x: x.numpy(),
    "array of a batch, turned round": lambda folder, x: x.numpy()[None, :, ::-1].copy()[:, :, ::-1].astype(">f8"),
    "read-only array of fp16": lambda folder, x: np.frombuffer(x.half().numpy().tobytes(), "f2").reshape(x.shape),
    "memmap": memory_mapped,
    "slice": lambda folder, x: Slice(x),
    "reader": lambda folder, x: Reader(x),
}


@pytest.mark.parametrize("source", SOURCES)
def test_pictures_of_every_kind(source: str, tmp_path: Path) -> None:
    output, target, loss = picture(1).half().double(), picture(2), loss_of("perceptual")
    value, gradient = gradient_of(loss, SOURCES[source](tmp_path, output), target)
    expected = by_autograd(loss, output, target)
    assert_close_by_scale(value, expected[0])
    assert_close_by_scale(gradient, expected[1])


@pytest.mark.parametrize("input_range", [(0, 1), (-1, 1), (0, 255)])
@pytest.mark.parametrize("name", ["lpips", "dists", "perceptual"])
def test_losses_in_every_range(name: str, input_range: tuple[float, float]) -> None:
    output, target, loss = picture(1), picture(2), loss_of(name)
    loss.input_range = input_range
    low, high = input_range
    output, target = (low + (high - low) * x for x in (output, target))
    if isinstance(loss, PerceptualLoss):
        loss.set_style(low + (high - low) * picture(3, (40, 50))[None])
    value, gradient = gradient_of(loss, Reader(output), Reader(target))
    expected = by_autograd(loss, output, target)
    assert_close_by_scale(value, expected[0])
    assert_close_by_scale(gradient, expected[1])


def test_a_gradient_that_is_written_to_a_file(tmp_path: Path) -> None:
    output, target, loss = picture(1), picture(2), loss_of("perceptual")
    out = np.memmap(tmp_path / "gradient.bin", dtype="float64", mode="w+", shape=tuple(output.shape))
    out[:] = 7
    _, found = gradient_of(loss, output, target, out=out)
    assert found is out
    out.flush()
    written = torch.from_numpy(np.fromfile(tmp_path / "gradient.bin", dtype="float64")).view(1, *output.shape)
    assert_close_by_scale(written, by_autograd(loss, output, target)[1])


class Dataset:
    """A dataset of an HDF5 file: what it gives out is a copy."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.shape, self.dtype = numbers, numbers.shape, numbers.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.numbers[index].copy()

    def __setitem__(self, index: Any, numbers: Any) -> None:
        self.numbers[index] = numbers


@pytest.mark.parametrize("shape", [(3, *SIZE), (1, 3, *SIZE)])
def test_a_gradient_in_what_gives_out_copies(shape: tuple[int, ...]) -> None:
    output, target, loss = picture(1), picture(2), loss_of("perceptual")
    out = Dataset(np.full(shape, 7.0))
    gradient_of(loss, output, target, out=out)
    assert_close_by_scale(torch.from_numpy(out.numbers).view(1, *output.shape), by_autograd(loss, output, target)[1])


@pytest.mark.parametrize("wrong", [{"target": None}, {"output": torch.zeros(3, *SIZE, dtype=torch.uint8)}])
def test_what_is_refused_leaves_out_as_it_was(wrong: dict[str, Any]) -> None:
    out = torch.full((3, *SIZE), 7.0)
    with pytest.raises((TypeError, ValueError)):
        gradient_of(**{"criterion": loss_of("lpips"), "output": picture(1), "target": picture(2), **wrong}, out=out)
    assert torch.equal(out, torch.full((3, *SIZE), 7.0))


def test_kept_targets_and_a_style_alone() -> None:
    output, target, loss = picture(1), picture(2), loss_of("perceptual")
    expected, _ = gradient_of(loss, output, target)
    loss.set_content(target[None])
    found, _ = gradient_of(loss, output)
    assert_close_by_scale(found, expected)
    loss.content_layers = None
    with pytest.raises(ValueError, match="target: expected None, since this loss has no content part"):
        gradient_of(loss, output, target)
    assert gradient_of(loss, output)[0] < expected


def test_progress_comes_to_its_end_and_no_more_than_a_tile_is_read() -> None:
    loss, reader = loss_of("perceptual"), Reader(picture(1, (300, 40)))
    calls: list[tuple[int, int]] = []
    gradient_of(loss, reader, picture(2, (300, 40)), progress=lambda done, total: calls.append((done, total)))
    tiles = round(300 / TILE)
    assert calls == [(done, 2 * tiles) for done in range(1, 2 * tiles + 1)]
    loss.tv_weight = 0.0
    reader.largest = 0
    gradient_of(loss, reader, picture(2, (300, 40)))
    assert 64 <= reader.largest < 100


def test_a_tile_of_a_pair_is_read_once_a_pass() -> None:
    class Counted(Reader):
        reads = 0

        def read(self, rows: slice, columns: slice) -> Tensor:
            self.reads += 1
            return super().read(rows, columns)

    for name, passes in (("lpips", 1), ("dists", 2)):
        pair = Counted(picture(1)), Counted(picture(2))
        gradient_of(loss_of(name), *pair)
        tiles = round(SIZE[0] / TILE)
        assert [x.reads for x in pair] == [passes * tiles] * 2, name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output": 3}, TypeError, r"output: expected a tensor, an array, or an object with shape and read"),
        ({"output": torch.rand(2, 3, 40, 40)}, ValueError, r"output: expected one picture \(C, H, W\)"),
        ({"output": torch.rand(1, 40, 40)}, ValueError, r"output: expected \(3, H, W\) for vgg11, got"),
        ({"output": torch.zeros(3, 99, 71, dtype=torch.uint8)}, TypeError, r"output: expected floating-point numbers"),
        ({"target": torch.rand(3, 99, 70)}, ValueError, r"target: expected the size of output"),
        ({"out": torch.zeros(3, 99, 70)}, ValueError, r"out: expected the shape \(3, 99, 71\) of the output"),
        ({"out": torch.zeros(3, 99, 71, dtype=torch.float16)}, TypeError, r"out: expected a tensor, an array or a me"),
        (
            {"out": torch.zeros(3, 99, 71, requires_grad=True)},
            ValueError,
            r"out: expected a tensor that can be written",
        ),
        (
            {"out": torch.zeros(3, 99, 71, device="meta")},
            ValueError,
            r"out: expected a tensor that can be written, got a",
        ),
        ({"out": (shared := torch.rand(3, 99, 71)), "output": shared}, ValueError, r"out: expected memory of its own"),
        (
            {"out": (buffer := torch.rand(3, 100, 71))[:, 1:], "output": buffer[:, :99]},
            ValueError,
            r"out: expected memory",
        ),
        (
            {"out": (array := np.zeros((3, 99, 71), np.float32)), "target": array[:, ::-1]},
            ValueError,
            r"out: expected memory of its own",
        ),
        ({"mask": torch.ones(1, 99, 71, requires_grad=True)}, ValueError, r"mask: expected no requires_grad"),
        ({"progress": 3}, TypeError, r"progress: expected a function of two numbers, got int"),
        ({"criterion": torch.nn.MSELoss()}, TypeError, r"criterion: expected a PerceptualLoss, an LPIPS or a DISTS"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"criterion": loss_of("perceptual"), "output": picture(1), "target": picture(2), **arguments}
    with pytest.raises(error, match=message):
        gradient_of(**given)


def test_losses_without_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="criterion: expected one that runs in tiles, but squeezenet1_1 is no chain"):
        gradient_of(LPIPS("squeezenet1_1", weights="random"), picture(1), picture(2))
    with pytest.raises(ValueError, match="runs in tiles, but spatial=True gives a map"):
        gradient_of(LPIPS("alexnet", weights="random", spatial=True), picture(1), picture(2))
    with pytest.raises(ValueError, match='runs in tiles, but backend="reference" keeps'):
        gradient_of(LPIPS("alexnet", weights="random", backend="reference"), picture(1), picture(2))
    with pytest.raises(ValueError, match="target: expected the picture that output is compared with, got None"):
        po.gradient_of(loss_of("lpips"), picture(1))
