"""Networks of one's own that take one channel, or five: images of that many, and nothing is repeated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import perceptual_ops as po


def encoder(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))


def images(channels: int, seed: int = 0) -> Tensor:
    return torch.rand((2, channels, 12, 10), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("numbers", [None, "one", "each"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_as_many_channels(channels: int, numbers: str | None) -> None:
    network, x, y = encoder(channels), images(channels).requires_grad_(), images(channels, seed=1)
    count = channels if numbers == "each" else 1
    settings = {"mean": [0.25] * count, "std": [0.5] * count} if numbers else {}
    loss = po.PerceptualLoss(network, content_layers=["2"], style_layers=["1"], tv_weight=0.1, **settings)
    loss.set_style(y)
    mapped = [(image - 0.25) / 0.5 if numbers else image for image in (x, y)]
    expected = (network(mapped[0]) - network(mapped[1])).square().mean()
    styles = [po.reference.gram_matrix(network[:2](image)) for image in mapped]
    expected = expected + (styles[0] - styles[1]).square().mean()
    expected = expected + 0.1 * po.reference.total_variation(x)
    value = loss(x, y)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (value, expected)))


def test_grey_is_repeated_where_three_channels_are_taken() -> None:
    loss = po.PerceptualLoss(encoder(3), content_layers=["2"])
    grey, y = images(1), images(3, seed=1)
    assert torch.equal(loss(grey, y), loss(grey.expand(-1, 3, -1, -1), y))


@pytest.mark.parametrize(("channels", "given"), [(1, 3), (5, 1), (5, 3), (3, 2)])
def test_another_number_of_channels_is_refused(channels: int, given: int) -> None:
    loss = po.PerceptualLoss(encoder(channels), content_layers=["2"])
    expected = rf"expected ({channels} channels, as the first conv.*, got {given}|shape \(N, {channels}, H, W\).* got)"
    with pytest.raises(ValueError, match=expected):
        loss(images(given), images(given))


def test_channels_that_mean_and_std_tell() -> None:
    loss = po.PerceptualLoss(encoder(5), content_layers=["2"], mean=[0.0] * 5, std=[1.0])
    with pytest.raises(
        ValueError, match=r"output: expected shape .N, 5, H, W. as mean and std have numbers; got .2, 3"
    ):
        loss(images(3), images(3))


def test_a_module_that_prepares_its_images() -> None:
    """Its first convolution, in the order of registration, does not tell what it takes."""
    unshuffled = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3))
    x, y = images(3), images(3, seed=1)
    value = po.PerceptualLoss(unshuffled, content_layers=["1"])(x, y)
    torch.testing.assert_close(value, (unshuffled(x) - unshuffled(y)).square().mean())


def test_a_module_that_does_not_say() -> None:
    """One without a convolution takes what comes; mean and std settle what a first convolution does not say."""

    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AvgPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(x)

    for channels in (1, 4):
        x, y = images(channels), images(channels, seed=1)
        value = po.PerceptualLoss(Pools(), content_layers=["pool"])(x, y)
        torch.testing.assert_close(value, nn.functional.avg_pool2d(x - y, 2).square().mean())

    class Luminance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.mean(1, keepdim=True))

    network, x, y = Luminance(), images(3), images(3, seed=1)
    value = po.PerceptualLoss(network, content_layers=["conv"], mean=[0.0] * 3, std=[1.0] * 3)(x, y)
    torch.testing.assert_close(value, (network(x) - network(y)).square().mean())


def test_numbers_that_no_network_takes() -> None:
    with pytest.raises(ValueError, match="std: expected 5 numbers, one per channel, or one for all"):
        po.PerceptualLoss(encoder(5), content_layers=["2"], mean=[0.0] * 5, std=[1.0] * 3)
    with pytest.raises(ValueError, match="mean: expected finite numbers"):
        po.PerceptualLoss(encoder(5), content_layers=["2"], mean=[])
