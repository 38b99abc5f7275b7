"""Learned channel weights of LPIPS and DISTS: those shipped, those a user passes, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perceptual_ops.networks import DISTS_CHANNELS, LPIPS_VERSIONS, dists_weights, linear_weights, metric_weights

CHANNELS = {
    "alexnet": (64, 192, 384, 256, 256),
    "vgg16": (64, 128, 256, 512, 512),
    "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512),
}
# SHA-256 of the files in the wheels lpips 0.1.4 and DISTS-pytorch 0.1.
PUBLISHED = {
    "lpips-v0.0-alex.pth": "18720f55913d0af89042f13faa7e536a6ce1444a0914e6db9461355ece1e8cd5",
    "lpips-v0.0-squeeze.pth": "c27abd3a0145541baa50990817df58d3759c3f8154949f42af3b59b4e042d0bf",
    "lpips-v0.0-vgg.pth": "b9e4236260c3dd988fc79d2a48d645d885afcbb21f9fd595e6744cf7419b582c",
    "lpips-v0.1-alex.pth": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "lpips-v0.1-squeeze.pth": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    "lpips-v0.1-vgg.pth": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "dists.pt": "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
}
SMALL = (3, 2)  # channels of two layers


def test_the_files_are_those_that_were_published_and_their_licences_lie_beside_them() -> None:
    files = {path.name: path for path in metric_weights._DATA.iterdir()}
    assert files.keys() == PUBLISHED.keys() | {"LICENSE-lpips", "LICENSE-DISTS"}
    for name, digest in PUBLISHED.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name
    assert "Richard Zhang" in files["LICENSE-lpips"].read_text()
    assert "Keyan Ding" in files["LICENSE-DISTS"].read_text()


# ---- LPIPS ----


@pytest.mark.parametrize("version", LPIPS_VERSIONS)
@pytest.mark.parametrize("network", CHANNELS)
def test_official_linear_weights(network: str, version: str) -> None:
    file = metric_weights._DATA / f"lpips-v{version}-{metric_weights.LPIPS_NETWORKS[network]}.pth"
    published = torch.load(file, map_location="cpu", weights_only=True)
    for source in ("imagenet", "random", {}, "trunk.pth"):
        found = linear_weights(True, network, version, source, CHANNELS[network])
        assert [tuple(layer.shape) for layer in found] == [(count,) for count in CHANNELS[network]]
        for index, layer in enumerate(found):
            assert layer.dtype == torch.float32
            assert layer.equal(published[f"lin{index}.model.1.weight"].flatten())


@pytest.mark.skipif(
    importlib.util.find_spec("stlpips_pytorch") is None,
    reason="stlpips-pytorch is not installed (pip install --no-deps stlpips-pytorch)",
)
@pytest.mark.parametrize(("network", "sum_of_last"), [("vgg16", 14.7045), ("alexnet", 14.3174)])
def test_stlpips_has_its_own(network: str, sum_of_last: float) -> None:
    found = linear_weights(True, network, "0.1", "stlpips", CHANNELS[network])
    assert found[-1].sum().item() == pytest.approx(sum_of_last, rel=1e-5)
    assert linear_weights(False, network, "0.1", "stlpips", SMALL)[0].equal(torch.ones(3))
    with pytest.raises(ValueError, match="a source that has squeezenet1_1, got 'stlpips', which has vgg16, alexnet"):
        linear_weights(True, "squeezenet1_1", "0.1", "stlpips", CHANNELS["squeezenet1_1"])


def test_the_baseline_counts_every_channel_once() -> None:
    found = linear_weights(False, "any module", "0.1", "random", SMALL)
    assert [layer.tolist() for layer in found] == [[1, 1, 1], [1, 1]]


LAYERS = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])]


def keyed(*keys: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {key: layer.view(1, -1, 1, 1).to(dtype) for key, layer in zip(keys, LAYERS * 2, strict=False)}


LAYOUTS: dict[str, object] = {
    "lpips": keyed("lin0.model.1.weight", "lin1.model.1.weight"),
    "lpips, a whole model": {"net.slice1.0.weight": torch.zeros(64, 3, 3, 3), "scaling_layer.shift": torch.zeros(3)}
    | keyed("lin0.model.1.weight", "lin1.model.1.weight", "lins.0.model.1.weight", "lins.1.model.1.weight"),
    "lpips without dropout": keyed("lin0.model.0.weight", "lin1.model.0.weight"),
    "torchmetrics": keyed("net.lin0.model.1.weight", "net.lin1.model.1.weight"),
    "plain": {"lin0.weight": LAYERS[0], "lin1.weight": LAYERS[1]},
    "another order and dtype": dict(reversed(keyed("lin0.weight", "lin1.weight", dtype=torch.float64).items())),
    "piq": [layer.view(1, -1, 1, 1) for layer in LAYERS],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_weights_of_other_libraries(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "linear.pt"
    torch.save(LAYOUTS[layout], path)
    for source in (LAYOUTS[layout], path, str(path)):
        found = linear_weights(source, "vgg19", "0.1", "random", SMALL)  # type: ignore[arg-type]
        assert [layer.dtype for layer in found] == [torch.float32] * 2
        assert [layer.tolist() for layer in found] == [layer.tolist() for layer in LAYERS]
        found[0].zero_()  # the caller's are their own
        assert LAYERS[0].any()


def failure(error: type[Exception], linear: object, channels: tuple[int, ...] = SMALL, **other: str) -> str:
    """What refusing says: one line."""
    arguments = {"network": "vgg16", "version": "0.1", "weights": "imagenet"} | other
    with pytest.raises(error) as caught:
        linear_weights(linear, channels=channels, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_linear_weights_that_do_not_fit(tmp_path: Path) -> None:
    whole = keyed("lin0.weight", "lin1.weight")
    passed = "what was passed as linear"
    lacking = f"{passed}: expected linear weights of layer 0, such as 'lin0.model.1.weight', got none"
    assert failure(ValueError, {"lin1.weight": LAYERS[1]}) == lacking
    assert failure(ValueError, [LAYERS[0]]).endswith("of layer 1, such as 'lin1.model.1.weight', got none")
    assert failure(ValueError, whole | {"lin2.weight": LAYERS[0]}).endswith("of 2 layers, got 3")
    shape = ": expected a float tensor of shape (1, 2, 1, 1), got torch.float32 (3,)"
    assert failure(ValueError, whole | {"lin1.weight": LAYERS[0]}) == f"'lin1.weight' in {passed}{shape}"
    assert failure(ValueError, [*LAYERS[:1], LAYERS[0]]) == f"layer 1 in {passed}{shape}"
    assert "got torch.int64 (2,)" in failure(ValueError, [LAYERS[0], LAYERS[1].long()])
    assert failure(ValueError, [LAYERS[0], 3.0]).endswith(": expected a tensor, got float")
    assert failure(ValueError, {"conv1_1.weight": LAYERS[0]}).endswith("lin0.model.1.weight, got conv1_1.weight")
    assert failure(ValueError, {}).endswith("got an empty one")
    assert failure(ValueError, True).endswith("lpips-v0.1-vgg.pth: expected linear weights of 2 layers, got 5")

    torch.save({"lin0.weight": LAYERS[0]}, tmp_path / "linear.pt")
    path = tmp_path / "linear.pt"
    assert failure(ValueError, path).startswith(f"{path}: expected linear weights of layer 1")
    torch.save(LAYERS[0], path)
    assert f"got Tensor from {path}" in failure(TypeError, path)
    path.write_bytes(b"damaged")
    assert failure(ValueError, path).startswith(f"{path} (7 bytes): expected a state dict, got a file whose")


def test_linear_sources_that_are_none(tmp_path: Path) -> None:
    assert failure(ValueError, True, version="0.2") == "version: expected one of '0.1', '0.0'; got '0.2'"
    assert failure(ValueError, False, version="v0.1").endswith("got 'v0.1'")
    assert failure(ValueError, True, network="vgg19") == (
        "linear: expected False, a path or a state dict for vgg19, got True; there are official weights for "
        "alexnet, vgg16, squeezenet1_1"
    )
    assert failure(TypeError, 1).startswith("linear: expected True, False, a path, a state dict or a list of tensors")
    assert failure(FileNotFoundError, tmp_path / "no.pth").startswith(
        f"linear: expected the path of a file, there is no file at {tmp_path}"
    )
    suffixes = (
        "linear: expected True, False, a path that ends with .pth, .pt, .safetensors, or a state dict, got 'alex'"
    )
    assert failure(ValueError, "alex") == suffixes


# ---- DISTS ----


def test_official_dists_weights() -> None:
    published = torch.load(metric_weights._DATA / "dists.pt", map_location="cpu", weights_only=True)
    for name, found in zip(("alpha", "beta"), dists_weights(None), strict=True):
        assert [tuple(layer.shape) for layer in found] == [(count,) for count in (3, 64, 128, 256, 512, 512)]
        assert torch.cat(found).equal(published[name].flatten())


def test_dists_weights_from_elsewhere(tmp_path: Path) -> None:
    total = sum(DISTS_CHANNELS)
    state = {"alpha": torch.rand(1, total, 1, 1), "beta": torch.rand(total).double(), "stage1.0.bias": torch.rand(64)}
    path = tmp_path / "dists.pth"
    torch.save(state, path)
    for source in (state, path, str(path)):
        alpha, beta = dists_weights(source)
        assert torch.cat(alpha).equal(state["alpha"].flatten())
        assert torch.cat(beta).equal(state["beta"].float())
        alpha[0].zero_()
        assert state["alpha"][:, :3].all()


def test_dists_weights_that_do_not_fit(tmp_path: Path) -> None:
    numbers = torch.rand(1475)
    with pytest.raises(ValueError, match=r"^what was passed as alpha_beta: expected beta, got none$"):
        dists_weights({"alpha": numbers})
    with pytest.raises(ValueError, match=r"alpha in .*: expected a float .* shape \(1, 1475, 1, 1\), got .*1474"):
        dists_weights({"alpha": numbers[1:], "beta": numbers})
    with pytest.raises(
        TypeError, match="what was passed as alpha_beta: expected a state dict with alpha and beta, got int"
    ):
        dists_weights(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="alpha_beta: expected the path of a file, there is no file at "):
        dists_weights(tmp_path / "no.pt")
    with pytest.raises(ValueError, match=r"alpha_beta: expected None, a path that ends with .*, got 'official'"):
        dists_weights("official")


def test_made_in_inference_mode_they_serve_in_training() -> None:
    with torch.inference_mode():
        layers = [*linear_weights(True, "alexnet", "0.1", "imagenet", CHANNELS["alexnet"]), *dists_weights(None)[0]]
        layers += linear_weights([torch.ones(3)], "alexnet", "0.1", "imagenet", (3,))
    assert not any(layer.is_inference() for layer in layers)
