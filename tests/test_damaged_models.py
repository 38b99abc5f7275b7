"""Model files from a stranger or a broken disk: each is a model, or refused in one sentence."""

import json
import os
import random
import struct

import pytest
import torch
from model_files import FACTS, REMOVED, content, refusal, with_text, with_weights
from safetensors.torch import save

from perceptual_ops.recipes import load_model
from perceptual_ops.recipes.model_file import KEY, MAX_HEADER


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
        (
            lambda weights: weights["first.0.weight"].view(-1)[0].fill_(torch.nan),
            "first.0.weight in the file: expected finite numbers",
        ),
        (lambda weights: weights["palette.bias"].fill_(torch.inf), "palette.bias in the file: expected"),
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
