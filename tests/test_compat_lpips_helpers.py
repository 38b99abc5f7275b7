"""The helpers of compat.lpips against those of the package lpips."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peers import peer

from perceptual_ops.compat import lpips

np = pytest.importorskip("numpy")

HELPERS = (
    "normalize_tensor", "spatial_average", "upsample", "load_image", "im2tensor", "tensor2im", "tensor2np", "np2tensor",
    "tensor2vec", "l2", "psnr", "dssim",
)  # fmt: skip


def picture() -> np.ndarray:  # (H, W, 3)
    return np.random.default_rng(6).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", HELPERS)
def test_arguments(name: str) -> None:
    mine, others = (inspect.signature(getattr(module, name)).parameters for module in (lpips, peer("lpips")))
    assert list(mine) == list(others)
    for argument, other in others.items():
        same = np.dtype(mine[argument].default) == other.default if argument == "imtype" else None
        assert mine[argument].default == other.default or same


def test_features() -> None:
    x = torch.randn((2, 5, 6, 7), generator=torch.Generator().manual_seed(1))
    theirs = peer("lpips")
    for name, arguments in (
        ("normalize_tensor", ()),
        ("normalize_tensor", (0.5,)),
        ("spatial_average", ()),
        ("spatial_average", (False,)),
        ("upsample", ()),
        ("upsample", ((11, 9),)),
    ):
        ours, expected = (getattr(module, name)(x, *arguments) for module in (lpips, theirs))
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours, expected)


def test_no_features_have_no_gradient() -> None:
    gradients = []
    for module in (lpips, peer("lpips")):
        x = torch.zeros(1, 3, 2, 2, requires_grad=True)
        module.normalize_tensor(x).sum().backward()
        gradients.append(x.grad)
    assert not gradients[0].any()
    assert gradients[1].isnan().all()


@pytest.mark.parametrize("settings", [{}, {"cent": 0.0, "factor": 255.0}], ids=str)
def test_pictures_to_tensors_and_back(settings: dict[str, float]) -> None:
    theirs = peer("lpips")
    for image in (picture(), picture().astype(np.float32)):
        ours, expected = (module.im2tensor(image, **settings) for module in (lpips, theirs))
        assert ours.dtype == expected.dtype
        assert ours.equal(expected)
    for tensor in (ours, ours.repeat(2, 1, 1, 1).double()):
        found, other = (module.tensor2im(tensor, **settings) for module in (lpips, theirs))
        assert found.dtype == other.dtype == np.uint8
        assert np.array_equal(found, other)
    kept = lpips.tensor2im(ours.clone().requires_grad_(), np.float32, **settings)
    assert np.array_equal(kept, theirs.tensor2im(ours, np.float32, **settings))


def test_load_image(tmp_path: Path) -> None:
    """lpips needs OpenCV for this; what it gives is the file's pixels in the order red, green, blue."""
    image = pytest.importorskip("PIL.Image")
    image.fromarray(picture()).save(tmp_path / "picture.png")
    found = lpips.load_image(tmp_path / "picture.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, picture())
    found[0, 0] = 0  # one's own
    with pytest.raises(FileNotFoundError, match=r"none.png: expected a picture"):
        lpips.load_image(tmp_path / "none.png")


def test_arrays() -> None:
    theirs = peer("lpips")
    first, second = picture(), picture()[::-1].copy()
    for name, values in (
        ("tensor2np", (torch.rand(2, 3, 4, 5).double(),)),
        ("np2tensor", (first,)),
        ("np2tensor", (first / 255,)),
        ("tensor2vec", (torch.rand(2, 3, 1, 1),)),
        ("l2", (first, second)),
        ("l2", (first / 255, second / 255, 1.0)),
        ("psnr", (first, second)),
        ("psnr", (first / 255, second / 255, 1.0)),
    ):
        found, expected = (getattr(module, name)(*values) for module in (lpips, theirs))
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    graph = torch.rand(1, 3, 4, 5, requires_grad=True)
    np.testing.assert_array_equal(lpips.tensor2np(graph), theirs.tensor2np(graph.detach()))


def test_dssim(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of lpips asks scikit-image for a function of before 0.18, here as its successor."""
    metrics = pytest.importorskip("skimage.metrics")

    def compare_ssim(p0: Any, p1: Any, data_range: float, multichannel: bool) -> float:
        assert multichannel
        return metrics.structural_similarity(p0, p1, data_range=data_range, channel_axis=-1)

    measure = ModuleType("skimage.measure")
    measure.compare_ssim = compare_ssim  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skimage.measure", measure)
    first, second = picture(), picture()[::-1].copy()
    assert lpips.dssim(first, second) == peer("lpips").dssim(first, second)
    assert lpips.dssim(first / 255, second / 255, 1.0) == peer("lpips").dssim(first / 255, second / 255, 1.0)
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ModuleNotFoundError, match="dssim needs the package scikit-image: pip install scikit-image"):
        lpips.dssim(first, second)


def test_the_module_within_the_package() -> None:
    assert lpips.lpips.LPIPS is lpips.LPIPS
    assert importlib.import_module("perceptual_ops.compat.lpips.lpips").upsample is lpips.upsample


def test_every_name_of_lpips_is_here_or_says_what_to_use() -> None:
    theirs = peer("lpips")
    for module, other in ((lpips, theirs), (lpips.lpips, peer("lpips.lpips"))):
        own = {
            name
            for name, value in vars(other).items()
            if getattr(value, "__module__", "").startswith("lpips.lpips")  # imported from elsewhere: torch, os, ...
        }
        for name in own | {"pn", *({"Trainer", *HELPERS, "rgb2lab"} if other is theirs else ())}:
            try:
                getattr(module, name)
            except ImportError as error:
                assert re.match(
                    rf"perceptual_ops\.compat\.lpips[.\w]*\.{name}: not here; (use|train|print) ", str(error)
                )
    with pytest.raises(ImportError, match=r"lpips\.Trainer: not here; train linear weights with the package lpips"):
        from perceptual_ops.compat.lpips import Trainer  # noqa: F401
    with pytest.raises(AttributeError, match="has no attribute 'Traner'"):
        lpips.Traner  # noqa: B018
