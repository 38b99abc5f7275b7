"""Weights that are damaged or not finite: refused, with the file and the tensor named."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from state_dicts import State, failure
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.cli import main
from perceptual_ops.networks import dists_weights, linear_weights, load_network
from perceptual_ops.networks.checkpoint_files import check_finite

NUMBERS = [float("nan"), float("inf"), float("-inf"), 1e300]  # the last is none in fp32


@pytest.fixture(scope="module")
def own() -> State:
    """The first layers of VGG16."""
    return dict(load_network("vgg16", "random", layers=["relu3_3"]).state_dict())


def spoilt(state: Mapping[str, Tensor], key: str, number: float) -> State:
    """The state dict in fp64 with one number of one tensor replaced."""
    copy = {name: value.to(torch.float64, copy=True) for name, value in state.items()}
    copy[key].view(-1)[-1] = number
    return copy


# ---- not finite ----


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("form", ["state dict", ".pth", ".safetensors"])
def test_a_trunk(own: State, tmp_path: Path, form: str, number: float) -> None:
    weights: object = spoilt(own, "conv2_1.weight", number)
    origin = "the state dict passed as weights"
    if form != "state dict":
        path = tmp_path / f"vgg{form}"
        if form == ".pth":
            torch.save(weights, path)
        else:
            pytest.importorskip("safetensors.torch").save_file(weights, path)
        weights, origin = path, str(path)
    numel = own["conv2_1.weight"].numel()
    assert failure(ValueError, weights) == (
        f"'conv2_1.weight' (conv2_1 of vgg16) in {origin}: expected finite numbers, "
        f"got NaN or infinity in 1 of {numel}; use weights without"
    )


def test_numbers_whose_sum_alone_overflows() -> None:
    check_finite({"large": torch.full((8,), 3e38), "empty": torch.empty(0), "counts": torch.arange(3)}, "a file")
    check_finite({"half": torch.full((4,), 6e4, dtype=torch.float16)}, "a file")
    with pytest.raises(ValueError, match=r"^both in a file: expected finite numbers, got NaN or infinity in 2 of 2;"):
        check_finite({"large": torch.full((8,), 3e38), "both": torch.tensor([float("inf"), -float("inf")])}, "a file")


def test_layers_that_are_not_wanted_may_be_broken(own: State) -> None:
    load_network("vgg16", spoilt(own, "conv3_1.bias", float("nan")), layers=["relu2_2"])


@pytest.mark.parametrize("number", NUMBERS)
def test_load_state_dict(own: State, number: float) -> None:
    network = load_network("vgg16", "random", layers=["relu3_3"], seed=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = spoilt(own, "conv2_1.bias", number)
    with pytest.raises(ValueError, match=r"^conv2_1\.bias in the state dict: expected finite numbers, got NaN or inf"):
        network.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^0\.conv2_1\.bias in the state dict: expected finite numbers"):
        nn.Sequential(network).load_state_dict({f"0.{name}": value for name, value in state.items()})
    for name, value in network.state_dict().items():
        assert value.equal(before[name])
    with pytest.raises(RuntimeError, match="conv2_1"):  # what torch says of others stays
        network.load_state_dict({"conv1_1.bias": own["conv1_1.bias"], "conv2_1.bias": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("number", NUMBERS)
def test_learned_numbers_of_metrics(number: float) -> None:
    linear = [torch.ones(1, count, 1, 1, dtype=torch.float64) for count in (2, 3)]
    linear[1][0, 2] = number
    with pytest.raises(ValueError, match=r"^layer 1 in what was passed as linear: expected finite numbers"):
        linear_weights(linear, "alexnet", "0.1", "random", [2, 3])
    alpha = torch.rand(1, 1475, 1, 1)
    beta = alpha.double()
    beta[0, 7] = number
    with pytest.raises(
        ValueError, match=r"^beta in what was passed as alpha_beta: expected finite numbers, got NaN or"
    ):
        dists_weights({"alpha": alpha, "beta": beta})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_module_of_ones_own(number: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network.register_buffer("mask", torch.tensor([0, -float("inf")]))
    po.PerceptualLoss(network, content_layers=["1"])
    with torch.no_grad():
        network[0].bias[2] = number
    with pytest.raises(ValueError, match=r"^0\.bias in the network Sequential: expected finite numbers"):
        po.PerceptualLoss(network, content_layers=["1"])


def test_a_module_trained_into_nan() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network[1].running_var.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^1\.running_var in the network Sequential: expected .* in 4 of 4"):
        po.PerceptualLoss(network, content_layers=["1"])


def test_a_feature_network_filled_by_hand() -> None:
    network = load_network("vgg16", "random", layers=["relu1_1"])
    network.conv1_1.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^conv1_1\.bias in the network FeatureNetwork: expected finite numbers"):
        po.PerceptualLoss(network, content_layers=["relu1_1"])


def test_the_command(own: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    picture, weights = str(tmp_path / "picture.png"), str(tmp_path / "vgg.pth")
    image.new("RGB", (16, 16), (90, 140, 60)).save(picture)
    torch.save(spoilt(own, "conv1_1.bias", float("nan")), weights)
    options = ["--metric", "content", "--weights", weights, "--layers", "relu1_2"]
    assert main(["compare", picture, picture, *options]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"'conv1_1.bias' (conv1_1 of vgg16) in {weights}: expected finite numbers" in said.err


# ---- damaged ----


def damaged(path: Path, record: str, at: int, replacement: bytes) -> None:
    """Overwrites bytes of a record of a zip file."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(record)
    whole = path.read_bytes()
    start = whole.index(data)
    path.write_bytes(whole[: start + at] + replacement + whole[start + at + len(replacement) :])


@pytest.mark.parametrize("kind", ["a flipped bit", "zeros"])
def test_a_file_whose_bytes_changed(own: State, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(own, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read("vgg/data/2")  # conv1_2.weight
    damaged(path, "vgg/data/2", 1000, bytes([data[1000] ^ 4]) if kind == "a flipped bit" else bytes(4096))
    size = path.stat().st_size
    assert failure(ValueError, path) == (
        f"{path} ({size} bytes): expected a file as it was written, got a damaged one, whose record vgg/data/2 has a "
        "wrong CRC; "
        "pass a file that torch.save or safetensors wrote"
    )


def test_linear_weights_whose_bytes_changed(tmp_path: Path) -> None:
    path = tmp_path / "linear.pth"
    torch.save({"lin0.weight": torch.ones(1, 64, 1, 1)}, path)
    damaged(path, "linear/data/0", 0, bytes(8))
    with pytest.raises(ValueError, match="whose record linear/data/0 has a wrong CRC"):
        linear_weights(path, "alexnet", "0.1", "random", [64])


def test_files_without_checksums(own: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(own, path, _use_new_zipfile_serialization=False)
    load_network("vgg16", path, layers=["relu3_3"])
    set_crc = getattr(torch.serialization, "set_crc32_options", None)
    if set_crc is None:
        pytest.skip("this torch always writes checksums")
    set_crc(False)
    try:
        torch.save(own, path)
    finally:
        set_crc(True)
    load_network("vgg16", path, layers=["relu3_3"])
