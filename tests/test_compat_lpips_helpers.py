"""The helpers of compat.lpips against those of the package lpips."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from peers import peer

from perceptual_ops.compat import lpips

np = pytest.importorskip("numpy")

HELPERS = ("normalize_tensor", "spatial_average", "upsample", "load_image", "im2tensor", "tensor2im")


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
