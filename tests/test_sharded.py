"""Losses of images in bands on several ranks are those of one process, value and gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from maps import assert_close_by_scale
from process_group import on_processes, process_group
from sharded_cases import CASES, Case, of_all, of_one, of_rank, results
from torch import Tensor

import perceptual_ops as po

RANKS = 4
ROUNDED, ROUNDINGS = ("all terms", "LPIPS", "DISTS"), (torch.float32, torch.bfloat16, torch.float16)


def on_each(rank: int) -> list[dict[Any, list[Tensor]]]:
    """By rank what each case gives, once and again, and in fp32 and bf16."""
    pair = dist.new_group([0, 1])
    found = {}
    for name, case in CASES.items():
        group = dist.group.WORLD if len(case.bands) == RANKS else pair
        if rank >= len(case.bands):
            continue
        found[name], found[name, "again"] = (of_rank(case, rank, group) for _ in range(2))
        for dtype in ROUNDINGS if name in ROUNDED else ():
            found[name, dtype] = of_rank(case, rank, group, torch.float32, compute_dtype=dtype)
    return of_all(found)


@pytest.fixture(scope="module")
def everyones(library: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, list[Tensor]]]:
    return on_processes(RANKS, tmp_path_factory.mktemp("ranks") / "store", on_each)


def joined(case: Case, everyones: list[dict[Any, list[Tensor]]], key: Any) -> list[Tensor]:
    """The value, which all ranks have alike, and the gradients of all bands."""
    values, *gradients = zip(*(found[key] for found in everyones[: len(case.bands)]), strict=True)
    assert all(torch.equal(value, values[0]) for value in values)
    return [values[0], *(torch.cat(bands, dim=2) for bands in gradients)]


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_one_process(name: str, everyones: list[dict[Any, list[Tensor]]]) -> None:
    case = CASES[name]
    found, expected = joined(case, everyones, name), of_one(case)
    assert len(found) == len(expected) == 2 + (case.targets != 0)
    for a, b in zip(found, expected, strict=True):
        assert_close_by_scale(a, b)


@pytest.mark.parametrize("name", CASES)
def test_a_repeat_has_the_same_bits(name: str, everyones: list[dict[Any, list[Tensor]]]) -> None:
    for found in everyones[: len(CASES[name].bands)]:
        assert all(torch.equal(a, b) for a, b in zip(found[name], found[name, "again"], strict=True))


def test_compiled_code_leaves_it_as_it_is(library: None, tmp_path: Path) -> None:
    output, target = CASES["LPIPS"].pair()
    with process_group(tmp_path / "store"):
        loss = po.distributed.sharded(CASES["LPIPS"].make())
        compiled = torch.compile(lambda x, y: 2 * loss(x, y), backend="aot_eager")
        for found, expected in zip(
            results(compiled, [output, target]), results(lambda x, y: 2 * loss(x, y), [output, target]), strict=True
        ):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_is_that_of_one_process(
    name: str, dtype: torch.dtype, everyones: list[dict[Any, list[Tensor]]]
) -> None:
    """By the policy: at most twice the error, against fp64."""
    case = CASES[name]
    exact, naive = of_one(case), of_one(case, torch.float32, compute_dtype=dtype)
    for truth, one, found in zip(exact, naive, joined(case, everyones, (name, dtype)), strict=True):
        assert found.dtype == torch.float32
        error, allowed = ((x.double() - truth).norm() / truth.norm() for x in (found, one))
        assert 0 < error <= 2 * max(allowed, torch.tensor(2.0**-24))
