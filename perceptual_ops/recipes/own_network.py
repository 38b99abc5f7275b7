"""A network of the user's own in place of the paper's."""

from __future__ import annotations

import copy
import importlib

import torch
from torch import nn

from .._failures import reason
from .exported import exported
from .model_file import IMPORT_PATH, KINDS, MULTIPLES, ModelFacts, encoded, weights_of


def own_network(path: str, side: int, scale: int, export: bool = False) -> nn.Module:
    """The module that a recipe trains; what it cannot do, and what cannot be written at the end, is refused here.

    Args:
        path: package.module:name, see `module_by_path`.
        side, scale: As in `check_sizes`.
        export: Whether it is to be a program of torch.export too.
    """
    network = module_by_path(path)
    check_sizes(network, side, scale)
    facts = ModelFacts(KINDS[0], scale, least_multiple(network, scale), path, {})  # of any kind
    encoded(weights_of(network), facts)
    if export:
        exported(network, scale)
    return network


def module_by_path(path: str) -> nn.Module:
    """A module from "package.module:name", where name is a class or function that makes one without arguments.

    Raises:
        ValueError: The path is not of that form, what it names cannot be imported, or makes no module.
        ModuleNotFoundError: There is no such package or module.
    """
    if not IMPORT_PATH.fullmatch(path) or path.startswith("."):
        raise ValueError(f"network: expected package.module:name, such as my_networks:Generator, got {path!r}")
    module, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"network: {path!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from None
    except (Exception, SystemExit) as error:  # it is the caller's code
        raise ValueError(f"network: expected {module} to be imported, it raises {_what(error)}") from error
    if not callable(factory):
        raise ValueError(f"network: expected a class or function in {module}, which has no such {name!r}")
    try:
        network = factory()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"network: expected {path} to make a module without arguments, it raises {_what(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: expected {path} to make a torch.nn.Module, it made {type(network).__name__}")
    return network


def _what(error: BaseException) -> str:
    return f"{type(error).__name__} ({reason(error)})"


def check_sizes(network: nn.Module, side: int, scale: int) -> None:
    """Whether a network of one's own does what its recipe needs.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale H, scale W).
        side: Of the images that it will be trained with.
        scale: How many times larger its results are to be.

    Raises:
        ValueError: Its result has another shape.
    """
    try:
        check_shape(network, (1, 3, side, side), scale)
    except ValueError as error:
        raise ValueError(f"network: {error}") from error


def least_multiple(network: nn.Module, scale: int) -> int:
    """What the sides of a network's images have to be a multiple of: the least of `MULTIPLES` for which it works.

    Raises:
        ValueError: It works for none.
    """
    network, error = copy.deepcopy(network).cpu(), ValueError()
    for multiple in MULTIPLES:
        # Odd counts first: a network that halves and doubles loses a pixel of sides that it should not be given.
        count = max(3, 32 // multiple + 1)
        try:
            check_shape(network, (2, 3, count * multiple, (count + 2) * multiple), scale)
            check_shape(network, (1, 3, (count + 1) * multiple, count * multiple), scale)
            return multiple
        except ValueError as unfit:
            error = unfit
    raise ValueError(
        f"network: expected one for any size of images, or for sides that are multiples of {MULTIPLES[-1]} pixels at "
        f"most, {type(network).__name__} is not ({error})"
    ) from error


@torch.no_grad()
def check_shape(network: nn.Module, shape: tuple[int, int, int, int], scale: int) -> None:
    """ValueError where a network, on the CPU or a device, does not make (N, 3, scale H, scale W) of (N, 3, H, W)."""
    wanted, modes = (*shape[:2], scale * shape[2], scale * shape[3]), [one.training for one in network.modules()]
    parameter = next(network.parameters(), torch.zeros(()))
    try:
        # In training, batch normalisation would count the noise.
        got = tuple(network.eval()(torch.rand(shape, device=parameter.device)).shape)
    except Exception as error:  # it is the caller's network
        raise ValueError(f"expected images {wanted} from images {shape} ({reason(error)})") from error
    finally:
        for one, training in zip(network.modules(), modes, strict=True):
            one.training = training
    if got != wanted:
        raise ValueError(f"expected images {wanted} from images {shape}, got {got}")
