"""Files of models: what they hold, that opening one executes nothing, and that whatever is wrong is one sentence."""

import io
import json
import pickle
import sys
import zipfile

import pytest
import torch
from model_files import FACTS, content, refusal
from safetensors.torch import load_file
from torch import nn

from perceptual_ops.recipes import StyleNet, SuperResolutionNet, load_model, save_model


class Own(nn.Module):
    """Takes multiples of 2 pixels; with buffers that are stored, one that is not, and weights that are tied."""

    def __init__(self, gain=0.5):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 2, stride=2)
        self.tied = nn.Conv2d(3, 3, 2, stride=2)
        self.tied.weight = self.first.weight
        self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("order", torch.tensor([2, 1, 0], dtype=torch.uint16))
        self.register_buffer("gain", torch.tensor(gain), persistent=False)

    def forward(self, images):
        return self.norm(self.up(self.first(images) + self.tied(images))) * self.gain


globals()["make-own"] = Own  # as a module with a hyphen in its name can be imported too


def test_a_file_holds_weights_and_facts_and_no_more(tmp_path):
    torch.manual_seed(0)
    network, path = SuperResolutionNet(4, 5, 2).half(), tmp_path / "model.safetensors"
    save_model(path, network, "super-resolution", 4)
    assert load_file(path).keys() == network.state_dict().keys()
    model = load_model(path)
    assert type(model.network) is SuperResolutionNet and not model.network.training
    assert (model.kind, model.scale, model.multiple) == ("super-resolution", 4, 1)
    for name, value in model.network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, network.state_dict()[name].float())


def test_a_network_that_is_loaded_no_longer_needs_its_file(tmp_path):
    network, path = StyleNet(1, 0), tmp_path / "model.safetensors"
    save_model(path, network, "style")
    model = load_model(path)
    with path.open("r+b") as file:  # in place, as a copy onto it would
        file.write(bytes(path.stat().st_size))
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)


@pytest.mark.parametrize(("source", "named"), [(None, "Own"), ("test_model_files:make-own", "make-own")])
def test_a_network_of_ones_own(tmp_path, source, named):
    torch.manual_seed(0)
    network, path, images = Own().train(), tmp_path / "model.safetensors", torch.rand(2, 3, 21, 32)
    network.up.eval()
    network(images[..., :20, :])
    save_model(path, network, "style", source=source)
    assert network.training and not network.up.training
    expected = network.eval()(images[..., :20, :]).clamp(0, 1)
    for given in (f"test_model_files:{named}", fresh := Own()):
        model = load_model(path, network=given)
        assert model.multiple == 2
        torch.testing.assert_close(model(images)[..., :18, :], expected[..., :18, :].detach())
    assert not torch.equal(fresh.first.weight, network.first.weight)  # it was left as it is
    assert f"pass network='test_model_files:{named}', or --network test_model_files:{named}" in refusal(path)
    with pytest.raises(ValueError, match=rf"network: expected test_model_files:{named}, which .* got 'other:Net'"):
        load_model(path, network="other:Net")
    assert "weights: expected those of Conv2d, 'bias' is missing" in refusal(path, network=nn.Conv2d(3, 3, 1))
    save_model(path, StyleNet(1, 0), "style")
    with pytest.raises(ValueError, match=r"network: expected none, as .* is a model of StyleNet; leave it out"):
        load_model(path, network=Own())


class Derived(StyleNet):
    pass


def test_a_network_of_ours_that_was_changed_is_ones_own(tmp_path):
    path, changed = tmp_path / "model.safetensors", StyleNet(1, 0)
    changed.last = nn.Conv2d(1, 3, 9, padding=4, bias=False)
    for network, name in (
        (changed, "perceptual_ops.recipes.transform_net:StyleNet"),
        (Derived(1, 0), "test_model_files:Derived"),
    ):
        save_model(path, network, "style")
        assert f"it names {name}" in refusal(path)


class Payload:
    """Makes an empty file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def archive(payload):
    """What torch.export.save and torch.save write."""
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


def program(payload):
    stream = io.BytesIO()
    torch.export.save(torch.export.export(nn.Conv2d(3, 3, 1), (torch.rand(1, 3, 8, 8),)), stream)
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr("archive/data/weights/payload", archive(payload))
        file.writestr("archive/extra/perceptual_ops.json", json.dumps(FACTS))
        file.writestr("../outside", "traversal")
    return stream.getvalue()


@pytest.mark.parametrize("form", [archive, program, pickle.dumps])
def test_a_pickle_is_not_opened(tmp_path, form):
    marker, path = tmp_path / "ran", tmp_path / "model.safetensors"
    path.write_bytes(form(Payload(marker)))
    assert "expected a model of train-style or train-sr, this file is" in refusal(path)
    assert not marker.exists()
    assert "can run code of its own" in refusal(path) or form is pickle.dumps


def test_what_a_file_names_is_not_imported(tmp_path, monkeypatch):
    marker, path = tmp_path / "ran", tmp_path / "model.safetensors"
    (tmp_path / "stranger.py").write_text(f"open({str(marker)!r}, 'w').close()\nNet = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    path.write_bytes(content(network="stranger:Net", arguments={}))
    assert "a model file brings no code; it names stranger:Net" in refusal(path)
    refusal(path, network=StyleNet(1, 0).first)
    assert not marker.exists() and "stranger" not in sys.modules


class Stateful(nn.Conv2d):
    def get_extra_state(self):
        return {"a": 1}


class Sparse(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)
        self.register_buffer("table", torch.eye(3).to_sparse())


def not_a_number():
    network = StyleNet(1, 0)
    nn.init.constant_(network.last.bias, torch.nan)
    return network


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (not_a_number, "last.bias in the network StyleNet: expected finite numbers"),
        (lambda: Stateful(3, 3, 1), "network: expected a state of dense tensors alone, _extra_state is a dict"),
        (Sparse, "network: expected a state of dense tensors alone, table is a torch.sparse_coo tensor"),
        (lambda: nn.LazyConv2d(3, 1), "network: expected weights that can be copied"),
        (lambda: nn.Conv2d(3, 3, 1, device="meta"), "network: expected weights that can be copied"),
    ],
)
def test_networks_that_cannot_be_written(tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        save_model(tmp_path / "model.safetensors", make(), "style")
    assert not list(tmp_path.iterdir())


def test_safetensors_is_not_installed(tmp_path, monkeypatch):
    save_model(tmp_path / "model.safetensors", StyleNet(1, 0), "style")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"model files need safetensors.*pip install 'perceptual_ops\[cli\]'"):
        load_model(tmp_path / "model.safetensors")
