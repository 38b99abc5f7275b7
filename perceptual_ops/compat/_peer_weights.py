"""Weights in a checkpoint of a peer whose users train them, taken by the loss that stands in for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..losses.metric import MetricLoss
from ..networks.layers import convolutions_of
from ..networks.load import ARCHITECTURES, BLURRED_ARCHITECTURES, checked_network
from ..networks.state_dicts import convolution_weights

logger = logging.getLogger(__name__)


def take_numbers(loss: MetricLoss, numbers: Sequence[Tensor], saved: torch.dtype) -> bool:
    """Makes numbers, each (C,), the learned ones of a loss; whether they, saved in a dtype, are others than it had."""
    is_new = not all(same(own, other.to(saved)) for own, other in zip(loss.exact_weights(), numbers, strict=True))
    if is_new:
        loss.set_learned_weights(numbers)
    return is_new


def trunk_weights(loss: MetricLoss, state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The weights of a loss's network in a peer's state dict, checked, under the keys of the network.

    Raises:
        ValueError: Of another network; see `convolution_weights`.
    """
    network = loss.frozen_network
    if network.pooling == "blur":
        raise ValueError(
            f'{origin}: expected the network that it was written with, got a loss of weights="stlpips"; make the loss '
            f"without, or leave the network's keys out"
        )
    name = checked_network("network", network.name)
    forms = ARCHITECTURES[name], BLURRED_ARCHITECTURES[name]
    return convolution_weights(state, network.name, forms, convolutions_of(network.layers), origin)


def take_trunk(loss: MetricLoss, weights: Mapping[str, Tensor], saved: torch.dtype) -> bool:
    """Makes weights those of a loss's network; as `take_numbers`."""
    own = loss.frozen_network.state_dict()
    is_new = not all(same(own[key], weight.to(saved)) for key, weight in weights.items())
    if is_new:
        loss.replace_network_weights(weights)
    return is_new


def has_no_numbers(loss: MetricLoss, state: Mapping[str, Tensor], origin: str) -> bool:
    """Whether a loss or a state dict is on the meta device, so that nothing can be taken; warns."""
    on_meta = "loss" if loss.device.type == "meta" else "checkpoint"
    found = on_meta == "loss" or any(value.is_meta for value in state.values())
    if found:
        warnings.warn(
            f"{origin}: nothing is taken of it, for the {on_meta} is on the meta device, where tensors hold no "
            "numbers; make the loss and load the checkpoint on another",
            stacklevel=2,
        )
    return found


def dtype_of(state: Mapping[str, Tensor]) -> torch.dtype:
    """The narrowest dtype in a state dict: what it was saved in."""
    return max((value.dtype for value in state.values() if value.is_floating_point()), key=_eps, default=torch.float32)


def refuse_others(state: Mapping[str, Tensor], constants: Mapping[str, Sequence[float]], origin: str) -> None:
    """Raises for constants of the peer, three numbers by key, that were changed there."""
    for key, numbers in constants.items():
        found = state.get(key)
        if found is not None and not (found.numel() == 3 and same(torch.tensor(numbers), found.flatten())):
            raise ValueError(
                f"{origin}: expected {key} to be {numbers}, with which images are normalised here, got "
                f"{found.flatten().tolist()}; a loss of perceptual_ops takes mean= and std="
            )


def tell(place: str, taken: Mapping[str, bool], remedy: str) -> None:
    """Says what of a peer's state was taken: parts by name, and whether they differ from ours.

    A state dict of the peer alone was meant to be taken; that of a whole model must be said to change the loss, which
    writes no such state when it is saved again.
    """
    changed = " and ".join(part for part, is_new in taken.items() if is_new)
    if place and changed:
        warnings.warn(
            f"{place}: the loss takes its {changed} from the checkpoint, in place of what it was made with; it saves "
            f"nothing of that, so make it with {remedy}",
            stacklevel=2,
        )
    else:
        logger.debug("%s: %s", place, f"{changed} taken" if changed else "the loss has all that the checkpoint holds")


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal but for the rounding to the narrower of their dtypes."""
    dtype = max(ours.dtype, theirs.dtype, key=_eps)
    return ours.to("cpu", dtype).equal(theirs.to("cpu", dtype))


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps
