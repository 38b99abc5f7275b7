"""What a GPU makes of the engine's arithmetic: TF32 as the caller has it, and fp16 without a wait for the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from perceptual import images, make
from test_module_trunk import Residual
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("library")

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "chain": make,
    "chain by autograd": lambda **settings: make(engine="autograd", **settings),
    "module": lambda **settings: po.PerceptualLoss(Residual(), content_layers=["mix"], **settings),
    "LPIPS": lambda **settings: po.LPIPS("alex", weights="random", reduction="mean", **settings),
    "DISTS": lambda **settings: po.DISTS(weights="random", reduction="mean", **settings),
}


@pytest.mark.parametrize("dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["chain", "chain by autograd", "module"])
def test_convolutions_see_the_callers_tf32(
    kind: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of any torch module, and at each call; asking for fp32 does not change it."""
    monkeypatch.setattr("perceptual_ops.engine.convolution._has_blocks", lambda weight: False)  # as on a GPU
    seen: list[bool] = []
    convolve = F.conv2d

    def spy(*arguments: object, **keywords: object) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return convolve(*arguments, **keywords)

    monkeypatch.setattr(F, "conv2d", spy)
    loss = LOSSES[kind](compute_dtype=dtype, **({"style_layers": None} if "chain" in kind else {}))
    x, y = images(1).requires_grad_(), images(1, seed=1)
    for allowed in (True, False, True):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        seen.clear()
        loss(x, y).backward()
        assert set(seen) == {allowed} and torch.backends.cudnn.allow_tf32 == allowed


# What a GPU's host waits in: a number of a tensor that Python asks for.
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


@contextlib.contextmanager
def waits_are_errors(device: str) -> Iterator[None]:
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["chain", "LPIPS", "DISTS"])
def test_the_host_never_waits_for_the_device_in_fp16(kind: str, device: str) -> None:
    """Neither when weights are derived, in the first call, nor after."""
    loss = LOSSES[kind](compute_dtype=torch.float16).to(device)
    x, y = images(1, 32, device=device).requires_grad_(), images(1, 32, seed=1, device=device)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        if kind == "chain":
            loss.set_style(images(1, 32, device=device))
        loss(x, y).backward()
        with waits_are_errors(device):
            loss(x, y).backward()
    names = {event.name for event in profiler.events()}
    assert any("convolution" in name for name in names)
    assert not names & WAITS
