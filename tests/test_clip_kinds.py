"""Clips of any strides and dtypes, in tiles, and none at all, by every loss."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from metrics import make as make_metric
from test_clips import by_frame, check, clips, engines, gradients, make

import perceptual_ops as po
from perceptual_ops.engine import tile_parts
from perceptual_ops.engine.tiles import tiles_of

pytestmark = pytest.mark.usefixtures("on_device")

KINDS = ("perceptual", "alex", "dists")


def of_kind(kind: str, **settings: object) -> po.PerceptualLoss | po.LPIPS | po.DISTS:
    """A loss in fp64 that needs no more than two clips."""
    if kind != "perceptual":
        return make_metric(kind, **settings).double()
    loss = make(**settings)
    loss.set_style(clips(1, 1, 2)[:, :, 0])
    return loss


@pytest.mark.parametrize(("kind", "size", "tile_size"), [("perceptual", 24, 8), ("alex", 97, 64)])
def test_frames_go_in_tiles(kind: str, size: int, tile_size: int, library: None) -> None:
    tiled, loss = of_kind(kind, tile_size=tile_size, chunk_size=2), of_kind(kind)
    with mock.patch.object(tile_parts, "tiles_of", wraps=tiles_of) as cut:
        check(tiled, loss, clips(2, 2, size=size), clips(1, 2, 1, size=size))
    assert len(tiles_of(*cut.call_args.args)) == (9 if kind == "perceptual" else 4)


@engines
@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_any_strides(kind: str, engine: str) -> None:
    """Every other frame and row of a larger clip, channels behind the pixels, and a picture that stands still."""
    size = 32 if kind == "alex" else 14
    loss, y = of_kind(kind, engine=engine), clips(2, 2, 1, size)
    larger = clips(2, 4, 0, 2 * size)
    last = clips(2, 2, 3, size).to(memory_format=torch.channels_last_3d)
    still = clips(1, 1, 4, size).expand(2, -1, 2, -1, -1)
    for x in (larger[:, :, ::2, ::2, : size + 3], last, still):
        found, wanted = x.detach().requires_grad_(), x.contiguous().requires_grad_()
        values = loss(found, y), loss(wanted, y)
        torch.testing.assert_close(*values)
        (a,), (b,) = (gradients(value, leaf) for value, leaf in zip(values, (found, wanted), strict=True))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * b.abs().max().item())


@engines
@pytest.mark.parametrize("kind", KINDS)
def test_no_clips(kind: str, engine: str) -> None:
    loss, x = of_kind(kind, engine=engine), clips(2, 3, size=32)[:0].requires_grad_()
    for frames, shape in ((False, (0,)), (True, (0, 3))):
        value = loss(x, x.detach(), frames=frames)
        assert value.shape == shape
        assert torch.autograd.grad(value.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clips_in_16_bits(dtype: torch.dtype, kind: str) -> None:
    x, y = clips(2, 2, size=32).to(dtype).requires_grad_(), clips(2, 2, 1, size=32).to(dtype)
    loss = of_kind(kind).float()
    loss.compute_dtype = dtype
    found, wanted = loss(x, y), by_frame(loss, x, y).mean(1)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=0.0)
    (a,), (b,) = (gradients(value, x) for value in (found, wanted))
    assert a.dtype == dtype and a.any()
    torch.testing.assert_close(a, b, rtol=5e-2, atol=2e-2 * b.abs().max().item())
