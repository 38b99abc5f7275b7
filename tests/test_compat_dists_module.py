"""compat.dists beside its distance: attributes, checkpoints, maps and pictures, compiled calls."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from maps import relative_error
from peers import assert_equal, exact_dists_numbers, pairs, peer, state
from test_compat_dists import both
from torch import Tensor, nn

from perceptual_ops.compat import dists

DISTS = dists.DISTS
VGG16 = state("vgg16")


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def distance(loss: nn.Module) -> Tensor:
    with torch.no_grad():
        return loss(*pairs()["batch"])


# ---- attributes ----


def test_alpha_and_beta() -> None:
    ours, theirs = both()
    for name in ("alpha", "beta"):
        assert_equal(getattr(ours, name), getattr(theirs, name).detach())
    assert_equal(ours.mean, theirs.mean)
    assert_equal(ours.std, theirs.std)
    assert ours.chns == theirs.chns
    assert not list(ours.parameters())
    assert not ours.state_dict()


def test_alpha_and_beta_that_are_set_count_from_the_next_call_on() -> None:
    ours, theirs = both()
    ours(*pairs()["batch"])
    for name in ("alpha", "beta"):
        numbers = torch.rand((1, 1475, 1, 1), generator=torch.Generator().manual_seed(9))
        setattr(ours, name, numbers)
        getattr(theirs, name).data = numbers
        close(distance(ours), distance(theirs))
    ours.alpha = numbers.flatten()
    assert_equal(ours.alpha, numbers)


def test_what_cannot_be_set() -> None:
    ours = both()[0]
    before = distance(ours), ours.alpha.clone()
    with pytest.raises(ValueError, match=r"^alpha: expected no requires_grad, since no gradient flows to it"):
        ours.alpha = nn.Parameter(torch.ones(1, 1475, 1, 1))
    with pytest.raises(TypeError, match=r"^beta: expected a tensor \(1, 1475, 1, 1\), got NoneType"):
        ours.beta = None
    with pytest.raises(ValueError, match=r"what was set as beta: expected a float tensor of shape \(1, 1475, 1, 1\)"):
        ours.beta = torch.ones(3)
    with pytest.raises(ValueError, match="what was set as alpha: expected alpha and beta of a sum above 0"):
        ours.alpha = torch.full((1475,), -1.0)
    for name in ("mean", "std", "chns"):
        with pytest.raises(AttributeError, match=f"^{name}: fixed when the DISTS is made"):
            setattr(ours, name, torch.zeros(1, 3, 1, 1))
    for act in (lambda: ours.stage1, lambda: setattr(ours, "stage5", nn.Identity())):
        with pytest.raises(AttributeError, match=r"DISTS\.stage\d: not here; the network is run by forward_once"):
            act()
    ours.alpha.zero_()  # a copy
    assert_equal((distance(ours), ours.alpha), before)
    assert not ours.state_dict()


def test_settings_of_ours() -> None:
    loss = DISTS(weights=VGG16)
    loss.chunk_size, loss.engine, loss.backend = 1, "autograd", "reference"
    expected = DISTS(weights=VGG16, chunk_size=1, engine="autograd", backend="reference")
    assert_equal(distance(loss), distance(expected))
    assert (loss.chunk_size, loss.engine, loss.backend) == (1, "autograd", "reference")
    with pytest.raises(
        ValueError, match=r"compute_dtype: expected None, torch.float32, float16 or bfloat16, got 'bf16'"
    ):
        loss.compute_dtype = "bf16"


# ---- maps and pictures ----


def test_maps() -> None:
    ours, theirs = both()
    for x in (pairs()["batch"][0], pairs()["batch"][0][:, :1]):
        x = x.clone().requires_grad_()
        maps, expected = ours.forward_once(x), theirs.forward_once(x)
        assert maps[0] is x
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
        assert maps[-1].requires_grad
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, H, W\)"):
        ours.forward_once(x[0])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
@pytest.mark.parametrize("size", [(300, 401), (401, 300), (300, 300), (200, 300)], ids=str)
def test_pictures(mode: str, size: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    np = pytest.importorskip("numpy")
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = image.fromarray(pixels).convert(mode)
    theirs = peer("DISTS_pytorch.DISTS_pt").prepare_image
    for resize in (False, True):
        assert_equal(dists.prepare_image(picture, resize), theirs(picture, resize))


@pytest.mark.parametrize("mode", ["P", "I", "F", "I;16"])
def test_pictures_of_other_modes_are_refused(mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    with pytest.raises(ValueError, match=rf"expected 8 bits a channel, as in mode 'RGB', got mode '{mode}'; pass"):
        dists.prepare_image(image.new(mode, (4, 4)))


# ---- checkpoints ----


class Model(nn.Module):
    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.generator = nn.Conv2d(3, 3, 3)
        self.criterion = criterion


def test_a_state_dict_of_dists_is_taken() -> None:
    _, theirs = both()
    theirs.beta.data += 0.001
    for dtype in (torch.float32, torch.float64):
        ours = DISTS(weights="random").to(dtype)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(
            ours(*(image.to(dtype) for image in pairs()["batch"])), distance(theirs).to(dtype), rtol=1e-5, atol=1e-6
        )
    ours = DISTS(weights=VGG16)
    ours.load_state_dict({"alpha": theirs.alpha, "beta": theirs.beta}, strict=False)
    close(distance(ours), distance(theirs))


def test_a_checkpoint_of_before_loads_strictly(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = both()
    before, after = Model(theirs), Model(ours)
    value = distance(ours)
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "perceptual_ops"):
        warnings.simplefilter("error")
        after.load_state_dict({key: value.bfloat16() for key, value in before.state_dict().items()})
    assert_equal(distance(ours), value)
    assert [record.message for record in caplog.records] == ["criterion: the loss has all that the checkpoint holds"]


def test_a_loss_that_was_trained_goes_on_as_it_was() -> None:
    ours, theirs = both()
    theirs.alpha.data += 0.001
    before, after = Model(theirs), Model(ours)
    with pytest.warns(UserWarning, match="^criterion: the loss takes its alpha and beta from the checkpoint"):
        after.load_state_dict(before.state_dict())
    close(distance(ours), distance(theirs))
    theirs.mean.zero_()
    with pytest.raises(RuntimeError, match=r"criterion: expected mean to be \(0.485, .*, got \[0.0, 0.0, 0.0\]"):
        after.load_state_dict(before.state_dict())


def test_what_is_refused_is_not_taken_in_part() -> None:
    ours, theirs = both()
    theirs.alpha.data += 0.001
    state_dict = theirs.state_dict()
    state_dict["stage1.0.weight"] = torch.full_like(state_dict["stage1.0.weight"], torch.nan)
    before = distance(ours), ours.alpha
    with pytest.raises(RuntimeError, match=r"stage1.0.weight' .*: expected finite numbers, .*; use weights without"):
        ours.load_state_dict(state_dict)
    assert_equal((distance(ours), ours.alpha), before)


@pytest.mark.parametrize("where", ["loss", "checkpoint"])
def test_on_the_meta_device(where: str) -> None:
    ours, theirs = both()
    (ours if where == "loss" else theirs).to("meta")
    with pytest.warns(UserWarning, match="^criterion: nothing is taken of it, for the .* is on the meta device"):
        Model(ours).load_state_dict(Model(theirs).state_dict())


# ---- compiled, and made under inference mode ----

WAYS: dict[str, tuple[dict[str, Any], Callable[[DISTS, Tensor, Tensor], Tensor]]] = {
    "gradient": ({}, lambda loss, x, y: loss(x, y, require_grad=True)),
    "average": ({}, lambda loss, x, y: loss(x, y, True, True)),
    "one pair": ({}, lambda loss, x, y: loss(x[:1], y[:1], True)),
    "autograd": ({"engine": "autograd"}, lambda loss, x, y: loss(x, y, True)),
    "maps": ({}, lambda loss, x, y: sum(one.mean() for one in loss.forward_once(x))),
}


def value_and_gradient(step: Callable[..., Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = step(x, y)
    value.sum().backward()
    assert x.grad is not None
    return value, x.grad


@pytest.mark.parametrize("way", WAYS)
def test_compiled(way: str) -> None:
    settings, call = WAYS[way]
    loss = DISTS(weights=VGG16, alpha_beta=exact_dists_numbers(), **settings)
    torch._dynamo.reset()
    backend = "aot_eager" if way in ("gradient", "autograd") else "eager"  # one for each kind of operators
    compiled = torch.compile(lambda x, y: call(loss, x, y), fullgraph=True, backend=backend)
    value, gradient = value_and_gradient(compiled, *pairs()["batch"])
    expected, its_gradient = value_and_gradient(lambda x, y: call(loss, x, y), *pairs()["batch"])
    close(value, expected)
    assert relative_error(gradient, its_gradient) < 1e-4


def test_compiled_without_gradient_and_after_setting() -> None:
    loss = DISTS(weights=VGG16)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    x, y = pairs()["batch"]
    x = x.clone().requires_grad_()
    value = compiled(x, y)
    assert not value.requires_grad
    close(value, distance(loss))
    loss.alpha = torch.ones(1475)
    close(compiled(x, y), distance(loss))
    assert not torch.allclose(compiled(x, y), value, rtol=1e-3)


@pytest.mark.parametrize("way", ["gradient", "autograd"])
def test_made_under_inference_mode(way: str) -> None:
    settings, call = WAYS[way]
    with torch.inference_mode():
        lazy = DISTS(weights=VGG16, **settings)
        call(lazy, *pairs()["batch"])
        lazy.beta = torch.ones(1475)
    loss = DISTS(weights=VGG16, **settings)
    loss.beta = torch.ones(1475)
    found, expected = (
        value_and_gradient(lambda x, y, one=one: call(one, x, y), *pairs()["batch"]) for one in (lazy, loss)
    )
    close(found, expected)
