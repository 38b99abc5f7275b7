"""PerceptualLoss: presets against their sources, and every bad setting, image and target refused by name."""

from __future__ import annotations

import pytest
import torch
from perceptual import images, make
from torch import nn

import perceptual_ops as po
from perceptual_ops.losses.presets import PRESETS
from perceptual_ops.networks import ARCHITECTURES

# ---- presets ----


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name]["network"] in ARCHITECTURES])
def test_presets_run(name: str) -> None:
    overrides = {"weights": "random"} | ({"style_layers": None} if name == "gatys" else {})
    criterion = po.PerceptualLoss.preset(name, **overrides)
    size = 40
    x = images(1, size).requires_grad_()
    loss = criterion(x, images(1, size, seed=1), images(1, size, seed=2) if criterion.style_layers else None)
    assert torch.autograd.grad(loss, x)[0].abs().sum() > 0


def test_johnson_style_has_the_numbers_of_pytorch_examples() -> None:
    criterion = po.PerceptualLoss.preset("johnson-style", weights="random")
    x, target, style = images(2, 32), images(2, 32, seed=1), images(1, 32, seed=2)
    network = po.load_network("vgg16", "random", layers=criterion.network_layers)
    of = lambda value: network((value * 255).div(255))  # noqa: E731
    f, g, s = of(x), of(target), of(style)
    mse = nn.functional.mse_loss
    expected = 1e5 * mse(f["relu2_2"], g["relu2_2"])
    for layer in ("relu1_2", "relu2_2", "relu3_3", "relu4_3"):
        grams = [
            value[layer].flatten(2) @ value[layer].flatten(2).transpose(1, 2) / f[layer][0].numel() for value in (f, s)
        ]
        expected = expected + 1e10 * mse(grams[0], grams[1].expand(2, -1, -1))
    torch.testing.assert_close(criterion(x, target, style), expected, rtol=1e-4, atol=0)


def test_pix2pixhd_feeds_the_images_as_they_are() -> None:
    criterion = po.PerceptualLoss.preset("pix2pixhd", weights="random")
    x, target = (2 * images(1, 32, seed=i) - 1 for i in range(2))
    network = po.load_network("vgg19", "random", layers=criterion.network_layers)
    f, g = network.features(x), network.features(target)
    weights = dict(zip(criterion.content_layers, criterion.content_weights, strict=True))
    expected = sum(weight * (f[layer] - g[layer]).abs().mean() for layer, weight in weights.items())
    torch.testing.assert_close(criterion(x, target), expected, rtol=1e-4, atol=0)


# ---- errors ----

BAD_SETTINGS = {
    "reduction: .*'max'": {"reduction": "max"},
    "content_distance: .*'l2'": {"content_distance": "l2"},
    "gram_normalize: .*'chwn'": {"gram_normalize": "chwn"},
    "style_statistics: expected one of .* got 'std'": {"style_statistics": "std"},
    "input_range: expected low < high": {"input_range": (1.0, 0.0)},
    "input_range: expected two numbers": {"input_range": 1.0},
    "input_range: .*inf": {"input_range": (0.0, float("inf"))},
    "style_weight: expected a finite number": {"style_weight": float("nan")},
    "eps: expected a number above 0": {"eps": 1e-60},
    "compute_dtype: .*float64": {"compute_dtype": torch.float64},
    "chunk_size: .*got 0": {"chunk_size": 0},
    "chunk_size: .*got True": {"chunk_size": True},
    "engine: .*'fast'": {"engine": "fast"},
    "backend: .*'cuda'": {"backend": "cuda"},
    "mean: expected 3 numbers": {"mean": (0.5, 0.5)},
    "std: expected numbers above 0": {"std": (0.0, 1.0, 1.0)},
    "content_layers.*at least one": {"content_layers": None, "style_layers": None},
    "content_layers: expected .*, got 'relu9_9'": {"content_layers": ["relu9_9"]},
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_bad_settings(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**BAD_SETTINGS[message])


def test_settings_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="content_weight: expected a number, got '1'"):
        make(content_weight="1")
    with pytest.raises(TypeError, match=r"style_layers: expected a dict .* got 'relu1_1'"):
        make(style_layers="relu1_1")
    with pytest.raises(TypeError, match=r"content_layers\['relu1_1'\]: expected a number"):
        make(content_layers={"relu1_1": "a"})
    with pytest.raises(TypeError, match=r"network: expected a name or a torch\.nn.Module, got int"):
        po.PerceptualLoss(3)
    with pytest.raises(ValueError, match="name: expected one of 'johnson-style'"):
        po.PerceptualLoss.preset("johnson")


def test_bad_images() -> None:
    criterion, x, s = make(), images(2), images(1)
    content_only, style_only = make(style_layers=None), make(content_layers=None)
    refused = [
        (TypeError, r"output\[0\]: expected a tensor", lambda: criterion([1.0], x, s)),
        (TypeError, r"output: .*got torch.uint8; convert", lambda: criterion(x.byte(), x, s)),
        (ValueError, r"output: expected shape .*\(3, 24, 27\)", lambda: criterion(x[0], x, s)),
        (ValueError, r"target: expected shape .*\(2, 2, 24, 27\)", lambda: criterion(x, x[:, :2], s)),
        (ValueError, "style: expected at least 2 x 2 pixels", lambda: criterion(x, x, s[..., :1])),
        (ValueError, "target: expected content images, got None", lambda: criterion(x, style=s)),
        (ValueError, "style: expected style images, got None", lambda: criterion(x, x)),
        (ValueError, "target: expected the batch and size of output", lambda: criterion(x, images(2, 20), s)),
        (ValueError, "target: expected the batch and size of output", lambda: criterion(x, images(3), s)),
        (ValueError, "style: expected one style, or one for each of the 2", lambda: criterion(x, x, images(3))),
        (ValueError, "style: expected no requires_grad", lambda: criterion(x, x, images(1).requires_grad_())),
        (ValueError, "target: expected None, since this loss has no content", lambda: style_only(x, x, s)),
        (ValueError, "style: expected None, since this loss has no style", lambda: content_only(x, x, s)),
        (ValueError, "images: expected none, since this loss has no content part", lambda: style_only.set_content(x)),
        (ValueError, "images: expected none, since this loss has no style part", lambda: content_only.set_style(x)),
        (ValueError, "weights: expected 2 numbers", lambda: criterion.set_style([s, s], [1])),
        (ValueError, "weights: expected 2 numbers, none negative", lambda: criterion.set_style([s, s], [1, -1])),
        (ValueError, "images: expected at least one style", lambda: criterion.set_style([])),
        (ValueError, r"images\[0\]: expected a batch of 1 or 3", lambda: criterion.set_style([x, images(3)])),
        (TypeError, "images: expected a tensor of images or a list", lambda: criterion.set_style(3)),
        (TypeError, "weights: expected a list of 1 numbers, got 2", lambda: criterion.set_style(s, weights=2)),
        (ValueError, "weights: expected a finite number", lambda: criterion.set_style([s, s], [float("nan"), 1])),
        (ValueError, "style: expected at least one style", lambda: criterion(x, x, style=[])),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()


def test_kept_content_of_another_size_is_refused() -> None:
    criterion = make(style_layers=None)
    criterion.set_content(images(2, 20))
    with pytest.raises(ValueError, match="output: expected the batch and size of the images of set_content"):
        criterion(images(2, 24))
