"""LPIPS as taming-transformers, lpips_pytorch and piqa have it, on the numbers of the package lpips.

None of the three is installed for tests. They are lpips' own formula and weights: taming's by VGG16, lpips_pytorch's
summed over the batch, piqa's for images in [0, 1] and reduced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from maps import relative_error
from peers import assert_equal, assert_frozen, difference, features, hub_cache, pairs, state
from test_compat_lpips import TRUNKS, in_range, set_input_map, their_loss
from torch import Tensor, nn

from perceptual_ops.compat import _kept, lpips_pytorch, piqa, taming
from perceptual_ops.compat.dists import DISTS
from perceptual_ops.compat.lpips import LPIPS
from perceptual_ops.losses.options import DEFAULTS

ALEX, VGG16 = state("alexnet"), state("vgg16")
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "taming": lambda: taming.LPIPS(weights=VGG16),
    "lpips_pytorch": lambda: lpips_pytorch.LPIPS(weights=ALEX),
    "piqa": lambda: piqa.LPIPS(weights=ALEX),
}


# ---- numbers ----


def test_taming_is_lpips_by_vgg16() -> None:
    theirs = their_loss(features("vgg16"), "vgg")
    difference(taming.LPIPS(weights=VGG16), theirs, *in_range(*pairs()["batch"]), set_input_map).check()


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_lpips_pytorch_is_the_sum_of_lpips(net: str) -> None:
    theirs = their_loss(features(TRUNKS[net]), net)
    ours = lpips_pytorch.LPIPS(net_type=net, weights=state(TRUNKS[net]))

    def call(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y) if isinstance(loss, lpips_pytorch.LPIPS) else loss(x, y).sum(0, True)

    difference(ours, theirs, *in_range(*pairs()["batch"]), set_input_map, call).check()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_piqa_is_lpips_of_images_in_0_1_reduced(reduction: str) -> None:
    x, y = pairs()["batch"]
    found = piqa.LPIPS("alex", reduction=reduction, weights=ALEX)(x, y)
    each = their_loss(features("alexnet"))(x, y, normalize=True).detach().flatten()
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_weights_from_the_hub_cache(tmp_path: Any) -> None:
    pair = in_range(*pairs()["batch"])
    with hub_cache(tmp_path, alexnet="alexnet-owt-7be5be79.pth", vgg16="vgg16-397923af.pth"):
        assert_equal(taming.LPIPS()(*pair), taming.LPIPS(weights=VGG16)(*pair))
        assert_equal(lpips_pytorch.lpips(*pair), LPIPS(weights=ALEX)(*pair).sum().view(1, 1, 1, 1))
        assert_equal(piqa.LPIPS()(*pairs()["batch"]), piqa.LPIPS(weights=ALEX)(*pairs()["batch"]))
        _kept._kept.cache_clear()


# ---- the function of lpips_pytorch ----


def test_the_function_keeps_its_network() -> None:
    _kept._kept.cache_clear()
    x, y = in_range(*pairs()["batch"])
    x = x.clone().requires_grad_()
    value = lpips_pytorch.lpips(x, y, net_type="alex", weights="random")
    assert value.shape == (1, 1, 1, 1)
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    lpips_pytorch.lpips(x, y, weights="random")
    assert _kept._kept.cache_info().misses == 1
    double = lpips_pytorch.lpips(x.double(), y.double(), weights="random")
    assert double.dtype == torch.float64
    assert_equal(lpips_pytorch.lpips(x, y, weights=ALEX), lpips_pytorch.LPIPS(weights=ALEX)(x, y))
    _kept._kept.cache_clear()


# ---- settings, images, checkpoints ----


@pytest.mark.parametrize("name", MAKERS)
def test_frozen(name: str) -> None:
    assert_frozen(MAKERS[name]())


@pytest.mark.parametrize("name", [*MAKERS, "lpips", "dists"])
def test_every_argument_of_a_constructor_is_read_or_refused_when_it_is_set_later(name: str) -> None:
    others = {"lpips": lambda: LPIPS(weights=ALEX), "dists": lambda: DISTS(weights=VGG16)}
    loss = (MAKERS | others)[name]()
    for argument, parameter in inspect.signature(type(loss)).parameters.items():
        try:
            setattr(loss, argument, parameter.default)
        except AttributeError as refusal:
            assert str(refusal).startswith(f"{argument}: fixed when the {type(loss).__name__} is made")
        else:
            assert argument in ("spatial", "epsilon", "reduction", *DEFAULTS)
            assert argument not in vars(loss)


@pytest.mark.parametrize("name", [*MAKERS, "lpips", "dists"])
def test_plain_arguments_of_a_constructor_can_be_read(name: str) -> None:
    """All but those that may be large, of which no copy is kept."""
    others = {"lpips": lambda: LPIPS(weights=ALEX), "dists": lambda: DISTS(weights=VGG16)}
    loss = (MAKERS | others)[name]()
    for argument, parameter in inspect.signature(type(loss)).parameters.items():
        if argument in ("weights", "linear", "alpha_beta"):
            assert not hasattr(loss, argument)
        elif (name, argument) != ("lpips", "net"):  # the network itself, as there
            assert getattr(loss, argument) == parameter.default


def test_settings_of_piqa_are_read_at_each_call() -> None:
    x, y = pairs()["batch"]
    loss = piqa.LPIPS(weights=ALEX)
    loss.reduction, loss.epsilon = "none", 0.5
    assert_equal(loss(x, y), piqa.LPIPS(weights=ALEX, reduction="none", epsilon=0.5)(x, y))
    assert (loss.reduction, loss.epsilon) == ("none", 0.5)
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', 'none'; got 'median'"):
        loss.reduction = "median"


@pytest.mark.parametrize(
    ("name", "first", "second"), [("taming", "input", "target"), ("lpips_pytorch", "x", "y"), ("piqa", "x", "y")]
)
def test_images_are_called_as_the_caller_does(name: str, first: str, second: str) -> None:
    loss, x = MAKERS[name](), pairs()["batch"][0]
    with pytest.raises(TypeError, match=f"^{first}: expected a tensor of images"):
        loss(None, x)
    with pytest.raises(ValueError, match=f"^{second}: expected the batch and size of {first}"):
        loss(x, x[..., 1:])


def test_one_image_without_an_axis_for_the_batch() -> None:
    x, y = pairs()["batch"]
    assert_equal(taming.LPIPS(weights=VGG16)(x[0], y[0]), taming.LPIPS(weights=VGG16)(x[:1], y[:1]))
    assert_equal(lpips_pytorch.LPIPS(weights=ALEX)(x[0], y), lpips_pytorch.LPIPS(weights=ALEX)(x[:1], y))


def test_what_cannot_be_served() -> None:
    with pytest.raises(ValueError, match="net_type: expected one of 'alex', 'vgg', 'squeeze'; got 'vgg16'"):
        lpips_pytorch.LPIPS("vgg16", weights="random")
    with pytest.raises(ValueError, match=r"version: expected one of '0\.1'; got '0\.0'"):
        lpips_pytorch.LPIPS(version="0.0", weights="random")
    with pytest.raises(ValueError, match=r"version: expected one of '0\.1'; got '0\.0'"):
        lpips_pytorch.lpips(*pairs()["photograph"], version="0.0", weights="random")
    with pytest.raises(ValueError, match="network: expected one of 'alex', 'vgg', 'squeeze'; got 'resnet'"):
        piqa.LPIPS("resnet", weights="random")


# Keys of the two whose weights are frozen there, and so ours.
KEYS = {
    "lpips_pytorch": ("net.mean", "net.layers.0.weight", "net.layers.3.squeeze.bias", "lin.4.1.weight"),
    "piqa": ("normalize.shift", "net.blocks.0.0.weight", "net.blocks.1.2.squeeze.bias", "weights.4"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_checkpoint_of_before_loads_strictly(name: str) -> None:
    loss = MAKERS[name]()
    before = loss(*pairs()["batch"])
    loss.load_state_dict(dict.fromkeys(KEYS[name], torch.zeros(1)))
    assert_equal(loss(*pairs()["batch"]), before)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        loss.load_state_dict({"net.layers": torch.zeros(1)})


# ---- compiled, and made under inference mode ----


def value_and_gradient(loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, y)
    value.sum().backward()
    assert x.grad is not None
    return value, x.grad


@pytest.mark.parametrize("name", MAKERS)
def test_compiled_and_made_under_inference_mode(name: str) -> None:
    pair = pairs()["photograph"]
    with torch.inference_mode():
        lazy = MAKERS[name]()
        lazy(*pair)
    torch._dynamo.reset()
    compiled = torch.compile(lazy, fullgraph=True, backend="aot_eager")
    value, gradient = value_and_gradient(compiled, *pair)
    expected, its_gradient = value_and_gradient(MAKERS[name](), *pair)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert relative_error(gradient, its_gradient) < 1e-4


def test_the_function_compiled() -> None:
    pair = in_range(*pairs()["photograph"])
    _kept._kept.cache_clear()
    torch._dynamo.reset()

    def step(x: Tensor, y: Tensor) -> Tensor:
        return lpips_pytorch.lpips(x, y, weights="random")

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found, expected = value_and_gradient(compiled, *pair), value_and_gradient(step, *pair)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert compiled(*(image.double() for image in pair)).dtype == torch.float64
    assert compiled(*pair).dtype == torch.float32
    assert _kept._kept.cache_info().misses == 2
    _kept._kept.cache_clear()
