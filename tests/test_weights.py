"""Weight sources: what each one loads, and the sentence each failure ends in."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from peer_torchvision import import_torchvision
from torch import Tensor, nn

from perceptual_ops.networks import FeatureNetwork, available, load_network
from perceptual_ops.networks import weights as weights_module

State = dict[str, Tensor]

# Where the thirteen convolutions of VGG16 sit: in torchvision and lpips, and in stlpips, whose pooling counts twice.
TORCHVISION_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
STLPIPS_NUMBERS = (0, 2, 6, 8, 12, 14, 16, 20, 22, 24, 28, 30, 32)
SLICES = (1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5)
LAYERS = ["relu3_3"]


@pytest.fixture(scope="module")
def own() -> State:
    """All of VGG16 under this library's keys."""
    return dict(load_network("vgg16", "random", seed=7).state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache: the folder where checkpoints go."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def renamed(own: State, key: Callable[[int], str]) -> State:
    """The state dict with the i-th convolution called `key(i)`."""
    tensors = list(own.values())
    return {f"{key(i)}.{part}": tensors[2 * i + j] for i in range(13) for j, part in enumerate(("weight", "bias"))}


LAYOUTS: dict[str, Callable[[int], str]] = {
    "torchvision": lambda i: f"features.{TORCHVISION_NUMBERS[i]}",
    "its features": lambda i: f"{TORCHVISION_NUMBERS[i]}",
    "lpips": lambda i: f"net.slice{SLICES[i]}.{TORCHVISION_NUMBERS[i]}",
    "stlpips": lambda i: f"net.slice{SLICES[i]}.{STLPIPS_NUMBERS[i]}",
}


def assert_loaded(network: FeatureNetwork, expected: Mapping[str, Tensor]) -> None:
    for key, value in network.state_dict().items():
        assert value.equal(expected[key]), key


def failure(error: type[Exception], weights: object, network: str = "vgg16") -> str:
    """What loading says when it fails: one line."""
    with pytest.raises(error) as caught:
        load_network(network, weights, layers=LAYERS)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- state dicts ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layers", [LAYERS, None])
def test_known_layouts(own: State, layout: str, layers: list[str] | None) -> None:
    others = {"classifier.0.weight": torch.zeros(2, 2), "lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}
    network = load_network("vgg16", renamed(own, LAYOUTS[layout]) | others, layers=layers)
    assert_loaded(network, own)
    assert network.pooling == "max"


def test_own_layout_in_any_float_dtype(own: State) -> None:
    assert_loaded(load_network("vgg16", own), own)
    network = load_network("vgg16", {key: value.half() for key, value in own.items()}, layers=["conv1_1"])
    assert network.dtype == torch.float32
    assert_loaded(network, {key: value.half().float() for key, value in own.items()})


def test_missing_and_misshapen_tensors_are_named(own: State) -> None:
    torchvision = renamed(own, LAYOUTS["torchvision"])
    short = {key: value for key, value in torchvision.items() if key != "features.14.bias"}
    assert failure(ValueError, short) == (
        "the state dict passed as weights lacks 'features.14.bias' (conv3_3 of vgg16)"
    )
    lpips = {key: value for key, value in renamed(own, LAYOUTS["lpips"]).items() if ".12." not in key}
    assert "lacks 'net.slice*.12.weight' (conv3_2 of vgg16)" in failure(ValueError, lpips)
    wide = {**own, "conv2_1.weight": torch.zeros(128, 3, 3, 3)}
    assert failure(ValueError, wide) == (
        "'conv2_1.weight' (conv2_1 of vgg16) in the state dict passed as weights must be a float tensor of shape "
        "(128, 64, 3, 3), got torch.float32 (128, 3, 3, 3)"
    )
    assert "got torch.int64 (64,)" in failure(ValueError, {**own, "conv1_1.bias": torch.zeros(64, dtype=torch.long)})
    assert "must be a tensor, got list" in failure(ValueError, {**own, "conv1_1.bias": [0.0] * 64})


def test_a_state_dict_of_another_network_is_refused_although_its_first_layers_fit(own: State) -> None:
    vgg19 = dict(load_network("vgg19", "random").state_dict())
    assert "is not for vgg16: it holds 'conv3_4.weight'" in failure(ValueError, vgg19)
    for numbers, foreign in (((0, 2, 5, 7, 10, 12, 14, 16), 16), ((0, 3, 7, 10, 14, 17, 20), 3)):  # VGG19, batch norm
        message = failure(ValueError, {f"features.{n}.weight": torch.zeros(4, 4, 3, 3) for n in numbers})
        assert f"is not for vgg16: it holds the convolution 'features.{foreign}.weight', and those of vgg16" in message
    beyond = renamed(own, LAYOUTS["its features"]) | {"31.weight": torch.zeros(1024, 512, 3, 3)}  # SSD's VGG16 goes on
    assert_loaded(load_network("vgg16", beyond), own)


def test_unknown_layout() -> None:
    message = failure(ValueError, {"encoder.w": torch.zeros(1), "encoder.b": torch.zeros(1)})
    assert "expected keys such as features.0.weight, " in message and "got encoder.w, encoder.b" in message
    assert failure(ValueError, {"model": {}, 0: torch.zeros(1)}).endswith("got model, 0")  # a checkpoint around it
    assert failure(ValueError, {}).endswith("got an empty one")


# ---- files ----


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_path(own: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(own, path)
    else:
        torch.save(renamed(own, LAYOUTS["torchvision"]), path)
    assert_loaded(load_network("vgg16", path), own)
    assert_loaded(load_network("vgg16", str(path), layers=LAYERS), own)


def test_a_path_that_cannot_be_used(own: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vgg.pth"
    assert failure(FileNotFoundError, str(path)).startswith(f"weights: there is no file at {path}, ")
    unknown = "weights must be one of imagenet, stlpips, random, a path that ends with .pth, .pt, .safetensors, "
    assert failure(ValueError, "imagenette") == f"{unknown}or a state dict, got 'imagenette'"
    assert failure(ValueError, tmp_path / "vgg.bin").startswith(unknown)
    assert failure(TypeError, 3) == "weights must be a source, a path or a state dict, got int"
    assert failure(TypeError, nn.ReLU()).endswith("got ReLU, pass its state_dict()")

    torch.save(torch.zeros(3), path)
    assert f"{path} must hold a state dict, got Tensor" in failure(ValueError, path)
    torch.save(own, path)
    whole = path.read_bytes()
    for contents in (b"", b"<html>not found</html>", whole[:1000], whole[:-1000]):
        path.write_bytes(contents)
        assert failure(ValueError, path).startswith(f"{path} ({len(contents)} bytes) is damaged or holds no state dict")
    torch.save({key: value for key, value in own.items() if key != "conv1_1.weight"}, path)
    assert failure(ValueError, path) == f"{path} lacks 'conv1_1.weight' (conv1_1 of vgg16)"

    safetensors = tmp_path / "vgg.safetensors"
    safetensors.write_bytes(b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "needs the package safetensors: pip install safetensors" in failure(ModuleNotFoundError, safetensors)


class Touch:  # what a hostile checkpoint does: unpickling it runs code, here some that makes a file
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    torch.save({"conv1_1.weight": Touch(tmp_path / "touched")}, tmp_path / "vgg.pth")
    assert "is damaged or holds no state dict" in failure(ValueError, tmp_path / "vgg.pth")
    assert not (tmp_path / "touched").exists()


# ---- imagenet ----


def test_imagenet_files_are_torchvisions() -> None:
    models = import_torchvision().models
    for network, file in weights_module.IMAGENET_FILES.items():
        url = models.get_model_weights(network).IMAGENET1K_V1.url
        assert url == f"{weights_module.IMAGENET_URL}/{file}"


def test_imagenet_from_the_cache(own: State, cache: Path) -> None:
    path = cache / "vgg16-397923af.pth"
    cache.mkdir(parents=True)
    torch.save(renamed(own, LAYOUTS["torchvision"]), path)
    assert_loaded(load_network("vgg16"), own)
    path.write_bytes(path.read_bytes()[:5000])
    remedy = "delete it and it is downloaded again at the next call"
    assert failure(ValueError, "imagenet").endswith(remedy)


def test_imagenet_by_download(own: State, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(renamed(own, LAYOUTS["torchvision"]), tmp_path / "vgg16.pth")
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()
    file = f"vgg16-{digest[:8]}.pth"
    (tmp_path / "vgg16.pth").rename(tmp_path / file)
    monkeypatch.setattr(weights_module, "IMAGENET_URL", tmp_path.as_uri())
    monkeypatch.setitem(weights_module.IMAGENET_FILES, "vgg16", file)
    assert_loaded(load_network("vgg16", progress=False), own)
    assert [path.name for path in cache.iterdir()] == [file]


def test_imagenet_with_the_wrong_hash(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"a captive portal's page")
    monkeypatch.setattr(weights_module, "IMAGENET_URL", tmp_path.as_uri())
    message = failure(ValueError, "imagenet")
    assert f"{tmp_path.as_uri()}/vgg16-397923af.pth is not the file expected" in message
    assert "SHA-256 begins with 397923af" in message
    assert hashlib.sha256(b"a captive portal's page").hexdigest() in message
    assert f"put the file at {cache / 'vgg16-397923af.pth'}" in message
    assert list(cache.iterdir()) == []


def test_imagenet_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    message = failure(OSError, "imagenet")
    assert "could not download https://download.pytorch.org/models/vgg16-397923af.pth" in message
    assert "Name or service not known" in message
    assert f"put the file at {cache / 'vgg16-397923af.pth'}, or pass weights=<a path>" in message
    assert list(cache.iterdir()) == []


# ---- stlpips ----


@pytest.mark.skipif(
    importlib.util.find_spec("stlpips_pytorch") is None,
    reason="stlpips-pytorch is not installed (pip install --no-deps stlpips-pytorch)",
)
def test_stlpips_is_a_blur_pool_vgg16() -> None:
    network = load_network("vgg16", "stlpips")
    (path,) = [file.path for file in available() if file.source == "stlpips"]
    assert path is not None
    original = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in original.items():
        if key.startswith("net.slice5.32."):
            assert network.state_dict()[key.replace("net.slice5.32", "conv5_3")].equal(value)
    assert network.pooling == "blur"
    assert load_network("vgg16", "stlpips", layers=["pool1"], pooling="max").pooling == "max"
    sizes = {name: tuple(tap.shape[2:]) for name, tap in network(torch.rand(1, 3, 35, 64)).items()}
    assert [sizes[f"pool{block}"] for block in range(1, 6)] == [(18, 33), (10, 17), (6, 9), (4, 5), (3, 3)]
    assert failure(ValueError, "stlpips", "vgg19") == "weights 'stlpips' has no vgg19, only vgg16"


def test_stlpips_is_read_without_importing_it(own: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stlpips_pytorch" / "weights" / "vST0.0" / "vgg_shift_tolerant.pth"
    path.parent.mkdir(parents=True)
    (tmp_path / "stlpips_pytorch" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stlpips_pytorch", raising=False)
    assert failure(FileNotFoundError, "stlpips").startswith(f"the installed package stlpips-pytorch lacks {path}")
    torch.save(renamed(own, LAYOUTS["stlpips"]), path)
    assert_loaded(load_network("vgg16", "stlpips"), own)
    assert "stlpips_pytorch" not in sys.modules


def test_stlpips_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "STLPIPS_PACKAGE", "a_package_nobody_has")
    message = "weights 'stlpips' come from the package stlpips-pytorch, which is not installed: pip install --no-deps"
    assert failure(ModuleNotFoundError, "stlpips").startswith(message)
    (file,) = [file for file in available() if file.source == "stlpips"]
    assert file.path is None and not file.present and file.remedy == "run pip install --no-deps stlpips-pytorch"


# ---- random, available ----


def test_random_weights_are_their_own_draw() -> None:
    before = torch.get_rng_state()
    network = load_network("vgg16", "random", seed=5)
    assert torch.get_rng_state().equal(before)
    assert_loaded(load_network("vgg16", "random", layers=["relu2_1"], seed=5), network.state_dict())
    other = load_network("vgg16", "random", seed=6).state_dict()
    for key, value in network.state_dict().items():
        if key.endswith("bias"):
            assert not value.any()
        else:
            assert not value.equal(other[key])
            kaiming_fan_out = math.sqrt(2 / (9 * value.shape[0]))
            assert value.std().item() == pytest.approx(kaiming_fan_out, rel=0.05)


def test_available_says_what_is_there_and_where_it_goes(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "vgg19-dcbb9e9d.pth").touch()
    files = {file.network: file for file in available() if file.source == "imagenet"}
    assert [network for network, file in files.items() if file.present] == ["vgg19"]
    assert files["vgg16"].path == cache / "vgg16-397923af.pth"
    assert files["vgg16"].remedy == "download https://download.pytorch.org/models/vgg16-397923af.pth"
