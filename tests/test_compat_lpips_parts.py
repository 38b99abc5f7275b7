"""compat.lpips beside its distance: attributes set later, the parts of lpips, single images, compiled calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from maps import relative_error
from peers import assert_equal, pairs, state
from test_compat_lpips import both, in_range
from torch import Tensor, nn

from perceptual_ops.compat import lpips

LPIPS = lpips.LPIPS
ALEX = state("alexnet")


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# ---- attributes ----


@pytest.mark.parametrize("spatial", [True, False])
def test_spatial_is_read_at_each_call(spatial: bool) -> None:
    pair = in_range(*pairs()["batch"])
    loss = LPIPS(spatial=not spatial, weights=ALEX)
    loss(*pair)
    loss.spatial = spatial
    assert_equal(loss(*pair, retPerLayer=True), LPIPS(spatial=spatial, weights=ALEX)(*pair, retPerLayer=True))
    assert loss.spatial is spatial


def test_attributes_are_those_of_lpips() -> None:
    for settings in ({}, {"net": "squeeze"}, {"version": "0.0"}, {"lpips": False}):
        ours, theirs = both(**settings)
        for name in ("chns", "L", "lpips", "version", "spatial", "pnet_type", "pnet_rand", "pnet_tune"):
            assert getattr(ours, name) == getattr(theirs, name), name


FIXED = ("chns", "L", "lpips", "version", "pnet_type", "pnet_rand", "pnet_tune", "lins", "lin0", "lin4")


@pytest.mark.parametrize("name", [*FIXED, "net", "scaling_layer"])
def test_what_is_fixed_cannot_be_set(name: str) -> None:
    loss = LPIPS(weights=ALEX)
    for value in (1, nn.Sequential(nn.Identity()), nn.Parameter(torch.ones(1))):
        with pytest.raises(AttributeError, match=rf"^{name}: fixed when the LPIPS is made, got .* later; make another"):
            setattr(loss, name, value)
    assert not loss.state_dict()


def test_settings_of_ours() -> None:
    pair = in_range(*pairs()["batch"])
    loss = LPIPS(weights=ALEX)
    loss.chunk_size, loss.engine, loss.backend, loss.compute_dtype = 1, "autograd", "reference", torch.bfloat16
    settings: dict[str, Any] = {"engine": "autograd", "backend": "reference", "compute_dtype": torch.bfloat16}
    assert_equal(loss(*pair), LPIPS(weights=ALEX, chunk_size=1, **settings)(*pair))
    assert not torch.equal(loss(*pair), LPIPS(weights=ALEX)(*pair))


# ---- parts ----


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_parts(net: str) -> None:
    ours, theirs = both(net)
    x = in_range(*pairs()["batch"])[0].clone().requires_grad_()
    scaled, expected = (loss.scaling_layer(x) for loss in (ours, theirs))
    close(scaled, expected)
    maps, their_maps = ours.net(scaled), theirs.net(expected)
    assert maps._fields == their_maps._fields
    close(list(maps), list(their_maps))
    assert maps[-1].requires_grad
    assert ours.net.N_slices == theirs.net.N_slices
    for i, (lin, other) in enumerate(zip(ours.lins, theirs.lins, strict=True)):
        squares = maps[i].square()
        close(lin(squares), other(squares))
        close(getattr(ours, f"lin{i}").model[-1].weight, other.model[-1].weight.detach())
    assert hasattr(ours, "lin5") == hasattr(theirs, "lin5") == (net == "squeeze")
    assert not any(weight.requires_grad for weight in ours.lins.parameters())
    assert not list(ours.net.parameters())
    assert not list(ours.parameters())


def test_parts_follow_the_loss() -> None:
    loss = LPIPS(weights=ALEX).double()
    x = in_range(*pairs()["photograph"])[0].double()
    maps = loss.net(loss.scaling_layer(x))
    assert loss.lins[0](maps[0]).dtype == torch.float64


class Masked(LPIPS):
    """A forward of one's own, as people write it over lpips: the distance within a mask."""

    def forward(self, in0: Tensor, in1: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        total: Any = 0
        outs = [self.net.forward(self.scaling_layer(x)) for x in (in0, in1)]
        for k in range(self.L):
            a, b = (lpips.normalize_tensor(maps[k]) for maps in outs)
            total = total + lpips.upsample(self.lins[k]((a - b) ** 2), out_HW=in0.shape[2:])
        return (total * mask).sum((1, 2, 3)) / mask.sum()


def test_a_forward_of_ones_own() -> None:
    x, y = in_range(*pairs()["batch"])
    x = x.clone().requires_grad_()
    mask = torch.ones_like(x[:1, :1])
    value = Masked(weights=ALEX)(x, y, mask)
    close(value, LPIPS(spatial=True, weights=ALEX)(x, y).mean((1, 2, 3)))
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


# ---- single images ----


@pytest.mark.parametrize("shape", [(3, 36, 40), (1, 36, 40), (36, 40)], ids=str)
def test_one_image_without_an_axis_for_the_batch(shape: tuple[int, ...]) -> None:
    ours, theirs = both()
    x, y = (image[0, : shape[0]].reshape(shape) if len(shape) == 3 else image[0, 0] for image in pairs()["batch"])
    close(ours(x, y), theirs(x, y))
    close(ours(x, y, normalize=True, retPerLayer=True), theirs(x, y, normalize=True, retPerLayer=True))
    many = pairs()["batch"][0]
    close(ours(x, many), theirs(x, many))
    close(ours(many, x), theirs(many, x))
    ours.spatial = True
    assert ours(x, y).shape == (1, 1, 36, 40)  # which lpips cannot give


def test_images_are_called_as_the_caller_does() -> None:
    loss, x = LPIPS(weights=ALEX), pairs()["batch"][0]
    with pytest.raises(ValueError, match=r"^in1: expected shape \(N, 3, H, W\)"):
        loss(x, x[None])
    with pytest.raises(TypeError, match=r"^in0: expected a tensor of images"):
        loss(None, x)
    with pytest.raises(ValueError, match=r"^in1: expected the batch and size of in0"):
        loss(x, x[..., 1:])


# ---- compiled, and made under inference mode ----

WAYS: dict[str, tuple[dict[str, Any], Callable[[LPIPS, Tensor, Tensor], Any]]] = {
    "plain": ({}, lambda loss, x, y: loss(x, y)),
    "normalize": ({}, lambda loss, x, y: loss(x, y, normalize=True)),
    "layers": ({}, lambda loss, x, y: loss(x, y, retPerLayer=True)[1]),
    "spatial": ({"spatial": True}, lambda loss, x, y: loss(x, y)),
    "spatial layers": ({"spatial": True}, lambda loss, x, y: loss(x, y, True, True)[1]),
    "one image": ({}, lambda loss, x, y: loss(x[0], y)),
    "baseline": ({"lpips": False, "version": "0.0"}, lambda loss, x, y: loss(x, y)),
    "autograd": ({"engine": "autograd"}, lambda loss, x, y: loss(x, y)),
    "squeeze": ({"net": "squeeze", "weights": state("squeezenet1_1")}, lambda loss, x, y: loss(x, y)),
}


def value_and_gradient(step: Callable[..., Any], x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
    x = x.clone().requires_grad_()
    value = step(x, y)
    sum(part.sum() for part in (value if isinstance(value, list) else [value])).backward()
    assert x.grad is not None
    return value, x.grad


@pytest.mark.parametrize("way", WAYS)
def test_compiled(way: str) -> None:
    settings, call = WAYS[way]
    loss = LPIPS(**{"weights": ALEX, **settings})
    pair = in_range(*pairs()["batch"])
    torch._dynamo.reset()
    backend = "aot_eager" if way in ("plain", "autograd") else "eager"  # one for each kind of operators
    compiled = torch.compile(lambda x, y: call(loss, x, y), fullgraph=True, backend=backend)
    value, gradient = value_and_gradient(compiled, *pair)
    expected, its_gradient = value_and_gradient(lambda x, y: call(loss, x, y), *pair)
    close(value, expected)
    assert relative_error(gradient, its_gradient) < 1e-4


def test_what_was_set_after_compiling_counts() -> None:
    loss, (x, y) = LPIPS(weights=ALEX), in_range(*pairs()["batch"])
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    compiled(x, y)
    loss.spatial = True
    close(compiled(x, y), LPIPS(weights=ALEX, spatial=True)(x, y))


@pytest.mark.parametrize("way", WAYS)
def test_made_under_inference_mode(way: str) -> None:
    settings, call = WAYS[way]
    pair = in_range(*pairs()["batch"])
    with torch.inference_mode():
        lazy = LPIPS(**{"weights": ALEX, **settings})
        call(lazy, *pair)
    loss = LPIPS(**{"weights": ALEX, **settings})
    found, expected = (value_and_gradient(lambda x, y, one=one: call(one, x, y), *pair) for one in (lazy, loss))
    close(found, expected)
