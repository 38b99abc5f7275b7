"""The networks that the drop-ins' functions keep from call to call: of the file that a path names now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from metrics import pictures
from torch import Tensor

import perceptual_ops as po
from perceptual_ops.compat import _kept, lpips_pytorch

PAIR = pictures(1, 36, 36), pictures(1, 36, 36, seed=1)


@pytest.fixture(autouse=True)
def no_networks_kept() -> Iterator[None]:
    _kept._kept.cache_clear()
    torch._dynamo.reset()
    yield
    _kept._kept.cache_clear()


def write(path: Path, seed: int) -> Tensor:
    """Weights as a file; the distance by them."""
    weights = po.load_network("alexnet", "random", seed=seed).state_dict()
    torch.save(weights, path)
    os.utime(path, ns=(seed, seed))  # however coarse the clock of the file system
    return lpips_pytorch.LPIPS(weights=weights)(*PAIR)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_written_anew(kind: type, compiled: bool, tmp_path: Path) -> None:
    path = tmp_path / "alex.pth"
    for seed in (1, 2):
        expected = write(path, seed)
        torch._dynamo.reset()  # a graph keeps the network that it was compiled with
        call = torch.compile(lpips_pytorch.lpips, backend="eager", fullgraph=True) if compiled else lpips_pytorch.lpips
        for _ in range(2):
            torch.testing.assert_close(call(*PAIR, weights=kind(path)), expected)
    assert _kept._kept.cache_info().misses == 2


def test_a_relative_path_from_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        expected = write(folder / "alex.pth", seed)
        os.utime(folder / "alex.pth", ns=(1, 1))
        monkeypatch.chdir(folder)
        torch.testing.assert_close(lpips_pytorch.lpips(*PAIR, weights="alex.pth"), expected)


def test_compiled_calls_keep_few_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kept, "MAX_TRACED", 2)
    monkeypatch.setattr(_kept, "_traced", {})

    def call(weights: str) -> Tensor:
        return torch.compile(lpips_pytorch.lpips, backend="eager", fullgraph=True)(*PAIR, weights=weights)

    paths = [str(tmp_path / f"{seed}.pth") for seed in range(_kept.MAX_TRACED + 1)]
    expected = [write(Path(path), seed) for seed, path in enumerate(paths)]
    for path, value in [*zip(paths, expected, strict=True), (paths[0], expected[0])]:
        torch.testing.assert_close(call(path), value)
        assert len(_kept._traced) <= _kept.MAX_TRACED


@pytest.mark.parametrize("weights", ["name", "state"])
def test_networks_that_a_program_is_made_with_serve_afterwards(weights: str) -> None:
    source = "random" if weights == "name" else po.load_network("alexnet", "random").state_dict()

    class Call(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return lpips_pytorch.lpips(x, y, weights=source)

    program = torch.export.export(Call(), PAIR, strict=False).module()
    torch.testing.assert_close(program(*PAIR), Call()(*PAIR))
