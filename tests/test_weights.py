"""Weight sources: what each one loads, and the sentence each failure ends in."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from peer_torchvision import import_torchvision
from state_dicts import LAYERS, State, assert_loaded, failure, random_state, renamed
from torch import nn

from perceptual_ops.networks import available, download, load, load_network
from perceptual_ops.networks import weights as weights_module


@pytest.fixture(scope="module")
def own() -> State:
    """All of VGG16 under this library's keys."""
    return random_state("vgg16")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache: the folder where checkpoints go."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


# ---- files ----


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_path(own: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(own, path)
    else:
        torch.save(renamed(own, "vgg16", "torchvision"), path)
    assert_loaded(load_network("vgg16", path), own)
    assert_loaded(load_network("vgg16", str(path), layers=LAYERS), own)


def test_a_path_that_cannot_be_used(own: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vgg.pth"
    assert failure(FileNotFoundError, str(path)).startswith(
        f"weights: expected the path of a file, there is no file at {path}"
    )
    unknown = "weights: expected one of imagenet, stlpips, random, a path that ends with .pth, .pt, .safetensors, "
    assert failure(ValueError, "imagenette") == f"{unknown}or a state dict, got 'imagenette'"
    assert failure(ValueError, tmp_path / "vgg.bin").startswith(unknown)
    assert failure(TypeError, 3) == "weights: expected a source, a path or a state dict, got int"
    assert failure(TypeError, nn.ReLU()).endswith("got ReLU; pass its state_dict()")

    torch.save(torch.zeros(3), path)
    assert f"{path}: expected a state dict, got Tensor" in failure(ValueError, path)
    torch.save(own, path)
    whole = path.read_bytes()
    for contents in (b"", b"<html>not found</html>", whole[:1000], whole[:-1000]):
        path.write_bytes(contents)
        assert failure(ValueError, path).startswith(f"{path} ({len(contents)} bytes): expected a state dict")
    torch.save({key: value for key, value in own.items() if key != "conv1_1.weight"}, path)
    assert failure(ValueError, path) == f"{path}: expected 'conv1_1.weight' (conv1_1 of vgg16), got no such key"

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
    assert "expected a state dict, got a file whose reading failed" in failure(ValueError, tmp_path / "vgg.pth")
    assert not (tmp_path / "touched").exists()


# ---- imagenet ----


def test_imagenet_files_are_torchvisions() -> None:
    models = import_torchvision().models
    for network, file in weights_module.IMAGENET_FILES.items():
        url = models.get_model_weights(network).IMAGENET1K_V1.url
        assert url == f"{weights_module.IMAGENET_URL}/{file}"


def named_by_hash(own: State, folder: Path) -> Path:
    """A file of weights of VGG16 in torchvision's layout, named as torchvision names its own."""
    path = folder / "vgg16.pth"
    torch.save(renamed(own, "vgg16", "torchvision"), path)
    return path.rename(folder / f"vgg16-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


def test_imagenet_from_the_cache(own: State, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    path = named_by_hash(own, cache)
    monkeypatch.setitem(weights_module.IMAGENET_FILES, "vgg16", path.name)
    assert_loaded(load_network("vgg16"), own)
    monkeypatch.setattr("hashlib.sha256", lambda: pytest.fail("hashed again"))
    assert_loaded(load_network("vgg16"), own)


def test_imagenet_in_the_cache_of_another_hash(own: State, cache: Path) -> None:
    cache.mkdir(parents=True)
    path = named_by_hash(own, cache).rename(cache / "vgg16-397923af.pth")
    for _ in range(2):  # once as it was written, once changed
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert failure(ValueError, "imagenet") == (
            f"{path} ({path.stat().st_size} bytes): expected the file whose SHA-256 begins with 397923af, "
            f"got one with {digest}; delete it and it is downloaded again at the next call, "
            "or pass weights=<its path> to use it as it is"
        )
        load_network("vgg16", path, layers=LAYERS)
        torch.save(renamed(own, "vgg16", "lpips"), path)


def test_imagenet_by_download(own: State, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = named_by_hash(own, tmp_path).name
    monkeypatch.setattr(weights_module, "IMAGENET_URL", tmp_path.as_uri())
    monkeypatch.setitem(weights_module.IMAGENET_FILES, "vgg16", file)
    assert_loaded(load_network("vgg16", progress=False), own)
    assert [path.name for path in cache.iterdir()] == [file]


def test_imagenet_with_the_wrong_hash(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"a captive portal's page")
    monkeypatch.setattr(weights_module, "IMAGENET_URL", tmp_path.as_uri())
    message = failure(ValueError, "imagenet")
    assert f"got another from {tmp_path.as_uri()}/vgg16-397923af.pth" in message
    assert "SHA-256 begins with 397923af" in message
    assert hashlib.sha256(b"a captive portal's page").hexdigest() in message
    assert f"put the file at {cache / 'vgg16-397923af.pth'}" in message
    assert list(cache.iterdir()) == []


def test_imagenet_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(download, "urlopen", no_network)
    message = failure(OSError, "imagenet")
    assert "could not download https://download.pytorch.org/models/vgg16-397923af.pth" in message
    assert "Name or service not known" in message
    assert f"put the file at {cache / 'vgg16-397923af.pth'}, or pass weights=<a path>" in message
    assert list(cache.iterdir()) == []


@contextlib.contextmanager
def a_server(monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None]) -> Iterator[Future[None]]:
    """Where the weights are said to be: a server that takes one connection and answers so."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        server.settimeout(600)
        monkeypatch.setattr(weights_module, "IMAGENET_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")

        def serve() -> None:
            with server.accept()[0] as connection:
                answer(connection)

        yield threads.submit(serve)


@pytest.mark.parametrize("limit", ["ours", "the caller's"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nsome"])
def test_imagenet_from_a_server_that_falls_silent(
    sent: bytes, limit: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, by a limit of this request alone: sockets of other threads keep theirs."""
    of_others = None if limit == "ours" else 0.2
    monkeypatch.setattr(download, "SILENCE", 0.2 if limit == "ours" else 600)
    seen = []

    def fall_silent(connection: socket.socket) -> None:
        connection.settimeout(600)
        while connection.recv(1 << 16):  # the request, then the end of a client that gave up
            seen.append(socket.getdefaulttimeout())
            connection.sendall(sent)

    socket.setdefaulttimeout(of_others)
    try:
        with a_server(monkeypatch, fall_silent) as served:
            message = failure(OSError, "imagenet")
            served.result()
    finally:
        socket.setdefaulttimeout(None)
    assert seen == [of_others]
    assert "timed out" in message and "; put the file at" in message
    assert list(cache.iterdir()) == []


def test_imagenet_over_a_connection_that_is_cut(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no reason to think of another file."""

    def cut(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nsome")

    with a_server(monkeypatch, cut) as served:
        message = failure(OSError, "imagenet")
        served.result()
    assert "(the connection ended after 4 of 1,000 bytes); put the file at" in message
    assert list(cache.iterdir()) == []


# ---- stlpips ----


@pytest.mark.skipif(
    importlib.util.find_spec("stlpips_pytorch") is None,
    reason="stlpips-pytorch is not installed (pip install --no-deps stlpips-pytorch)",
)
@pytest.mark.parametrize(
    ("name", "deepest", "sizes"),
    [
        ("vgg16", "5.32 conv5_3", {f"pool{i}": size for i, size in enumerate([20, 11, 6, 4, 3], start=1)}),
        ("alexnet", "5.13 conv5", {"conv1": 33, "blur1": 18, "relu1": 18, "pool1": 9, "pool2": 5, "relu5": 5}),
    ],
)
def test_stlpips_are_blur_pool_networks(name: str, deepest: str, sizes: dict[str, int]) -> None:
    network = load_network(name, "stlpips")
    (path,) = [file.path for file in available() if file.source == "stlpips" and file.network == name]
    assert path is not None
    original = torch.load(path, map_location="cpu", weights_only=True)
    place, conv = deepest.split()
    for part in ("weight", "bias"):
        assert network.state_dict()[f"{conv}.{part}"].equal(original[f"net.slice{place}.{part}"])
    assert network.pooling == "blur"
    assert load_network(name, "stlpips", layers=["pool1"], pooling="max").pooling == "max"
    taps = network(torch.rand(1, 3, 39, 39))
    assert {layer: taps[layer].shape[2] for layer in sizes} == sizes
    assert (
        failure(ValueError, "stlpips", "vgg19")
        == "weights: expected a source that has vgg19, got 'stlpips', which has vgg16, alexnet"
    )


def test_stlpips_is_read_without_importing_it(own: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stlpips_pytorch" / "weights" / "vST0.0" / "vgg_shift_tolerant.pth"
    path.parent.mkdir(parents=True)
    (tmp_path / "stlpips_pytorch" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stlpips_pytorch", raising=False)
    assert failure(FileNotFoundError, "stlpips").startswith(f"weights: expected {path} in the installed")
    torch.save(renamed(own, "vgg16", "stlpips"), path)
    assert_loaded(load_network("vgg16", "stlpips"), own)
    assert "stlpips_pytorch" not in sys.modules


def test_stlpips_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "STLPIPS_PACKAGE", "a_package_nobody_has")
    message = "weights: expected the package stlpips-pytorch for 'stlpips', it is not installed; pip install --no-deps"
    assert failure(ModuleNotFoundError, "stlpips").startswith(message)
    files = [file for file in available() if file.source == "stlpips"]
    assert [file.network for file in files] == ["vgg16", "alexnet"]
    for file in files:
        assert file.path is None and not file.present and file.remedy == "run pip install --no-deps stlpips-pytorch"


# ---- random, available ----


@pytest.mark.parametrize(("name", "shallow"), [("vgg16", "relu2_1"), ("alexnet", "relu2"), ("squeezenet1_1", "fire3")])
def test_random_weights_are_their_own_draw(name: str, shallow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "random_weights", weights_module.random_weights)  # the suite keeps what was drawn
    before = torch.get_rng_state()
    network = load_network(name, "random", seed=5)
    assert torch.get_rng_state().equal(before)
    assert_loaded(load_network(name, "random", layers=[shallow], seed=5), network.state_dict())
    other = load_network(name, "random", seed=6).state_dict()
    for key, value in network.state_dict().items():
        if key.endswith("bias"):
            assert not value.any()
        else:
            assert not value.equal(other[key])
            kaiming_fan_out = math.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))
            assert value.std().item() == pytest.approx(kaiming_fan_out, rel=0.05)


def test_available_says_what_is_there_and_where_it_goes(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "vgg19-dcbb9e9d.pth").touch()
    files = {file.network: file for file in available() if file.source == "imagenet"}
    assert [network for network, file in files.items() if file.present] == ["vgg19"]
    assert list(files) == [
        *("vgg11", "vgg13", "vgg16", "vgg19", "alexnet", "squeezenet1_1"),
        *("convnext_small", "resnet50"),
    ]
    assert files["vgg16"].path == cache / "vgg16-397923af.pth"
    assert files["alexnet"].path == cache / "alexnet-owt-7be5be79.pth"
    assert files["vgg16"].remedy == "download https://download.pytorch.org/models/vgg16-397923af.pth"
