"""Pictures from features: they match, deeper layers know less, and Gram matrices do not know where things are."""

import pytest
import torch

from perceptual_ops import PerceptualLoss, load_network
from perceptual_ops.recipes import invert
from perceptual_ops.recipes.inversion import noise_like


@pytest.fixture
def picture():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 5, 6, generator=generator).repeat_interleave(6, 2).repeat_interleave(6, 3)


@pytest.mark.parametrize("kind", ["content", "style"])
def test_the_layer_is_matched(picture, kind):
    result = invert(picture, "relu1_2", kind=kind, weights="stlpips", steps=20)
    assert result.image.shape == picture.shape and result.image.min() >= 0 and result.image.max() <= 1
    history = result.history[kind]
    assert 0.05 < history[0] < 20  # 1 is a picture that excites nothing
    assert history[-1] < 0.05 * history[0]
    layers = {f"{kind}_layers": ["relu1_2"]} | ({"content_layers": None} if kind == "style" else {})
    loss = PerceptualLoss(load_network("vgg16", "stlpips"), **layers)
    noise = (0.5 + 0.1 * noise_like(picture, 0)).clamp(0, 1)
    target = {"target" if kind == "content" else "style": picture}
    assert loss(result.image, **target) < 0.1 * loss(noise, **target)


def test_the_layout_of_the_picture_is_the_callers(picture):
    results = (
        invert(picture.to(memory_format=layout), "relu1_1", weights="random", steps=2).image
        for layout in (torch.channels_last, torch.contiguous_format)
    )
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)


def test_features_know_where_things_are_and_grams_do_not(picture):
    content, style = (
        invert(picture, "relu1_2", kind=kind, weights="stlpips", steps=20).image for kind in ("content", "style")
    )
    assert (content - picture).square().mean() < 0.2 * (style - picture).square().mean()


def test_a_deeper_layer_knows_less(picture):
    near, far = (
        (invert(picture, layer, weights="stlpips", steps=20).image - picture).square().mean()
        for layer in ("relu1_2", "relu4_3")
    )
    assert near < far


def test_a_seed_gives_the_same_bits(picture):
    runs = [invert(picture, "relu1_1", weights="random", steps=3, seed=seed).image for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tv_weight": -1.0}, "tv_weight: expected a number of at least 0"),
        ({"kind": "colour"}, "kind: expected"),
        ({"optimizer": "sgd"}, "optimizer: expected"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"layer": "relu9_9"}, "relu9_9"),
    ],
)
def test_errors(picture, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        invert(picture, **{"layer": "relu1_1", "weights": "random", **change})
