"""Checks of the arguments that the operators and their reference share.

Every error names the argument, what was expected and what came. Shapes are compared axis by axis, so that symbolic
sizes under torch.compile stay symbolic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TypeVar, get_args

import torch
from torch import Tensor

from .names import Backend, Distance, FeatureDistance, GramNormalization, Reduction, Variation

Choice = TypeVar("Choice", bound=str)

LARGEST = sys.float_info.max
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DISTANCES: tuple[Distance, ...] = get_args(Distance)
CONTENT_DISTANCES: tuple[FeatureDistance, ...] = get_args(FeatureDistance)
COSINE_EPS = 1e-10  # added to the length of a vector, as in LPIPS
NORMALIZATIONS: tuple[GramNormalization, ...] = get_args(GramNormalization)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
VARIATIONS: tuple[Variation, ...] = get_args(Variation)
MAX_SEED = 2**64 - 1  # that torch's generators take
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def widest(device: torch.device) -> torch.dtype:
    """The dtype of sums over tiles and of statistics: fp64, or fp32 on a device that does not have it."""
    has_none = device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64)
    return torch.float32 if has_none else torch.float64


def accumulator_dtype(x: Tensor) -> torch.dtype:
    """fp32, or fp64 for fp64: the dtype of Grams, sums and losses."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_choice(name: str, value: object, choices: Sequence[Choice]) -> Choice:
    if not isinstance(value, str) or value not in choices:
        raise unknown(name, value, choices)
    return value  # type: ignore[return-value]  # it is one of them


def unknown(name: str, value: object, known: Iterable[str]) -> ValueError:
    """The error for a value that is not among the known ones."""
    return ValueError(f"{name}: expected one of {', '.join(map(repr, known))}; got {value!r}")


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def check_whole(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value


def check_seed(seed: object) -> int:
    number = check_whole("seed", seed, 0)
    if number > MAX_SEED:
        raise ValueError(f"seed: expected a whole number from 0 to {MAX_SEED}, got {number}")
    return number


def check_weight(name: str, value: object) -> float:
    """A weight of a part of a loss: from 0 to the largest fp32 number, since losses are summed in fp32."""
    number = check_number(name, value)
    if not 0 <= number <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name}: expected a number of at least 0 that fp32 can hold, got {value!r}")
    return number


def check_positive(name: str, value: object) -> float:
    number = check_number(name, value)
    if number < torch.finfo(torch.float32).tiny:
        raise ValueError(f"{name}: expected a number above 0 that fp32 can hold, got {value!r}")
    return number


