"""Clips whose frames lie on several ranks; images and clips that are DTensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from maps import assert_close_by_scale
from process_group import on_processes
from sharded_cases import Loss, images, of_all, perceptual, results
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import perceptual_ops as po

RANKS = 4
CLIP = (2, 3, 5, 12, 13)
IMAGES = (2, 3, 37, 21)


# Frames of each rank, and the loss.
CLIPS: dict[str, tuple[Sequence[int], Callable[[], Loss]]] = {
    "content and style": ((1, 2, 0, 2), lambda: perceptual(reduction="none")),
    "a mean": ((2, 1, 1, 1), lambda: perceptual(reduction="mean", style_layers=None)),
    "autograd": ((0, 0, 5, 0), lambda: perceptual(reduction="sum", engine="autograd", tile_size=None)),
    "LPIPS": ((1, 1), lambda: po.LPIPS("squeezenet1_1", weights="random", reduction="none").double()),
}


def clips(name: str) -> list[Tensor]:
    shape = (1, 3, 2, 32, 33) if name == "LPIPS" else CLIP
    return [images(seed, *shape).requires_grad_() for seed in (1, 2)]


def of_frames(name: str, rank: int, group: Any) -> list[Tensor]:
    lengths, make = CLIPS[name]
    first = sum(lengths[:rank])
    parts = [x.detach()[:, :, first : first + lengths[rank]].requires_grad_() for x in clips(name)]
    return results(po.distributed.sharded(make(), group), parts)


def loss_of_images() -> Loss:
    return perceptual(reduction="none")


# Shape of the images, the mesh of ranks, where its dimensions are placed, and which is the group.
DTENSORS: dict[str, tuple[tuple[int, ...], list[Any], list[Any], int]] = {
    "rows": (IMAGES, [0, 1, 2, 3], [Shard(2)], 0),
    "rows of a mesh's second dimension": (IMAGES, [[0, 1], [2, 3]], [Replicate(), Shard(2)], 1),
    "frames": (CLIP, [0, 1, 2, 3], [Shard(2)], 0),
}


def of_dtensors(name: str) -> tuple[list[Tensor], list[str]]:
    """The whole value and gradients, and how they are placed."""
    shape, ranks, placements, dim = DTENSORS[name]
    mesh = DeviceMesh("cpu", torch.tensor(ranks))
    leaves = [distribute_tensor(images(seed, *shape), mesh, placements).requires_grad_() for seed in (1, 2)]
    value = po.distributed.sharded(loss_of_images(), mesh.get_group(dim))(*leaves)
    assert isinstance(value, DTensor)
    weights = distribute_tensor(torch.tensor([2.5, -1.5], dtype=torch.float64), mesh, [Replicate()] * mesh.ndim)
    (value * weights).sum().backward()
    made = [value, *(x.grad for x in leaves)]
    return [x.full_tensor().detach() for x in made], [str(x.placements) for x in made]


def errors_of_dtensors() -> list[str]:
    """What is said of DTensors that are not parts of the group's images."""
    whole, line = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (2, 2))
    x, found = images(1, *IMAGES), []
    for output in (
        distribute_tensor(x, whole, [Shard(3)]),
        DTensor.from_local(x, whole, [Partial()]),
        distribute_tensor(x, line, [Shard(0), Shard(2)]),
        distribute_tensor(x, line, [Replicate(), Shard(2)]),
        DTensor.from_local(x, DeviceMesh("cpu", torch.tensor([3, 1, 0, 2])), [Shard(2)]),
    ):
        with pytest.raises(ValueError) as error:
            po.distributed.sharded(perceptual())(output, output)
        found.append(str(error.value))
    return found


def on_each(rank: int) -> list[dict[str, Any]]:
    pair = dist.new_group([0, 1])
    found: dict[str, Any] = {}
    for name, (lengths, _) in CLIPS.items():
        if rank < len(lengths):
            found[name] = of_frames(name, rank, dist.group.WORLD if len(lengths) == RANKS else pair)
    found |= {name: of_dtensors(name) for name in DTENSORS}
    found["errors"] = errors_of_dtensors()
    return of_all(found)


@pytest.fixture(scope="module")
def everyones(library: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_processes(RANKS, tmp_path_factory.mktemp("ranks") / "store", on_each)


@pytest.mark.parametrize("name", CLIPS)
def test_frames_on_several_ranks(name: str, everyones: list[dict[str, Any]]) -> None:
    lengths, make = CLIPS[name]
    values, *gradients = zip(*(found[name] for found in everyones[: len(lengths)]), strict=True)
    assert all(torch.equal(value, values[0]) for value in values)
    expected, *by_images = results(make(), clips(name))
    assert_close_by_scale(values[0], expected)
    for parts, whole in zip(gradients, by_images, strict=True):
        assert_close_by_scale(torch.cat(parts, dim=2), whole)


@pytest.mark.parametrize("name", DTENSORS)
def test_dtensors_in_and_out(name: str, everyones: list[dict[str, Any]]) -> None:
    shape, _, placements, _ = DTENSORS[name]
    expected = results(loss_of_images(), [images(seed, *shape).requires_grad_() for seed in (1, 2)])
    for found, placed in (rank[name] for rank in everyones):
        assert placed == [str((Replicate(),) * len(placements)), *[str(tuple(placements))] * 2]
        for a, b in zip(found, expected, strict=True):
            assert_close_by_scale(a, b)


def test_other_dtensors_are_refused(everyones: list[dict[str, Any]]) -> None:
    for rank in everyones:
        misplaced, elsewhere = rank["errors"][:3], rank["errors"][3:]
        for message in misplaced:
            assert "output: expected a DTensor of placement Shard(2)" in message
        assert len(elsewhere) == 2
        for message in elsewhere:
            assert "output: expected a DTensor that is sharded over the ranks [0, 1, 2, 3] of the group" in message
