"""The comparison with cuDNN's convolution + bias + ReLU, by stand-ins for it: each fault is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import fused_convolution, timing
from bench.fused_convolution import Finding, Fused, examine, verdict
from bench.suites.operators import Images


def right(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """With less rounding than ours."""
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=1).relu_().to(x.dtype)


def without_nan(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = right(x, weight, bias)
    return torch.where(y.isnan(), 0, y)


def clipped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return right(x, weight, bias).clamp_(max=torch.finfo(x.dtype).max)


def without_bias(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return right(x, weight, torch.zeros_like(bias))


def refusing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    raise RuntimeError("no engine was found\nfor this")


class Wavering:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        self.calls += 1
        return right(x, weight, bias) * (1 + self.calls % 2 * 2**-23)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Fused], Finding]]:
    """Examines one small map; nothing looks at times."""
    monkeypatch.setattr(timing, "MIN_ROUNDS", 2)
    cache = timing.ColdCache(torch.device("cpu"))
    images = Images(2, 64, torch.float32, torch.channels_last)
    yield lambda fused: examine("relu3_3", images, fused, cache, 0.0)


def test_what_is_right_is_fit(look) -> None:
    finding = look(right)
    assert finding.faults == () and 0 < finding.error < finding.our_error < 1e-5 and finding.ratio > 0
    assert finding.cells[:3] == ("relu3_3", "float32", "fit")


@pytest.mark.parametrize(
    ("fused", "faults"),
    [
        (without_nan, ("NaN lost",)),
        (clipped, ("infinity lost",)),
        (Wavering(), ("bits differ",)),
        (without_bias, ("inaccurate",)),
        (refusing, ("refused: no engine was found",)),
    ],
)
def test_each_fault_is_found(look, fused: Fused, faults: tuple[str, ...]) -> None:
    assert look(fused).faults == faults


@pytest.mark.parametrize("shows", [True, False])
def test_leftovers_in_the_memory_of_the_result(monkeypatch: pytest.MonkeyPatch, shows: bool) -> None:
    """torch gives a result the block that has just been freed; here that is arranged."""
    block = torch.zeros(2, 3, 4, 4)
    monkeypatch.setattr(torch, "full_like", lambda like, value: block.fill_(value))

    def call() -> Tensor:
        return block.mul_(0).add_(1) if shows else block.fill_(1)

    assert fused_convolution.shows_leftovers(call, block) is shows
    assert not fused_convolution.shows_leftovers(lambda: torch.full((2,), torch.nan), block)


def test_the_verdict_is_one_short_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("relu1_2", "float16", (), ratio=1.2),
        Finding("relu2_2", "float16", (), ratio=0.9),
        Finding("relu3_3", "float16", ("NaN lost", "leftovers show"), ratio=2.0),
        Finding("relu4_3", "float16", ("refused: no engine",)),
    ]
    line = "fit and faster in 1 of 4, 1.20 to 1.20 times as fast; NaN lost in 1; leftovers show in 1; refused in 1"
    assert verdict(findings) == line and len(line) < 120
    assert verdict(findings[3:]) == "fit and faster in 0 of 1; refused in 1"
    monkeypatch.setattr(fused_convolution, "DTYPES", (torch.float32,))
    assert fused_convolution.main(["--device=cpu", "--size=40", "--batch=1"], refusing) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "fit and faster in 0 of 4; refused in 4"
