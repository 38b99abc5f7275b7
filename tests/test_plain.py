"""The library in plain PyTorch: all operators of the compiled one, chosen by a variable of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from activation_maps import grid_map, normal_map
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import perceptual_ops as po
from bench.memory import allocated_peak
from perceptual_ops import _checks, _native, ops, plain
from perceptual_ops._schemas import SCHEMAS
from perceptual_ops.plain import activations, blocks, feature_maps, metrics


def written(schema: str) -> str:
    return str(torch._C.parse_schema(f"perceptual_ops::{schema}"))


def test_every_operator_has_its_plain_form() -> None:
    assert {one.__name__ for one in plain.OPERATORS} == set(SCHEMAS) - {"build_info"}


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"build_info"}))
def test_the_operator_in_force_has_its_schema(name: str) -> None:
    """Compiled or plain."""
    assert str(getattr(torch.ops.perceptual_ops, name).default._schema) == written(f"{name}{SCHEMAS[name]}")


def test_the_environment_chooses() -> None:
    """Without a warning; the engine is lean, and its gradient that of autograd."""
    script = """
        import warnings
        warnings.simplefilter("error")
        import torch
        import perceptual_ops as po
        from perceptual_ops._native import native
        assert native.reason == "PERCEPTUAL_OPS_NATIVE=0 in the environment"
        images = torch.rand(2, 2, 3, 24, 32, dtype=torch.float64).unbind()
        gradients = []
        for options in ({}, {"engine": "autograd"}):
            loss = po.LPIPS("squeeze", weights="random", **options).double()
            assert loss.runs_lean(images=images[0]) == (not options)
            x = images[0].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(x, images[1]).sum(), x)
            gradients.append(gradient)
        torch.testing.assert_close(*gradients)
        po.gram_matrix(images[0])
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PERCEPTUAL_OPS_NATIVE": "0"}
    subprocess.run(run, check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("platform", "version", "reason"),
    [
        ("darwin", "2.13.0", "the compiled operators are for Linux, this is darwin"),
        ("linux", "2.9.1+cu128", "the compiled operators need torch >= 2.10, this is 2.9.1+cu128"),
        ("linux", "2.10.0", ""),
    ],
)
def test_why_no_library_is_looked_for(
    platform: str, version: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(_native.SWITCH, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch, "__version__", version)
    assert _native._why_not_wanted() == reason


@pytest.mark.parametrize("value", ["false", "off", "no", "2", " 0"])
def test_an_unknown_value_of_the_switch_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_native.SWITCH, value)
    with pytest.raises(ValueError, match=f"PERCEPTUAL_OPS_NATIVE: expected \"0\", .*, got '{value}' .*, or unset it"):
        _native._why_not_wanted()


def test_native_is_refused_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "native", _native.NativeLibrary(_native.SWITCHED_OFF, _native.SWITCHED_OFF))
    with pytest.raises(RuntimeError, match="PERCEPTUAL_OPS_NATIVE=0"):
        ops.use_engine(torch.device("cpu"), "native")


def test_operators_are_replaced_while_compiling(library: None) -> None:
    """Without torch's warning, and in one graph."""
    script = """
        import torch
        import perceptual_ops as po
        from perceptual_ops import plain
        loss, x, y = po.LPIPS("squeeze", weights="random"), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
        compiled = loss(x, y)
        found = torch.compile(lambda: plain.replaces_compiled("CPU") and loss(x, y), fullgraph=True, backend="eager")()
        kernels = torch._C._dispatch_dump("perceptual_ops::lpips_distance")
        assert "perceptual_ops/plain" in kernels.split("CPU: ")[1].splitlines()[0], kernels
        torch.testing.assert_close(found, compiled)
    """
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(script)], check=True)


@pytest.mark.parametrize(("capabilities", "lean"), [([(7, 5), (7, 5)], True), ([(9, 0), (7, 5)], False)])
def test_plain_operators_are_of_all_gpus_or_none(
    capabilities: list[tuple[int, int]], lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning says which, however a GPU is used first."""
    replaced = []
    library = _native.NativeLibrary("", "", {"cuda": "13.0", "cuda_architectures": "80 90 +PTX"})
    monkeypatch.setattr(ops, "native", library)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(_native, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(plain, "replaces_compiled", lambda key: not replaced.append(key))
    monkeypatch.setattr(_native, "_told", set())
    _native._gpu_lacks.cache_clear()
    with pytest.warns(RuntimeWarning) as caught:
        assert ops.use_engine(torch.device("cuda", 1), "auto") == lean
        ops._falls_back(library.refusal(torch.device("cuda", 1)), "auto")
    assert len(caught) == 1
    beside = "" if lean else _native.BESIDE_A_SERVED_GPU
    assert str(caught[0].message).endswith(f"capability 8.0 or newer, cuda:1 is of capability 7.5{beside}")
    assert replaced == ["CUDA"] * lean
    assert lean or (ops.use_engine(torch.device("cuda", 0), "auto") and not replaced)
    _native._gpu_lacks.cache_clear()


class WithoutFp64(TorchDispatchMode):
    """A device that does not have it, as "mps"."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "perceptual_ops":  # on, past this mode, so that it sees what the operator calls
            with self:
                result = func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (list, tuple)) else [result]:
            assert not isinstance(made, Tensor) or made.dtype != torch.float64, f"{func} made fp64"
        return result


