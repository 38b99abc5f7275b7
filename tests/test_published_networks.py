"""Networks of other packages by name: real architectures, random numbers, and where weights come from."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peer_torchvision import import_torchvision
from torch import Tensor, nn

from perceptual_ops.networks import published, weights
from perceptual_ops.networks.published import PUBLISHED, convnext_small, dinov2_base, resnet50

import_torchvision()
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def images() -> Tensor:  # (2, 3, 32, 32)
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def failure(kind: type[Exception], network: Callable[..., nn.Module], *arguments: object) -> str:
    with pytest.raises(kind) as info:
        network(*arguments)
    return str(info.value)


def run(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        returned = network(images)
    return returned if isinstance(returned, Tensor) else returned.last_hidden_state


SHAPES = {"convnext_small": (2, 1000), "resnet50": (2, 1000), "dinov2_base": (2, 1 + 2 * 2, 768)}
PARAMETERS = {"convnext_small": 50_223_688, "resnet50": 25_557_032, "dinov2_base": 86_580_480}


@pytest.mark.parametrize("name", PUBLISHED)
def test_random_networks_are_the_real_architectures_in_eval_mode(name: str, images: Tensor) -> None:
    before = torch.get_rng_state()
    network = PUBLISHED[name].build("random")
    assert torch.get_rng_state().equal(before)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    assert not any(module.training for module in network.modules())
    features = run(network, images)
    assert features.shape == SHAPES[name]
    assert (features[0] - features[1]).abs().max() > 1e-3 * features.abs().max()  # an image decides what comes


# ---- files and state dicts ----


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of a ResNet-50 whose weights are none that "random" draws."""
    return {
        key: value * 0.5 if key.endswith("weight") else value for key, value in resnet50("random").state_dict().items()
    }


def test_random_is_the_same_each_time_and_a_state_dict_replaces_it(state: dict[str, Tensor], images: Tensor) -> None:
    twice = [run(resnet50("random"), images) for _ in range(2)]
    assert twice[0].equal(twice[1])
    network = resnet50(state)
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())
    assert not run(network, images).equal(twice[0])


def test_a_file_of_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "resnet.pth")
    network = resnet50(tmp_path / "resnet.pth")
    assert network.state_dict()["fc.weight"].equal(state["fc.weight"])


def test_imagenet_is_the_file_in_torchvisions_cache(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "resnet50.pth"
    torch.save(state, path)
    path = path.rename(path.with_name(f"resnet50-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))
    monkeypatch.setitem(weights.IMAGENET_FILES, "resnet50", path.name)
    assert resnet50().state_dict()["fc.weight"].equal(state["fc.weight"])

    monkeypatch.setattr(weights, "IMAGENET_URL", (tmp_path / "no network").as_uri())
    path.unlink()
    assert f"put the file at {path}, or pass weights=" in failure(OSError, resnet50)


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != "fc.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "weights: the state dict passed as weights is not for resnet50: it lacks 'fc.bias'; expected keys"),
        (lambda state: {**state, "extra": state["fc.bias"]}, "is not for resnet50: it holds 'extra'; expected keys"),
        (lambda state: {}, "is not for resnet50: it lacks 'conv1.weight'; expected keys such as 'conv1.weight'"),
        (lambda state: {**state, "fc.bias": torch.ones(3)}, "is not for resnet50: Error.* size mismatch for fc.bias"),
        (lambda state: {**state, "fc.bias": state["fc.bias"].log()}, "fc.bias in the state dict .* finite numbers"),
    ],
    ids=["missing", "unexpected", "empty", "of another shape", "not finite"],
)
def test_state_dicts_of_something_else(change: Callable, message: str, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=message):
        resnet50(change(state))


# ---- packages and the Hugging Face Hub ----


@pytest.mark.parametrize(
    ("network", "module"), [(convnext_small, "torchvision"), (resnet50, "torchvision"), (dinov2_base, "transformers")]
)
def test_a_missing_package_is_named(
    network: Callable[..., nn.Module], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    message = failure(ModuleNotFoundError, network, "random")
    assert message.startswith(f"network: {network.__name__} is built by the package {module}, which cannot be imported")
    assert message.endswith("pip install 'perceptual_ops[networks]'")
    lines = (Path(__file__).parent.parent / "pyproject.toml").read_text().splitlines()
    assert f'"{module}"' in next(line for line in lines if line.startswith("networks = ["))


MISMATCH = "operator torchvision::nms does not exist"


class Unusable:
    """A package whose names fail as transformers' do beside a torchvision for another torch."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause

    def __getattr__(self, name: str) -> None:
        raise ModuleNotFoundError("Could not import module. Are requirements defined correctly?") from self.cause


@pytest.mark.parametrize(
    ("network", "cause", "at_fault"),
    [
        (resnet50, RuntimeError(MISMATCH), "torchvision"),
        (dinov2_base, RuntimeError(MISMATCH), "torchvision"),
        (dinov2_base, AttributeError("partially initialized module 'torchvision' has no 'extension'"), "torchvision"),
        (dinov2_base, ImportError("cannot import name 'some_part' from 'torch'"), "transformers"),
    ],
)
def test_a_package_for_another_torch(
    network: Callable[..., nn.Module], cause: Exception, at_fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published.importlib, "import_module", lambda name: Unusable(cause))
    message = failure(ImportError, network, "random")
    assert message.startswith(f"network: {network.__name__} is built by the package ")
    assert message.endswith(f"({cause}): install a {at_fault} that fits torch {torch.__version__}")


def test_a_package_that_transformers_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.importlib, "import_module", lambda name: Unusable(ModuleNotFoundError("No hub")))
    assert failure(ModuleNotFoundError, dinov2_base, "random").endswith(
        "(No hub): pip install 'perceptual_ops[networks]'"
    )


def test_dinov2_from_the_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = failure(OSError, dinov2_base)
    assert message.startswith("weights: could not get facebook/dinov2-base of the Hugging Face Hub (")
    assert str(tmp_path) in message and "hf download facebook/dinov2-base" in message

    repository = tmp_path / "models--facebook--dinov2-base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    small = transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=12, num_hidden_layers=2, num_attention_heads=2)
    )
    small.save_pretrained(repository / "snapshots" / ("1" * 40))
    network = dinov2_base()
    assert all(value.equal(small.state_dict()[key]) for key, value in network.state_dict().items())
    assert not network.training
    with torch.no_grad():
        returned = network(torch.rand(1, 3, 28, 28))
        entered, _, last = returned.hidden_states  # nothing of it passed the final LayerNorm
        assert network.encoder.layer[1](network.encoder.layer[0](entered)).equal(last)
        assert network.layernorm(last).equal(returned.last_hidden_state)


@pytest.mark.parametrize("source", ["imagenet", "stlpips"])
def test_sources_that_hold_no_dinov2(source: str) -> None:
    expected = f'weights: expected "lvd142m", "random", a path or a state dict for dinov2_base, got {source!r}'
    assert failure(ValueError, dinov2_base, source) == expected
