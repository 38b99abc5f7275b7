"""What the parts of a training take from a checkpoint: all that steps change, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # that Adam keeps of a parameter


def restore(parts: Mapping[str, Any], states: Mapping[str, Mapping[Any, Any]], done: int) -> None:
    """Brings a model, its optimizer (Adam), schedule (LambdaLR) and scaler (GradScaler) to where they were.

    Options, such as Adam's decay, stay as the parts were made with.

    Args:
        parts: By the names "model", "optimizer", "schedule" and "scaler".
        states: What their `state_dict` said, by the same names.
        done: Steps.

    Raises:
        Exception: Of any kind; a ValueError where torch would not look at what it is given.
    """
    updates = _restore_schedule(parts["schedule"], states["schedule"], done)
    _restore_model(parts["model"], states["model"])
    _restore_adam(parts["optimizer"], states["optimizer"], updates)
    _restore_scaler(parts["scaler"], states["scaler"])


def _restore_schedule(schedule: torch.optim.lr_scheduler.LambdaLR, state: Mapping[Any, Any], done: int) -> int:
    """Also sets the optimizer's step sizes. How many updates there were: fewer than steps, where fp16 left some out."""
    updates = state.get("last_epoch")
    if not _is_whole(updates) or not 0 <= updates <= done:
        raise ValueError(f"schedule: expected 0 to {done} updates, got {updates!r}")
    rates = [rate * factor(updates) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    moved = {"last_epoch": updates, "_step_count": updates + 1, "_last_lr": rates}
    schedule.load_state_dict({**schedule.state_dict(), **moved})
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return updates


def _restore_model(model: nn.Module, state: Mapping[Any, Any]) -> None:
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"model: expected names of weights, got {name!r}")
    model.load_state_dict(state)


def _restore_adam(optimizer: torch.optim.Optimizer, state: Mapping[Any, Any], updates: int) -> None:
    """A parameter that the loss does not depend on has no moments."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = state.get("state")
    if not isinstance(found, Mapping) or not all(_is_whole(key) and 0 <= key < len(parameters) for key in found):
        raise ValueError(f"optimizer: expected the moments of {len(parameters)} parameters by their numbers")
    if bool(found) != bool(updates):
        raise ValueError(f"optimizer: expected the moments of {updates} updates, got those of {len(found)} parameters")
    for number, moments in found.items():
        if not isinstance(moments, Mapping) or set(moments) != MOMENTS:
            raise ValueError(f"optimizer: expected {', '.join(sorted(MOMENTS))} of parameter {number}")
        for name, value in moments.items():
            shape = tuple(() if name == "step" else parameters[number].shape)
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"optimizer: expected {name} of parameter {number} as numbers of shape {shape}")
            if not value.isfinite().all() or (name != "exp_avg" and (value < 0).any()):
                raise ValueError(f"optimizer: expected {name} of parameter {number} finite and in its range")
        if not 1 <= moments["step"] <= updates:
            raise ValueError(f"optimizer: expected 1 to {updates} updates of parameter {number}")
    optimizer.load_state_dict({"state": dict(found), "param_groups": optimizer.state_dict()["param_groups"]})


def _restore_scaler(scaler: torch.amp.GradScaler, state: Mapping[Any, Any]) -> None:
    """Of one that is not enabled the state is empty."""
    made = scaler.state_dict()
    if set(state) != set(made):
        raise ValueError(f"scaler: expected {', '.join(made) or 'nothing, as the precision needs none'}")
    if not made:
        return
    scale, unbroken = state["scale"], state["_growth_tracker"]
    if not isinstance(scale, float) or not 0 < scale < math.inf or not _is_whole(unbroken) or unbroken < 0:
        raise ValueError(f"scaler: expected a scale above 0 and a count of steps, got {scale!r} and {unbroken!r}")
    scaler.load_state_dict({**made, "scale": scale, "_growth_tracker": unbroken})


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