@pytest.mark.parametrize("tile_size", [None, 32])
@pytest.mark.parametrize("metric", ["style", "statistics", "lpips", "dists"])
def test_a_device_without_fp64(metric: str, tile_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine makes none there, of images in tiles neither; the loss is the same."""
    layers, style = ["relu1_1", "relu2_1"], {"style": "gram", "statistics": "both"}.get(metric)
    if style:
        loss = po.PerceptualLoss(
            "vgg11", content_layers=[], style_layers=layers, style_statistics=style, weights="random"
        )
        loss.set_style(torch.rand(1, 3, 32, 32))
    else:
        loss = po.DISTS(weights="random") if metric == "dists" else po.LPIPS("squeeze", weights="random")
    images = torch.rand(2, 1, 3, 64, 64).unbind()
    given = (images[0].requires_grad_(), *([] if style else [images[1]]))
    expected = loss(*given).sum()
    monkeypatch.setattr(_checks, "widest", lambda device: torch.float32)
    loss.tile_size = tile_size if metric != "lpips" else None
    with WithoutFp64():
        value = loss(*given).sum()
        (gradient,) = torch.autograd.grad(value, images[0])
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected, images[0])[0], rtol=1e-3, atol=1e-3 * gradient.abs().max().item()
    )


@pytest.mark.parametrize(
    "pooling", [("max", 2, 2), ("max", 3, 2), ("max", 5, 2), ("max", 2, 3), ("average", 3, 2)], ids=str
)
@pytest.mark.parametrize("height", [17, 18, 37])
def test_pooling_backward_has_the_same_bits_by_blocks(
    pooling: tuple[str, int, int], height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows reach over the ends of blocks of 8 rows, and what no window reads is in the last one or alone in it."""
    shape = 2, 3, height, 15
    pooled, codes = activations.bias_relu_pool(grid_map(shape, torch.float32, "cpu"), None, True, *pooling, True)
    grad = normal_map(tuple(pooled.shape), torch.float32, "cpu")
    x, below = (normal_map(shape, torch.float32, "cpu", seed) for seed in (1, 2))
    signs = torch.randint(256, (2, -(-x[0].numel() // 8)), dtype=torch.uint8)
    found = []
    for block in (blocks.CPU_BLOCK, 1):
        monkeypatch.setattr(blocks, "CPU_BLOCK", block)
        found.append(x.clone())
        settings = codes if pooling[0] == "max" else None, signs, True, below, None
        activations.bias_relu_pool_backward_(found[-1], grad, *settings, *pooling, None)
    assert torch.equal(*found)


@pytest.mark.parametrize("pooling", [("max", 2, 2), ("max", 3, 2), ("average", 3, 2)], ids=str)
def test_pooling_backward_takes_a_part_of_a_map(pooling: tuple[str, int, int]) -> None:
    x = normal_map((1, 64, 255, 255), torch.float32, "cpu")
    pooled, codes = activations.bias_relu_pool(x, None, True, *pooling, True)
    signs = activations.bias_relu_(x, None, True)
    settings = codes if pooling[0] == "max" else None, signs, False, None, None

    def call() -> None:
        activations.bias_relu_pool_backward_(x, pooled, *settings, *pooling, None)

    assert allocated_peak(call) < x.nbytes / 4


class Calls(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["feature mse", "feature cosine", "lpips", "lpips map"])
def test_a_backward_makes_no_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which take two calls at least for each block of rows."""
    monkeypatch.setattr(blocks, "CPU_BLOCK", 1)
    rows = 128
    x, y = (normal_map((2, 3, rows, 5), torch.float32, "cpu", seed) for seed in (1, 2))
    numbers, weights = torch.rand(2), torch.rand(3)
    upstream = numbers.view(-1, 1, 1, 1).expand(2, 1, rows, 5)
    kind, _, setting = name.partition(" ")
    made = []
    for backward in (True, False):
        with Calls() as calls:
            if kind == "feature":
                terms = [x], [y], [1.0], setting, 0.0
                if backward:
                    feature_maps.feature_loss_backward(numbers, *terms)
                else:
                    feature_maps.feature_loss_with_gradient(*terms, numbers)
            else:
                pair = [x], [y], [weights], 1e-8, True
                if backward and setting:
                    metrics.lpips_map_backward([upstream], *pair, True, True)
                elif backward:
                    metrics.lpips_distance_backward(numbers, *pair, True, True)
                else:
                    metrics.lpips_distance_with_gradient(*pair, numbers, True, True)
        made.append(calls.count)
    assert made[0] + 2 * rows / blocks.ROWS <= made[1]
