"""PerceptualLoss: its numbers against the formulas written out, its targets, terms and networks."""

from __future__ import annotations

import pytest
import torch
from perceptual import CONTENT, STYLE, features, images, make
from torch import Tensor, nn

import perceptual_ops as po


def by_hand(x: Tensor, target: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content, style and total variation of each sample, written out."""
    content = sum(
        weight * ((f - g) ** 2).mean((1, 2, 3))
        for weight, f, g in zip(
            CONTENT.values(), features(x, list(CONTENT)), features(target, list(CONTENT)), strict=True
        )
    )

    def gram(f: Tensor) -> Tensor:
        flat = f.flatten(2)
        return flat @ flat.transpose(1, 2) / f[0].numel()

    painted = sum(
        weight * ((gram(f) - gram(g)) ** 2).mean((1, 2))
        for weight, f, g in zip(STYLE.values(), features(x, list(STYLE)), features(style, list(STYLE)), strict=True)
    )
    variation = ((x[..., 1:] - x[..., :-1]) ** 2).sum((1, 2, 3)) + ((x[..., 1:, :] - x[..., :-1, :]) ** 2).sum(
        (1, 2, 3)
    )
    return content, painted, variation


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("input_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_value_gradient_and_terms(reduction: str, input_range: tuple[float, float], backend: str, device: str) -> None:
    low, high = input_range
    criterion = make(
        backend, device, content_weight=2.0, style_weight=30.0, tv_weight=0.01, reduction=reduction,
        input_range=input_range,
    )  # fmt: skip
    x, target, style = images(3, device=device), images(3, seed=1, device=device), images(1, 30, seed=2, device=device)
    x.requires_grad_()
    scaled = [value.detach() * (high - low) + low for value in (x, target, style)]
    scaled[0].requires_grad_()

    content, painted, variation = by_hand(x, target, style)
    reduce = {"mean": Tensor.mean, "sum": Tensor.sum, "none": lambda value: value}[reduction]
    expected = reduce(2.0 * content + 30.0 * painted + 0.01 * variation)
    loss, terms = criterion(*scaled, return_terms=True)

    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    (ours,) = torch.autograd.grad(loss.sum(), scaled[0])
    torch.testing.assert_close(ours * (high - low), gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())

    torch.testing.assert_close(terms["content"], reduce(2.0 * content).detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(terms["style"], reduce(30.0 * painted).detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(terms["tv"], reduce(0.01 * variation).detach(), rtol=1e-4, atol=1e-7)
    assert list(terms) == [
        "content", "content/pool1", "content/conv2_1", "style", "style/relu1_1", "style/relu2_1", "tv",
    ]  # fmt: skip
    whole = 2.0 * sum(weight * terms[f"content/{layer}"] for layer, weight in CONTENT.items())
    torch.testing.assert_close(whole, terms["content"])
    assert not any(value.requires_grad for value in terms.values())
    assert all(value.shape == loss.shape for value in terms.values())


def test_kept_targets_equal_given_ones(backend: str, device: str) -> None:
    criterion = make(backend, device)
    x, target, style = images(2, device=device), images(2, seed=1, device=device), images(1, 30, seed=2, device=device)
    expected = criterion(x, target, style)
    criterion.set_content(target)
    criterion.set_style(style)
    torch.testing.assert_close(criterion(x), expected)
    other = images(2, seed=7, device=device)
    assert not torch.equal(criterion(x, other), expected)  # a target in the call wins
    torch.testing.assert_close(criterion(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kept_targets_are_fp32_under_autocast(dtype: torch.dtype, device: str) -> None:
    criterion, plain = make(device=device), make(device=device)
    for one in (criterion, plain):
        with torch.autocast(device, dtype=dtype, enabled=one is criterion):
            one.set_content(images(1, seed=1, device=device))
            one.set_style(images(1, seed=2, device=device))
    kept = [
        (a, b) for name in ("content", "style") for a, b in zip(criterion._kept[name], plain._kept[name], strict=True)
    ]
    assert len(kept) == 4
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in kept)


def test_one_target_serves_the_batch(backend: str, device: str) -> None:
    criterion = make(backend, device, reduction="none")
    x, target, style = images(3, device=device), images(1, seed=1, device=device), images(1, 30, seed=2, device=device)
    torch.testing.assert_close(criterion(x, target, style), criterion(x, target.expand(3, -1, -1, -1), style))


def test_one_style_each(backend: str, device: str) -> None:
    criterion = make(backend, device, content_layers=None, reduction="none")
    x, styles = images(3, device=device), images(3, 30, seed=2, device=device)
    expected = torch.cat([criterion(x[i : i + 1], style=styles[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(criterion(x, style=styles), expected)
    criterion.set_style(styles)
    torch.testing.assert_close(criterion(x), expected)


def test_blended_styles_have_the_weighted_mean_gram(device: str) -> None:
    criterion = make(device=device, content_layers=None)
    a, b = images(1, 30, seed=2, device=device), images(1, 20, seed=3, device=device)
    criterion.set_style([a, b], weights=[3, 1])
    for layer, blended in zip(STYLE, criterion._kept["style"], strict=True):
        grams = [po.gram_matrix(features(style, [layer])[0]) for style in (a, b)]
        torch.testing.assert_close(blended, 0.75 * grams[0] + 0.25 * grams[1], rtol=1e-4, atol=1e-7)
    criterion.set_style([a, b])
    halves = criterion._kept["style"][0]
    torch.testing.assert_close(criterion(images(1, device=device), style=[a, b]), criterion(images(1, device=device)))
    assert not torch.equal(halves, blended)


def test_gradient_flows_to_a_target_that_asks(backend: str, device: str) -> None:
    criterion = make(backend, device, style_layers=None)
    x, target = images(2, device=device), images(2, seed=1, device=device).requires_grad_()
    (gradient,) = torch.autograd.grad(criterion(x, target), target)
    (mirrored,) = torch.autograd.grad(criterion(target, x), target)
    torch.testing.assert_close(gradient, mirrored)


def test_chunks_change_nothing_but_rounding(backend: str, device: str) -> None:
    x, target = images(5, device=device), images(5, seed=1, device=device)
    style = images(5, 20, seed=2, device=device)
    results = []
    for chunk_size in (None, 1, 2, 5, 9):
        leaf = x.clone().requires_grad_()
        loss = make(backend, device, chunk_size=chunk_size, reduction="none", tv_weight=0.1)(leaf, target, style)
        results.append((loss.detach(), *torch.autograd.grad(loss.sum(), leaf)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-6)


def test_grey_is_repeated(backend: str, device: str) -> None:
    criterion = make(backend, device, tv_weight=0.1)
    x, target, style = (images(2, seed=i, device=device)[:, :1] for i in range(3))
    grey, colour = x.clone().requires_grad_(), x.repeat(1, 3, 1, 1).requires_grad_()
    loss = criterion(grey, target, style)
    torch.testing.assert_close(loss, criterion(colour, target, style))
    (gradient,) = torch.autograd.grad(loss, grey)
    assert gradient.shape == grey.shape


def test_empty_batch(backend: str, device: str) -> None:
    criterion = make(backend, device, tv_weight=0.1)
    x = images(0, device=device).requires_grad_()
    loss = criterion(x, images(0, device=device), images(1, device=device))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, x)[0].shape == x.shape


def test_same_bits_every_time_and_nothing_written(device: str) -> None:
    criterion = make(device=device, tv_weight=0.1)
    x, target, style = images(2, device=device), images(2, seed=1, device=device), images(1, seed=2, device=device)
    copies = [value.clone() for value in (x, target, style)]
    x.requires_grad_()
    runs = []
    for _ in range(3):
        loss = criterion(x, target, style)
        runs.append((loss.detach(), *torch.autograd.grad(loss, x)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, target, style), copies, strict=True))


@pytest.mark.parametrize("distance", ["mse", "l1", "charbonnier", "huber", "sse"])
def test_distances_reach_the_operators(distance: str, backend: str) -> None:
    criterion = make(backend, content_distance=distance, style_distance=distance, gram_normalize="hw")
    x, target, style = images(2), images(2, seed=1), images(1, seed=2)
    content = po.reference.feature_loss(
        features(x, list(CONTENT)), features(target, list(CONTENT)), list(CONTENT.values()), distance
    )
    grams = [po.reference.gram_matrix(f, "hw") for f in features(style, list(STYLE))]
    painted = po.reference.style_loss(features(x, list(STYLE)), grams, list(STYLE.values()), "hw", distance)
    torch.testing.assert_close(criterion(x, target, style), content + painted, rtol=1e-4, atol=1e-5)


# ---- networks of the user's own ----


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


def test_any_module_as_the_network(backend: str) -> None:
    encoder = Encoder()
    encoder.stem[1].running_mean.add_(0.3)
    criterion = po.PerceptualLoss(encoder, content_layers={"stem.0": 1.0, "head": 2.0}, backend=backend)
    x, target = images(2).requires_grad_(), images(2, seed=1)
    frozen = Encoder().eval()
    frozen.load_state_dict(encoder.state_dict())
    expected = ((frozen.stem[0](x) - frozen.stem[0](target)) ** 2).mean((1, 2, 3))
    expected = expected + 2 * ((frozen(x) - frozen(target)) ** 2).mean((1, 2, 3))
    loss = criterion(x, target)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected.mean(), x))
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_layers_of_different_dtypes_under_autocast(backend: str) -> None:
    """A normalisation or an identity stays fp32 where convolutions are bf16: their maps meet in fp32."""
    trunk = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3))
    criterion = po.PerceptualLoss(trunk, content_layers=["0", "1"], backend=backend)
    x, target = images(2), images(2, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(x, target)
    torch.testing.assert_close(loss, criterion(x, target), rtol=0.02, atol=0)


def test_a_network_must_keep_the_batch() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"map": torch.cat([x, x])}

    with pytest.raises(ValueError, match="layer 'map': expected features of each of the 2 images, got 4"):
        po.PerceptualLoss(Doubling(), content_layers=["map"])(images(2), images(2))


def test_weights_beside_a_module_are_refused() -> None:
    with pytest.raises(ValueError, match="weights: expected none beside a network that is a module"):
        po.PerceptualLoss(Encoder(), weights="random", content_layers=["head"])


def test_mean_and_std_of_any_kind() -> None:
    plain = make(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    tensors = make(mean=torch.tensor([0.4, 0.5, 0.6]), std=torch.tensor([0.2, 0.3, 0.4]))
    x, target, style = images(1), images(1, seed=1), images(1, seed=2)
    torch.testing.assert_close(tensors(x, target, style), plain(x, target, style))


def test_eps_and_delta_reach_the_operators() -> None:
    x, target = images(2), images(2, seed=1)
    for distance, setting in (("charbonnier", {"eps": 0.5}), ("huber", {"delta": 0.01})):
        expected = po.reference.feature_loss(
            features(x, list(CONTENT)), features(target, list(CONTENT)), list(CONTENT.values()), distance, **setting
        )
        found = make(style_layers=None, content_distance=distance, **setting)(x, target)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_loaded_network_is_copied() -> None:
    network = po.load_network("vgg11", "random", layers=["relu1_1"])
    criterion = po.PerceptualLoss(network, content_layers=["relu1_1"]).to(torch.bfloat16)
    assert network.dtype == torch.float32
    assert criterion._network.dtype == torch.bfloat16
