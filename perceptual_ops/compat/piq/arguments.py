"""Distances and weights as users of piq write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ... import _checks as checks
from ...names import FeatureDistance

DistanceName = Literal["mse", "mae"]
DISTANCES: dict[DistanceName, type[nn.Module]] = {"mse": nn.MSELoss, "mae": nn.L1Loss}
FUSED: dict[type, FeatureDistance] = {nn.MSELoss: "mse", nn.L1Loss: "l1"}

Distance = Callable[[Tensor, Tensor], Tensor]  # two maps (N, C, H, W) -> one


def checked_distance(name: str, distance: DistanceName | Distance) -> Distance:
    """The module that piq makes of "mse" and "mae"; a function of the user's own as it is."""
    if callable(distance):
        return distance
    checks.check_choice(name, distance, tuple(DISTANCES))
    return DISTANCES[distance](reduction="none")


def fused_name(distance: Distance) -> FeatureDistance | None:
    """What the operators call the distance; None: they have none such."""
    is_map = getattr(distance, "reduction", None) == "none"
    return FUSED.get(type(distance)) if is_map else None


def checked_weights(name: str, weights: Sequence[float | Tensor]) -> tuple[float | Tensor, ...]:
    """Each weight as a number where it is one, else as the tensor it is."""
    if isinstance(weights, (str, Tensor)) or not isinstance(weights, Sequence):
        raise TypeError(f"{name}: expected a list with a number or a tensor for each layer, got {weights!r}")
    found: list[float | Tensor] = []
    for i, weight in enumerate(weights):
        if not isinstance(weight, Tensor):
            found.append(checks.check_number(f"{name}[{i}]", weight))
            continue
        checks.refuse_gradient(f"{name}[{i}]", weight)
        with torch.inference_mode(False):  # or it could not serve in training later
            found.append(weight.item() if weight.numel() == 1 else weight.clone() if weight.is_inference() else weight)
    return tuple(found)


def channel_weights(weights: Sequence[float | Tensor], maps: Sequence[Tensor]) -> list[Tensor] | None:
    """One weight (C) for each channel of each map (N, C, H, W); None where there are more."""
    found = []
    for given, x in zip(weights, maps, strict=False):
        weight = torch.as_tensor(given, dtype=checks.accumulator_dtype(x), device=x.device)
        if weight.numel() not in (1, x.shape[1]) or tuple(weight.shape[-2:]) not in ((), (1, 1)):
            return None
        found.append(weight.reshape(-1).expand(x.shape[1]))
    return found
