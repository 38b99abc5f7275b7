"""Files of models: what they hold, that opening one executes nothing, and that whatever is wrong is one sentence."""

import io
import json
import os
import pickle
import random
import struct
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from perceptual_ops.recipes import StyleNet, SuperResolutionNet, load_model, save_model
from perceptual_ops.recipes.model_file import KEY, MAX_HEADER

FACTS = {"version": 1, "kind": "style", "scale": 1, "multiple": 1, "network": "StyleNet"}
FACTS["arguments"] = {"width": 1, "blocks": 0}
REMOVED = object()


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


def content(**changes):
    """The bytes of a model file with other facts."""
    facts = {name: value for name, value in {**FACTS, **changes}.items() if value is not REMOVED}
    return with_text(json.dumps(facts))


def with_text(text):
    return save(StyleNet(1, 0).state_dict(), {KEY: text})


def with_weights(change):
    weights = StyleNet(1, 0).state_dict()
    change(weights)
    return save(weights, {KEY: json.dumps(FACTS)})


def refusal(path, **options):
    """The sentence in which a file is refused."""
    with pytest.raises((OSError, ValueError)) as caught:
        load_model(path, **options)
    text = str(caught.value)
    assert text and text.isprintable() and os.fspath(path) in text
    return text


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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "painting"}, "kind: expected one of 'style', 'super-resolution'; got 'painting'"),
        ({"kind": ["style"]}, "kind: expected one of"),
        ({"kind": REMOVED}, "expected version, kind, scale, multiple, network, arguments in its metadata"),
        ({"more": 1}, "expected version, kind, scale, multiple, network, arguments in its metadata"),
        ({"version": 2}, "version: expected 1, got 2; update perceptual_ops"),
        ({"version": True}, "version: expected 1, got True"),
        ({"version": 1.0}, "version: expected 1, got 1.0"),
        *(({"scale": bad}, "scale: expected 1 to 16") for bad in (0, -1, 17, "2", 2.0, True, None, 10**400, [1])),
        *(({"multiple": bad}, "multiple: expected 1, 2, 4, 8") for bad in (0, -2, 3, 128, "1", 1.0, float("nan"))),
        ({"scale": 2}, "scale, multiple: expected those of StyleNet, (1, 1), got (2, 1)"),
        ({"multiple": 2}, "scale, multiple: expected those of StyleNet"),
        *(({"network": bad}, "network: expected StyleNet, SuperRes") for bad in ("os.system", "a:b c", "a:\x1b[2J", 1)),
        *(({"arguments": bad}, "arguments: expected ['blocks', 'width']") for bad in ({}, [], None, {"width": 1})),
        ({"arguments": {"width": 1, "blocks": 0, "style": 1}}, "arguments: expected ['blocks', 'width']"),
        *(({"arguments": {"width": bad, "blocks": 0}}, "width: expected 1 to 4096") for bad in (0, 10**9, "1", 1.5)),
        *(({"arguments": {"width": 1, "blocks": bad}}, "blocks: expected 0 to 1000") for bad in (-1, 10**9, False)),
        ({"arguments": {"width": 4096, "blocks": 0}}, "expected shape (4096,), got (1,)"),
        ({"arguments": {"width": 1, "blocks": 1}}, "is missing"),
        ({"network": "SuperResolutionNet"}, "arguments: expected ['blocks', 'scale', 'width']"),
        (
            {"network": "SuperResolutionNet", "arguments": {"scale": 3, "width": 1, "blocks": 0}},
            "scale: expected 2, 4, 8, got 3",
        ),
        ({"network": "a:b", "arguments": {"width": 1}}, "arguments: expected []"),
    ],
)
def test_facts_that_are_wrong(tmp_path, changes, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content(**changes))
    assert sentence in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"\\ud800\\u0000\\u001b[2J"',
        "{",
        "[" * 2000,
        '{"a":' * 700,
        "1" * 4001,
        " " * 5000,
        json.dumps(FACTS)[:-1] + ', "scale": 1}',
        json.dumps(FACTS).replace('"scale": 1', '"scale": NaN'),
    ],
)
def test_metadata_that_are_no_facts(tmp_path, text):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_text(text))
    assert "expected a model of train-style or train-sr" in refusal(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights["first.0.weight"].view(-1)[0].fill_(torch.nan), "first.0.weight: expected finite"),
        (lambda weights: weights["palette.bias"].fill_(torch.inf), "palette.bias: expected finite"),
        (lambda weights: weights.pop("last.bias"), "'last.bias' is missing"),
        (lambda weights: weights.update({"x\x1b[2J": torch.zeros(1)}), r"'x\x1b[2J' is none of them"),
        (
            lambda weights: weights.update({"last.bias": torch.zeros(3, 1)}),
            "last.bias: expected shape (3,), got (3, 1)",
        ),
        (lambda weights: weights.update({"last.bias": torch.zeros(0)}), "last.bias: expected shape (3,), got (0,)"),
        (lambda weights: weights.update({"last.bias": torch.zeros(3, dtype=torch.int64)}), "last.bias: expected dtype"),
        (
            lambda weights: weights.update({"last.bias": torch.zeros(3).to(torch.float8_e5m2)}),
            "last.bias: expected dtype",
        ),
    ],
)
def test_weights_that_are_wrong(tmp_path, change, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_weights(change))
    assert sentence in refusal(path)


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no model, but longer than eight bytes")
    (tmp_path / "huge").write_bytes(struct.pack("<Q", MAX_HEADER + 1) + bytes(100))
    (tmp_path / "foreign").write_bytes(save({"weight": torch.zeros(3)}))
    (tmp_path / "other").write_bytes(save({"weight": torch.zeros(3)}, {"format": "pt"}))
    with pytest.raises(FileNotFoundError, match="missing: expected a model, there is no such file"):
        load_model(tmp_path / "missing")
    for name in ("folder", "fifo", "empty", "text", "huge", "foreign", "other"):
        assert f"{name}: expected a model of train-style or train-sr, this" in refusal(tmp_path / name)


