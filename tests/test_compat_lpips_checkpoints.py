"""State dicts of lpips' LPIPS, alone and within a model's, loaded into compat.lpips' and compat.taming's."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from peers import assert_equal, features, pairs, state
from test_compat_lpips import in_range, their_loss
from torch import Tensor, nn

from perceptual_ops.compat import taming
from perceptual_ops.compat.lpips import LPIPS
from perceptual_ops.networks import load_network

NETWORKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class Model(nn.Module):
    """A generator and its loss, as people checkpoint them together."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.generator = nn.Conv2d(3, 3, 3)


def trained(net: str = "alex") -> nn.Module:
    """lpips' loss after a training that nobody kept from its linear weights."""
    theirs = their_loss(features(NETWORKS[net]), net)
    with torch.no_grad():
        for index, lin in enumerate(theirs.lins):
            lin.model[-1].weight += 0.1 + 0.01 * index
    return theirs


def distance(loss: nn.Module) -> Tensor:
    with torch.no_grad():
        return loss(*in_range(*pairs()["batch"]))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("net", NETWORKS)
def test_a_state_dict_of_lpips_is_taken(net: str) -> None:
    theirs, ours = trained(net), LPIPS(net=net, weights="random")
    found = ours.load_state_dict(theirs.state_dict())
    assert not found.missing_keys
    assert not found.unexpected_keys
    close(distance(ours), distance(theirs))
    close(distance(copy.deepcopy(ours)), distance(theirs))
    assert not ours.state_dict()


def test_linear_weights_alone_are_taken() -> None:
    theirs, ours = trained(), LPIPS(weights=state("alexnet"))
    before = distance(ours)
    linear = {key: value for key, value in theirs.state_dict().items() if key.startswith("lin")}
    ours.load_state_dict(linear, strict=False)
    close(distance(ours), distance(theirs))
    assert not torch.allclose(distance(ours), before, rtol=0.1)


def test_a_compiled_loss_takes_them_too() -> None:
    theirs, ours = trained(), LPIPS(weights="random")
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    distance(compiled)
    ours.load_state_dict(theirs.state_dict())
    close(distance(compiled), distance(theirs))


def test_a_checkpoint_of_before_loads_strictly(caplog: pytest.LogCaptureFixture) -> None:
    """One whose loss was not trained: nothing changes, and a debug line alone says that it was there."""
    before = Model(their_loss(features("alexnet")))
    after = Model(LPIPS(weights=state("alexnet")))
    value = distance(after.criterion)
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "perceptual_ops"):
        warnings.simplefilter("error")
        after.load_state_dict({key: value.half() for key, value in before.state_dict().items()})
    assert_equal(distance(after.criterion), value)
    torch.testing.assert_close(after.generator.weight, before.generator.weight.half().float())
    assert [record.message for record in caplog.records] == ["criterion: the loss has all that the checkpoint holds"]


