"""Bad arguments: each is refused by name, with what was expected and what came, before any operator runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import perceptual_ops as po


def maps(*shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 4, 5))


def grams(*shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 3))


def channels(*shape: int) -> list[Tensor]:
    return [torch.rand(shape or (3,))]


Call = Callable[[ModuleType], object]

BAD: list[tuple[str, type[Exception], Call, str]] = [
    ("not a tensor", TypeError, lambda m: m.gram_matrix([1.0]), "x: expected a tensor, got list"),
    ("integers", TypeError, lambda m: m.gram_matrix(maps().long()), "x: expected dtype .* got torch.int64"),
    ("three axes", ValueError, lambda m: m.total_variation(maps(3, 4, 5)), r"x: expected shape .* got \(3, 4, 5\)"),
    ("no pixels", ValueError, lambda m: m.gram_matrix(maps(1, 3, 0, 5)), r"at least one .* got shape \(1, 3, 0, 5\)"),
    ("no tensor", TypeError, lambda m: m.channel_statistics(None), "x: expected a tensor, got NoneType"),
    ("two axes", ValueError, lambda m: m.channel_statistics(maps(3, 4)), r"x: expected shape .* got \(3, 4\)"),
    ("normalize", ValueError, lambda m: m.gram_matrix(maps(), "c"), "normalize: expected one of .* got 'c'"),
    ("kind", ValueError, lambda m: m.total_variation(maps(), "l3"), "kind: expected one of .* got 'l3'"),
    ("reduction", ValueError, lambda m: m.total_variation(maps(), "l1", "max"), "reduction: .* got 'max'"),
    ("distance", ValueError, lambda m: m.feature_loss([maps()], [maps()], None, "l2"), "distance: .* got 'l2'"),
    ("sparse", TypeError, lambda m: m.gram_matrix(maps().to_sparse()), "x: expected a dense tensor"),
    ("two weights", ValueError, lambda m: m.feature_loss([maps()], [maps()], [torch.ones(2)]), r"weights\[0\]: .*one"),
    ("eps", ValueError, lambda m: m.feature_loss([maps()], [maps()], eps=0), "eps: expected a number above 0 .* got 0"),
    ("delta", ValueError, lambda m: m.style_loss([maps()], [grams()], delta=-1.0), "delta: .* got -1.0"),
    ("bare tensor", TypeError, lambda m: m.feature_loss(maps(), [maps()]), "features: expected a list .* got Tensor"),
    ("no layers", ValueError, lambda m: m.feature_loss([], []), "features: expected at least one layer"),
    ("layers", ValueError, lambda m: m.feature_loss([maps()], [maps()] * 2), "targets: expected 1 layers .* got 2"),
    (
        "batch",
        ValueError,
        lambda m: m.style_loss([maps(), maps(3, 3, 4, 5)], [grams()] * 2),
        r"features\[1\]: .* got 3",
    ),
    ("dtypes", TypeError, lambda m: m.style_loss([maps(), maps().half()], [grams()] * 2), r"features\[1\]: .*float16"),
    ("target dtype", TypeError, lambda m: m.feature_loss([maps()], [maps().half()]), r"targets\[0\]: .*float16"),
    (
        "target size",
        ValueError,
        lambda m: m.feature_loss([maps()], [maps(2, 3, 4, 6)]),
        r"targets\[0\]: .*\(2, 3, 4, 6\)",
    ),
    ("target batch", ValueError, lambda m: m.feature_loss([maps()], [maps(3, 3, 4, 5)]), r"targets\[0\]: .*batch of 1"),
    ("gram size", ValueError, lambda m: m.style_loss([maps()], [grams(1, 4, 4)]), r"target_grams\[0\]: .*\(1, 4, 4\)"),
    ("gram dtype", TypeError, lambda m: m.style_loss([maps()], [grams().double()]), r"target_grams\[0\]: .*float64"),
    ("gram type", TypeError, lambda m: m.style_loss([maps()], [3]), r"target_grams\[0\]: expected a tensor, got int"),
    ("gram count", ValueError, lambda m: m.style_loss([maps()], [grams()] * 2), "target_grams: expected 1 layers"),
    (
        "gram gradient",
        ValueError,
        lambda m: m.style_loss([maps()], [grams().requires_grad_()]),
        r"target_grams\[0\]: expected no requires_grad .* pass target_grams\[0\].detach\(\)",
    ),
    ("weights count", ValueError, lambda m: m.feature_loss([maps()], [maps()], [1, 2]), "weights: expected 1 .* got 2"),
    ("weights type", TypeError, lambda m: m.feature_loss([maps()], [maps()], "a"), "weights: .* got str"),
    ("weight type", TypeError, lambda m: m.feature_loss([maps()], [maps()], ["a"]), r"weights\[0\]: .* got str"),
    (
        "weights gradient",
        ValueError,
        lambda m: m.feature_loss([maps()], [maps()], torch.ones(1, requires_grad=True)),
        "weights: expected no requires_grad",
    ),
    (
        "channel weights list",
        TypeError,
        lambda m: m.lpips_distance([maps()], [maps()], torch.rand(3)),
        "channel_weights: expected a list .* got Tensor",
    ),
    (
        "channel weights count",
        ValueError,
        lambda m: m.lpips_distance([maps()], [maps()], channels() * 2),
        "channel_weights: expected 1 layers .* got 2",
    ),
    (
        "channel weights size",
        ValueError,
        lambda m: m.lpips_distance([maps()], [maps()], channels(4)),
        r"channel_weights\[0\]: .*\(3,\) or .*\(1, 3, 1, 1\); got \(4,\)",
    ),
    (
        "channel weights type",
        TypeError,
        lambda m: m.lpips_distance([maps()], [maps()], [3.0]),
        r"channel_weights\[0\]: expected a floating-point tensor, got float",
    ),
    (
        "channel weights dtype",
        TypeError,
        lambda m: m.lpips_distance([maps()], [maps()], [torch.ones(3, dtype=torch.int64)]),
        r"channel_weights\[0\]: .* got torch.int64",
    ),
    (
        "channel weights gradient",
        ValueError,
        lambda m: m.lpips_distance([maps()], [maps()], [torch.rand(3, requires_grad=True)]),
        r"channel_weights\[0\]: expected no requires_grad .* pass channel_weights\[0\].detach\(\)",
    ),
    ("lpips eps", ValueError, lambda m: m.lpips_distance([maps()], [maps()], channels(), 0.0), "eps: .* got 0.0"),
    (
        "eps_inside",
        TypeError,
        lambda m: m.lpips_distance([maps()], [maps()], channels(), eps_inside=1),
        "eps_inside: expected True or False, got 1",
    ),
    (
        "spatial",
        TypeError,
        lambda m: m.lpips_distance([maps()], [maps()], channels(), spatial="yes"),
        "spatial: expected True or False, got 'yes'",
    ),
    (
        "spatial reduction",
        ValueError,
        lambda m: m.lpips_distance([maps()], [maps()], channels(), reduction="mean", spatial=True),
        "reduction: expected \"none\" with spatial=True.* got 'mean'",
    ),
    (
        "lpips target",
        ValueError,
        lambda m: m.lpips_distance([maps()], [maps(3, 3, 4, 5)], channels()),
        r"targets\[0\]: .*batch of 1",
    ),
    (
        "alpha",
        ValueError,
        lambda m: m.dists_distance([maps()], [maps()], channels(2), channels()),
        r"alpha\[0\]: .* got \(2,\)",
    ),
    (
        "beta",
        ValueError,
        lambda m: m.dists_distance([maps()], [maps()], channels(), channels(1, 3)),
        r"beta\[0\]: .* got \(1, 3\)",
    ),
    (
        "beta gradient",
        ValueError,
        lambda m: m.dists_distance([maps()], [maps()], channels(), [torch.rand(3, requires_grad=True)]),
        r"beta\[0\]: expected no requires_grad",
    ),
    (
        "dists reduction",
        ValueError,
        lambda m: m.dists_distance([maps()], [maps()], channels(), channels(), "max"),
        "reduction: .* got 'max'",
    ),
    (
        "dists target",
        TypeError,
        lambda m: m.dists_distance([maps()], [maps().half()], channels(), channels()),
        r"targets\[0\]: .*float16",
    ),
]


@pytest.mark.parametrize("module", [po, po.reference], ids=["ops", "reference"])
@pytest.mark.parametrize(("error", "call", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_refused_by_name(module: ModuleType, error: type[Exception], call: Call, message: str) -> None:
    with pytest.raises(error) as raised:
        call(module)
    assert re.search(message.replace(" .* ", r"[\s\S]*"), str(raised.value)), str(raised.value)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend: expected one of 'auto', 'native', 'reference'; got 'cuda'"):
        po.gram_matrix(maps(), backend="cuda")


def test_weights_as_a_tensor_of_numbers() -> None:
    x, y = maps(), maps()
    assert torch.equal(po.feature_loss([x], [y], torch.tensor([2.0])), po.feature_loss([x], [y], [2.0]))


@pytest.mark.usefixtures("library")
def test_compiled_operators_check_what_memory_safety_needs(native: str) -> None:
    library, x = torch.ops.perceptual_ops, maps()
    calls = {
        "dimensions": lambda: library.gram_matrix(maps(3, 4, 5), "chw"),
        "grad: expected": lambda: library.gram_matrix_backward(grams(2, 2, 2), x, "chw"),
        "targets": lambda: library.feature_loss([x], [maps(2, 3, 4, 4)], [1.0], "mse", 0.0),
        "weights": lambda: library.feature_loss([x], [x], [1.0, 1.0], "mse", 0.0),
        "others": lambda: library.style_loss_backward(None, [x], [grams()], [maps().half()]),
        "slopes: expected one": lambda: library.style_loss_backward(None, [x], [grams(1, 3, 3)], [None]),
        r"slopes\[0\]: expected": lambda: library.style_loss_backward(None, [x], [grams(2, 2, 2)], [None]),
        "target_grams": lambda: library.style_loss([x], [grams(2, 2, 2)], [1.0], "chw", "mse", 0.0),
        "normalize": lambda: library.gram_matrix(x, "c"),
        "distance": lambda: library.feature_loss([x], [x], [1.0], "l7", 0.0),
        "kind": lambda: library.total_variation(x, "l3"),
        "dtype": lambda: library.gram_matrix(x.long(), "chw"),
        "x: expected at least one": lambda: library.gram_matrix_backward(grams(2, 0, 0), maps(2, 0, 3, 3), "chw"),
        "features: expected at least one": lambda: library.style_loss(
            [maps(2, 0, 3, 3)], [grams(2, 0, 0)], [1.0], "chw", "mse", 0.0
        ),
    }
    for message, call in calls.items():
        with pytest.raises(RuntimeError, match=message):
            call()


@pytest.mark.usefixtures("library")
def test_channel_statistics_check_what_memory_safety_needs(native: str) -> None:
    library, x, numbers, grad = torch.ops.perceptual_ops, maps(), [torch.ones(2, 2, 3)], torch.ones(2)
    backward = library.channel_statistics_backward
    calls = [
        ("features: expected .* dimensions", lambda: library.channel_statistics([maps(3, 4, 5)])),
        ("features: expected the batch", lambda: library.channel_statistics([x, maps(1, 3, 4, 5)])),
        ("features: expected dtype", lambda: library.channel_statistics([x.long()])),
        ("statistics: expected 1", lambda: backward(None, [x], [], numbers, [20], [None])),
        (r"statistics\[0\]: expected \(2, 2, 3\)", lambda: backward(None, [x], [grams()], numbers, [20], [None])),
        (r"slopes\[0\]: expected \(2, 2, 3\)", lambda: backward(None, [x], numbers, [grams()], [20], [None])),
        (r"slopes\[0\]: expected float32", lambda: backward(None, [x], numbers, [numbers[0].half()], [20], [None])),
        ("pixels: expected 1, got 2", lambda: backward(None, [x], numbers, numbers, [20, 20], [None])),
        ("pixels: expected at least 1, got 0", lambda: backward(None, [x], numbers, numbers, [0], [None])),
        (r"others\[0\]: expected the shape", lambda: backward(None, [x], numbers, numbers, [20], [maps(2, 3, 4, 4)])),
        ("grad: expected float32", lambda: backward(grad.half(), [x], numbers, numbers, [20], [None])),
    ]
    for message, call in calls:
        with pytest.raises(RuntimeError, match=message):
            call()


@pytest.mark.usefixtures("library")
def test_compiled_metrics_check_what_memory_safety_needs(native: str) -> None:
    library, x, weights, grad = torch.ops.perceptual_ops, maps(), channels(), torch.ones(2)
    settings, wanted, numbers = (1e-10, False), (True, True), [torch.ones(2, 6, 3)]
    calls = [
        ("features: expected .* dimensions", lambda: library.lpips_distance([maps(3, 4, 5)], [x], weights, *settings)),
        ("targets: expected 1", lambda: library.lpips_distance([x], [], weights, *settings)),
        (r"targets\[0\]: expected the shape", lambda: library.lpips_map([x], [maps(2, 3, 4, 4)], weights, *settings)),
        (r"targets\[0\]: expected the dtype", lambda: library.lpips_map([x], [x.half()], weights, *settings)),
        ("channel_weights: expected 1", lambda: library.lpips_distance([x], [x], weights * 2, *settings)),
        (r"channel_weights\[0\]: expected \(3\)", lambda: library.lpips_map([x], [x], channels(2), *settings)),
        (
            r"channel_weights\[0\]: expected float32",
            lambda: library.lpips_distance([x], [x], [weights[0].double()], *settings),
        ),
        (
            r"grad: expected \(2\)",
            lambda: library.lpips_distance_backward(torch.ones(3), [x], [x], weights, *settings, *wanted),
        ),
        (
            "grad: expected float32",
            lambda: library.lpips_distance_with_gradient([x], [x], weights, *settings, grad.double(), *wanted),
        ),
        ("grads: expected 1", lambda: library.lpips_map_backward([], [x], [x], weights, *settings, *wanted)),
        (
            r"grads\[0\]: expected \(2, 1, 4, 5\)",
            lambda: library.lpips_map_backward([maps(2, 1, 4, 4)], [x], [x], weights, *settings, *wanted),
        ),
        (
            r"grads\[0\]: expected float32",
            lambda: library.lpips_map_backward([maps(2, 1, 4, 5).half()], [x], [x], weights, *settings, *wanted),
        ),
        ("alpha", lambda: library.dists_distance([x], [x], channels(4), weights)),
        ("beta", lambda: library.dists_distance([x], [x], weights, [])),
        (
            "grad: expected",
            lambda: library.dists_distance_backward(grad.half(), [x], [x], weights, weights, numbers, *wanted),
        ),
        (
            "statistics: expected 1",
            lambda: library.dists_distance_backward(grad, [x], [x], weights, weights, [], *wanted),
        ),
        (
            r"statistics\[0\]: expected \(2, 6, 3\)",
            lambda: library.dists_distance_backward(grad, [x], [x], weights, weights, [torch.ones(2, 5, 3)], *wanted),
        ),
        (
            r"statistics\[0\]: expected float32",
            lambda: library.dists_distance_backward(grad, [x], [x], weights, weights, [numbers[0].double()], *wanted),
        ),
        ("x: expected .* dimensions", lambda: library.l2_pool(maps(3, 4, 5))),
        ("x: expected dtype", lambda: library.l2_pool(x.long())),
        (r"grad: expected \(2, 3, 2, 3\)", lambda: library.l2_pool_backward(x, x)),
        ("grad: expected the dtype", lambda: library.l2_pool_backward(maps(2, 3, 2, 3).half(), x)),
    ]
    for message, call in calls:
        with pytest.raises(RuntimeError, match=message):
            call()
