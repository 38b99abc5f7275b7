"""A network of the user's own in place of the paper's."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from .models import export


def own_network(path: str, side: int, scale: int) -> nn.Module:
    """The module that a recipe trains; what it cannot do, and what cannot be written at the end, is refused here.

    Args:
        path: package.module:name, see `module_by_path`.
        side, scale: As in `check_sizes`.
    """
    network = module_by_path(path)
    check_sizes(network, side, scale)
    export(network, scale)
    return network


def module_by_path(path: str) -> nn.Module:
    """A module from "package.module:name", where name is a class or function that makes one without arguments.

    Raises:
        ValueError: The path is not of that form, has no such name, or what it names makes no module.
        ModuleNotFoundError: There is no such package or module.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"network: expected package.module:name, such as my_networks:Generator, got {path!r}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"network: {path!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from None
    factory = getattr(found, name, None)
    if not callable(factory):
        raise ValueError(f"network: expected a class or function in {module}, which has no such {name!r}")
    try:
        network = factory()
    except TypeError as error:
        raise ValueError(f"network: expected {path} to make a module without arguments ({error})") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: expected {path} to make a torch.nn.Module, it made {type(network).__name__}")
    return network


@torch.no_grad()
def check_sizes(network: nn.Module, side: int, scale: int) -> None:
    """Whether a network of one's own does what its recipe needs.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale H, scale W).
        side: Of the images that it will be trained with.
        scale: How many times larger its results are to be.

    Raises:
        ValueError: Its result has another shape.
    """
    wanted, was_training = (1, 3, scale * side, scale * side), network.training
    parameter = next(network.parameters(), torch.zeros(()))
    try:
        # In training, batch normalisation would count the noise.
        got = tuple(network.eval()(torch.rand(1, 3, side, side, device=parameter.device)).shape)
    except Exception as error:  # it is the caller's network
        raise ValueError(f"network: expected images {wanted} from images (1, 3, {side}, {side}) ({error})") from error
    finally:
        network.train(was_training)
    if got != wanted:
        raise ValueError(f"network: expected images {wanted} from images (1, 3, {side}, {side}), got {got}")