@pytest.mark.parametrize("make", [LPIPS, taming.LPIPS], ids=["lpips", "taming"])
def test_a_loss_that_was_trained_goes_on_as_it_was(make: Callable[..., nn.Module]) -> None:
    net = "alex" if make is LPIPS else "vgg"
    before = Model(trained(net))
    after = Model(make(weights=state(NETWORKS[net])))
    with pytest.warns(UserWarning, match="^criterion: the loss takes its linear weights from the checkpoint"):
        after.load_state_dict(before.state_dict())
    close(distance(after.criterion), distance(before.criterion))
    remedy = Model(make(weights=state(NETWORKS[net]), linear=before.criterion.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remedy.load_state_dict(before.state_dict())


def test_another_network_is_taken() -> None:
    before, after = Model(their_loss(features("alexnet"))), Model(LPIPS(weights="random"))
    with pytest.warns(UserWarning, match="the loss takes its network from the checkpoint"):
        after.load_state_dict(before.state_dict())
    close(distance(after.criterion), distance(before.criterion))


def test_under_inference_mode_and_in_other_dtypes() -> None:
    theirs, ours = trained(), LPIPS(weights="random").double()
    with torch.inference_mode():
        ours.load_state_dict(theirs.state_dict())
    x, y = (image.double() for image in in_range(*pairs()["batch"]))
    x.requires_grad_()
    value = ours(x, y)
    value.sum().backward()
    torch.testing.assert_close(value, theirs.double()(x, y), rtol=1e-6, atol=0)


def test_what_is_refused() -> None:
    theirs = their_loss(features("alexnet")).state_dict()
    model = Model(LPIPS(net="vgg", weights=state("vgg16")))
    rest = {key: value for key, value in model.state_dict().items() if key.startswith("generator")}
    whole = {f"criterion.{key}": value for key, value in theirs.items()} | rest
    with pytest.raises(RuntimeError, match=r"'lin1.model.1.weight' in criterion: expected a float tensor of shape"):
        model.load_state_dict(whole)
    network = {key: value for key, value in whole.items() if ".lin" not in key}
    with pytest.raises(RuntimeError, match="criterion: expected weights of vgg16, whose convolutions are numbered"):
        model.load_state_dict(network)
    model = Model(LPIPS(weights=state("alexnet")))
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"criterion.lin0.scale\""):
        model.load_state_dict(whole | {"criterion.lin0.scale": torch.ones(1)})
    whole["criterion.scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    with pytest.raises(RuntimeError, match=r"criterion: expected scaling_layer.shift to be \(-0.03, .*, got \[0.0, 0"):
        model.load_state_dict(whole)
    with pytest.raises(RuntimeError, match="the state dict: expected no linear weights for a loss made with lpips=F"):
        LPIPS(weights=state("alexnet"), lpips=False).load_state_dict(theirs)


def test_what_is_refused_is_not_taken_in_part() -> None:
    state_dict = trained().state_dict()
    state_dict["net.slice1.0.weight"] = torch.full_like(state_dict["net.slice1.0.weight"], torch.nan)
    loss = LPIPS(weights=state("alexnet"))
    before = distance(loss)
    with pytest.raises(RuntimeError, match=r"net.slice1.0.weight' .* in the state dict: expected finite numbers"):
        loss.load_state_dict(state_dict)
    assert_equal(distance(loss), before)


@pytest.mark.parametrize("where", ["loss", "checkpoint"])
def test_on_the_meta_device(where: str) -> None:
    state_dict, loss = trained().state_dict(), Model(LPIPS(weights=state("alexnet"))).criterion
    if where == "loss":
        loss.to("meta")
    else:
        state_dict = {key: value.to("meta") for key, value in state_dict.items()}
    with pytest.warns(UserWarning, match="^the state dict: nothing is taken of it, for the .* is on the meta device"):
        loss.load_state_dict(state_dict)


def test_a_network_with_blur_is_not_that_of_lpips() -> None:
    pytest.importorskip("stlpips_pytorch", exc_type=ImportError)
    loss, theirs = LPIPS(weights="stlpips"), trained().state_dict()
    with pytest.raises(RuntimeError, match='got a loss of weights="stlpips"; make the loss without'):
        loss.load_state_dict(theirs)
    loss.load_state_dict({key: value for key, value in theirs.items() if key.startswith("lin")})


def test_the_state_of_an_optimizer() -> None:
    """What the docstring of `perceptual_ops.compat` says of it."""
    before = Model(their_loss(features("alexnet")))
    optimizer = torch.optim.Adam(before.parameters())
    before.generator(pairs()["batch"][0]).sum().backward()
    optimizer.step()
    after = Model(LPIPS(weights=state("alexnet")))
    resumed = torch.optim.Adam(after.parameters())
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        resumed.load_state_dict(saved)
    count = len(list(before.criterion.parameters()))
    first = 0  # the loss stands first
    del saved["param_groups"][0]["params"][first : first + count]
    resumed.load_state_dict(saved)
    for new, old in zip(after.generator.parameters(), before.generator.parameters(), strict=True):
        assert_equal(resumed.state[new]["exp_avg"], optimizer.state[old]["exp_avg"])


def test_every_convolution_is_taken() -> None:
    loss = LPIPS(weights="random")
    loss.load_state_dict(their_loss(features("alexnet")).state_dict())
    expected = load_network("alexnet", state("alexnet"), layers=loss._loss.layers).state_dict()
    for key, value in loss._loss._network.state_dict().items():
        assert value.equal(expected[key]), key
