"""compat.dists against the package DISTS-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peers import (
    assert_equal,
    assert_frozen,
    assert_same_arguments,
    difference,
    exact_dists_numbers,
    features,
    hub_cache,
    pairs,
    peer,
    state,
    torchvision_gives,
)
from torch import Tensor, nn

from perceptual_ops.compat.dists import DISTS
from perceptual_ops.networks import dists_weights


def both() -> tuple[DISTS, nn.Module]:
    numbers = exact_dists_numbers()
    with torchvision_gives(vgg16=features("vgg16")):
        theirs = peer("DISTS_pytorch").DISTS(load_weights=False)
    theirs.alpha.data, theirs.beta.data = numbers["alpha"], numbers["beta"]
    return DISTS(weights=state("vgg16"), alpha_beta=numbers), theirs


def with_gradient(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return loss(x, y, require_grad=True)


def set_input_map(loss: Any, center: Tensor, deviation: Tensor) -> None:
    loss.mean, loss.std = center, deviation


def test_arguments() -> None:
    theirs = peer("DISTS_pytorch").DISTS
    assert_same_arguments(DISTS, theirs)
    assert_same_arguments(DISTS.forward, theirs.forward)


@pytest.mark.parametrize("case", ["batch", "odd size", "black"])
def test_values_and_gradients(case: str) -> None:
    difference(*both(), *pairs()[case], set_input_map, with_gradient).check()


def test_values_alone() -> None:
    ours, theirs = both()
    x, y = pairs()["batch"]
    x = x.clone().requires_grad_()
    for images in ((x, y), (x[:1], y[:1])):
        value, expected = ours(*images), theirs(*images)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=0)
        assert not value.requires_grad
    mean = ours(x, y, require_grad=True, batch_average=True)
    torch.testing.assert_close(mean, theirs(x, y, batch_average=True), rtol=1e-5, atol=0)
    assert mean.requires_grad


def test_a_batch_of_no_images() -> None:
    nothing = torch.empty(0, 3, 36, 36)
    ours, _ = both()
    assert ours(nothing, nothing, batch_average=True) == 0
    assert ours(nothing, nothing).shape == (0,)


def test_images_that_are_no_tensors() -> None:
    with pytest.raises(TypeError, match="y: expected a tensor of images"):
        both()[0](pairs()["photograph"][0], None)


def test_the_same_picture_has_no_distance() -> None:
    ours, theirs = both()
    x, _ = pairs()["photograph"]
    assert ours(x, x.clone()) == 0
    assert theirs(x, x.clone()).abs() < 1e-5  # what is left of 1 - 1


def test_frozen() -> None:
    assert_frozen(both()[0])


def test_learned_numbers(tmp_path: Path) -> None:
    """Those that come with the package, and random ones."""
    package = peer("DISTS_pytorch")
    numbers = torch.load(Path(package.__file__).with_name("weights.pt"))
    with hub_cache(tmp_path, vgg16="vgg16-397923af.pth"):
        learned = DISTS()(*pairs()["photograph"])
    assert_equal(DISTS(weights=state("vgg16"), alpha_beta=numbers)(*pairs()["photograph"]), learned)
    assert_equal(torch.cat(dists_weights(None)[0]), numbers["alpha"].flatten())
    torch.manual_seed(1)
    random = DISTS(load_weights=False, weights=state("vgg16"))(*pairs()["photograph"])
    assert not torch.allclose(random, learned, rtol=0.01)