def header_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def headers(data):
    """Files whose header says something else about the bytes that follow."""
    header, rest = header_of(data)
    for change in (
        {"data_offsets": [0, 1 << 62]},
        {"data_offsets": [-4, 8]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0.0, 12.0]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": [-3]},
        {"shape": "3"},
        {"dtype": "F4"},
        {"dtype": "O"},
        {"dtype": None},
    ):
        yield with_header({**header, "last.bias": {**header["last.bias"], **change}}, rest)
    yield with_header({**header, "__metadata__": {KEY: 1}}, rest)
    yield with_header({**header, "__metadata__": [KEY]}, rest)
    yield with_header(b"[" * 200_000, rest)
    yield with_header(b'{"a":' * 100_000, rest)
    yield with_header(json.dumps(header).encode()[:-1] + b', "last.bias": {}}', rest)
    yield with_header(b"\xff" + json.dumps(header).encode(), rest)
    yield with_header(header, rest + bytes(16))


def damaged(data):
    generator, header_end = random.Random(0), 8 + struct.unpack("<Q", data[:8])[0]
    yield from headers(data)
    for end in sorted({*range(12), *(generator.randrange(len(data)) for _ in range(30)), len(data) - 1}):
        yield data[:end]
    places = [generator.randrange(end) for end in (header_end, len(data)) for _ in range(150)]
    for place in [*range(64), *places]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << generator.randrange(8)
        yield bytes(flipped)
    for _ in range(60):
        start, length = generator.randrange(header_end), generator.randrange(40)
        yield data[:start] + generator.randbytes(length) + data[start + length :]


def test_a_damaged_file_is_a_model_or_one_sentence(tmp_path):
    torch.manual_seed(0)
    path, images = tmp_path / "model.safetensors", torch.rand(1, 3, 17, 17)
    outcomes = {"model": 0, "sentence": 0}
    for data in damaged(content()):
        path.write_bytes(data)
        try:
            model = load_model(path)
        except (OSError, ValueError) as error:
            assert str(error).isprintable() and str(path) in str(error)
            outcomes["sentence"] += 1
        else:
            assert model(images).shape == images.shape
            outcomes["model"] += 1
    assert outcomes["sentence"] > 200 and outcomes["model"] > 50


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
        (not_a_number, "network: last.bias: expected finite numbers"),
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