def check_number(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    number = float(value)
    if not abs(number) <= LARGEST:  # torch.compile cannot trace math.isfinite
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return number


def check_map(name: str, x: object) -> Tensor:
    """A feature map or image batch (N, C, H, W) with C, H, W >= 1 of a floating dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected dtype float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {x.layout}; pass {name}.to_dense()")
    if x.dim() != 4:
        raise ValueError(f"{name}: expected shape (N, C, H, W), got {tuple(x.shape)}")
    if x.shape[1] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{name}: expected at least one channel and pixel, got shape {tuple(x.shape)}")
    return x


def check_list(name: str, values: object) -> list[Tensor]:
    if isinstance(values, Tensor) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: expected a list with one tensor per layer, got {type(values).__name__}")
    if not values:
        raise ValueError(f"{name}: expected at least one layer, got an empty list")
    return list(values)


def check_features(values: object) -> list[Tensor]:
    """Maps of one batch, dtype and device; layers may differ in C, H, W."""
    features = [check_map(f"features[{i}]", x) for i, x in enumerate(check_list("features", values))]
    first = features[0]
    for i, x in enumerate(features):
        if x.dtype != first.dtype or x.device != first.device:
            raise TypeError(
                f"features[{i}]: expected the dtype and device of features[0], {first.dtype} on {first.device}; "
                f"got {x.dtype} on {x.device}"
            )
        if x.shape[0] != first.shape[0]:
            raise ValueError(f"features[{i}]: expected a batch of {first.shape[0]} as in features[0], got {x.shape[0]}")
    return features


def check_weights(weights: object, layers: int) -> list[float]:
    """One number per layer; ones where none are given."""
    if weights is None:
        return [1.0] * layers
    if isinstance(weights, Tensor):
        refuse_gradient("weights", weights)
        weights = weights.tolist()
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        raise TypeError(f"weights: expected a list with one number per layer, got {type(weights).__name__}")
    if len(weights) != layers:
        raise ValueError(f"weights: expected {layers} numbers, one per layer; got {len(weights)}")
    for i, weight in enumerate(weights):
        if isinstance(weight, Tensor):
            refuse_gradient(f"weights[{i}]", weight)
            if weight.numel() != 1:
                raise ValueError(f"weights[{i}]: expected one number, got shape {tuple(weight.shape)}")
        elif not isinstance(weight, Real):
            raise TypeError(f"weights[{i}]: expected a number, got {type(weight).__name__}")
    return [float(weight) for weight in weights]


def halves(features: list[Tensor]) -> list[Tensor]:
    """1/2 for each channel of each layer: LPIPS with them is 1 - the cosine."""
    return [torch.full((x.shape[1],), 0.5, dtype=accumulator_dtype(x), device=x.device) for x in features]


def refuse_gradient(name: str, x: Tensor) -> None:
    if x.requires_grad:
        raise ValueError(f"{name}: expected no requires_grad, since no gradient flows to it; pass {name}.detach()")


def check_targets(values: object, features: list[Tensor]) -> list[Tensor]:
    """Targets shaped like the features, with their batch or a batch of one."""
    targets = check_list("targets", values)
    if len(targets) != len(features):
        raise ValueError(f"targets: expected {len(features)} layers as in features, got {len(targets)}")
    for i, (x, y) in enumerate(zip(features, targets, strict=True)):
        check_map(f"targets[{i}]", y)
        if y.dtype != x.dtype or y.device != x.device:
            raise TypeError(
                f"targets[{i}]: expected the dtype and device of features[{i}], {x.dtype} on {x.device}; "
                f"got {y.dtype} on {y.device}"
            )
        same_map = y.shape[1] == x.shape[1] and y.shape[2] == x.shape[2] and y.shape[3] == x.shape[3]
        if not same_map or (y.shape[0] != x.shape[0] and y.shape[0] != 1):
            raise ValueError(
                f"targets[{i}]: expected the shape of features[{i}], {tuple(x.shape)}, or a batch of 1; "
                f"got {tuple(y.shape)}"
            )
    return targets


def check_target_grams(values: object, features: list[Tensor]) -> list[Tensor]:
    """Square matrices over each layer's channels, with the batch of the features or a batch of one."""
    grams = check_list("target_grams", values)
    if len(grams) != len(features):
        raise ValueError(f"target_grams: expected {len(features)} layers as in features, got {len(grams)}")
    for i, (x, gram) in enumerate(zip(features, grams, strict=True)):
        name, channels, dtype = f"target_grams[{i}]", x.shape[1], accumulator_dtype(x)
        if not isinstance(gram, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(gram).__name__}")
        if gram.dtype != dtype or gram.device != x.device:
            raise TypeError(f"{name}: expected {dtype} on {x.device}, got {gram.dtype} on {gram.device}")
        square = gram.dim() == 3 and gram.shape[1] == channels and gram.shape[2] == channels
        if not square or (gram.shape[0] != x.shape[0] and gram.shape[0] != 1):
            raise ValueError(
                f"{name}: expected shape (N, {channels}, {channels}) with N = {x.shape[0]} or 1 "
                f"for features[{i}], got {tuple(gram.shape)}"
            )
        refuse_gradient(name, gram)
    return grams


def check_channel_weights(name: str, values: object, features: list[Tensor]) -> list[Tensor]:
    """One number per channel of each layer, (C,) or (1, C, 1, 1), as (C,) in the accumulation dtype."""
    weights = check_list(name, values)
    if len(weights) != len(features):
        raise ValueError(f"{name}: expected {len(features)} layers as in features, got {len(weights)}")
    found = []
    for i, (x, weight) in enumerate(zip(features, weights, strict=True)):
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            came = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
            raise TypeError(f"{name}[{i}]: expected a floating-point tensor, got {came}")
        channels = x.shape[1]
        if tuple(weight.shape) not in ((channels,), (1, channels, 1, 1)):
            raise ValueError(
                f"{name}[{i}]: expected one number per channel of features[{i}], shape ({channels},) or "
                f"(1, {channels}, 1, 1); got {tuple(weight.shape)}"
            )
        if weight.device != x.device:
            raise TypeError(f"{name}[{i}]: expected a tensor on {x.device}, got {weight.device}")
        refuse_gradient(f"{name}[{i}]", weight)
        found.append(weight.reshape(channels).to(accumulator_dtype(x)))
    return found


def check_lpips_settings(eps: object, eps_inside: object, reduction: str, spatial: object) -> float:
    """The settings of lpips_distance; its eps."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_flag("eps_inside", eps_inside)
    check_flag("spatial", spatial)
    if spatial and reduction != "none":
        raise ValueError(
            f'reduction: expected "none" with spatial=True, which gives a map per layer; got {reduction!r}'
        )
    return check_positive("eps", eps)


def check_distance(distance: str, eps: float, delta: float, choices: Sequence[str] = DISTANCES) -> float:
    """The distance's one parameter: eps for Charbonnier, delta for Huber, 0 for the others, which have none."""
    check_choice("distance", distance, choices)
    eps, delta = check_positive("eps", eps), check_positive("delta", delta)
    parameters = {"mse": 0.0, "l1": 0.0, "charbonnier": eps, "huber": delta, "sse": 0.0, "cosine": 0.0}
    if distance not in parameters:
        raise unknown("distance", distance, parameters)
    return parameters[distance]


def reduce(loss: Tensor, reduction: str) -> Tensor:  # (N) -> () or (N)
    """Reduces over the batch; a batch of 0 gives 0, not the mean of nothing."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean() if loss.shape[0] else loss.sum()
    raise unknown("reduction", reduction, REDUCTIONS)
