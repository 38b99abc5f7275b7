"""Recognises sequences of plain layers in a user's module and converts them to a `FeatureNetwork`.

torchvision's `vgg16().features`, `vgg16_bn().features` and `alexnet().features` are such, and so is any `nn.Sequential`
of convolutions, ReLUs and poolings. As data they run without autograd (`engine/trunk.py`). Anything else (a subclass, a
hook, another padding mode) is not recognised, and runs as the module that it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import _checks as checks
from .feature_network import FeatureNetwork
from .hooks import is_altered
from .layers import Conv, Layer, Pool, Relu

# Identities in eval mode.
PASSING = (nn.Dropout, nn.Dropout2d, nn.Identity)
LARGEST_POOLING = 15  # the kernel whose positions fit the codes of csrc/activation/pooling.h


@dataclass(frozen=True)
class _Step:
    """A layer of the chain.

    Attributes:
        layer: Called by the last of `names`, until another of them is wanted.
        names: The submodules whose output it gives.
        weights: Of a convolution, (out, in, k, k) and (out), in fp64.
    """

    layer: Layer
    names: tuple[str, ...]
    weights: tuple[Tensor, Tensor] | None = None


class _Unknown(Exception):
    """Not a sequence of plain layers."""


def recognized(module: nn.Module, layers: Sequence[str]) -> FeatureNetwork | None:
    """The network that gives the features of a sequence of plain layers, or None where the module is something else.

    Recognised are `nn.Sequential`, nested too, of what runs alike in eval mode: Conv2d with square kernel and zero
    padding, the same stride both ways, no dilation and no groups; ReLU; MaxPool2d and AvgPool2d without padding,
    dilation and ceil_mode; Dropout, Dropout2d and Identity; BatchNorm2d with running statistics after a convolution
    that is not tapped itself, into whose weights it is folded. The first convolution takes 3 channels, and what follows
    the deepest tap may be anything.

    Args:
        module: The trunk, which stays as it is.
        layers: Names of the submodules whose outputs are wanted.

    Returns:
        A network with weights of its own, whose layers are called by the names of the submodules, and which takes
        images as they are.
    """
    try:
        if type(module) is not nn.Sequential or not layers:
            raise _Unknown
        _check_used_as_they_are(module)
        steps = _named(_steps_of(module, frozenset(layers)), layers)
        dtype, device = _common_kind(module)
    except _Unknown:
        return None
    architecture = [step.layer for step in steps]
    try:
        network = FeatureNetwork("Sequential", architecture, layers, None, mean=(0.0,) * 3, std=(1.0,) * 3)
    except KeyError:  # a submodule with the name of an attribute of a network
        return None
    network.to(device, dtype)
    for step in steps:
        if step.weights and isinstance(step.layer, Conv):
            conv = network.module_of(step.layer)
            for parameter, values in zip((conv.weight, conv.bias), step.weights, strict=True):
                parameter.data.copy_(values)
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        return None  # a folded weight overflows the dtype
    return network


def _check_used_as_they_are(module: nn.Sequential) -> None:
    """No submodule does more than its class says, and each is there once."""
    seen = [submodule for _, submodule in module.named_modules(remove_duplicate=False)]
    if is_altered(module) or len(set(map(id, seen))) < len(seen):
        raise _Unknown


def _steps_of(module: nn.Sequential, wanted: frozenset[str]) -> list[_Step]:
    """The layers up to the deepest one wanted."""
    steps: list[_Step] = []
    missing = set(wanted)
    for name, submodule in _leaves(module):
        if type(submodule) in (*PASSING, nn.Sequential):  # a Sequential whose layers were there before it
            if not steps:
                raise _Unknown
            steps[-1] = replace(steps[-1], names=(*steps[-1].names, name))
        elif type(submodule) is nn.BatchNorm2d:
            steps[-1:] = [_folded(name, submodule, steps[-1:], wanted)]
        else:
            steps.append(_step(name, submodule, steps))
        missing.discard(name)
        if not missing:
            return steps
    raise _Unknown  # a layer that the module does not have


def _leaves(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Its submodules in the order in which their outputs are made: a Sequential within it after its own."""
    for name, child in module._modules.items():
        if type(child) is nn.Sequential:
            yield from _leaves(child, f"{prefix}{name}.")
        if child is None:
            raise _Unknown
        yield prefix + name, child


def _step(name: str, module: nn.Module, before: list[_Step]) -> _Step:
    if type(module) is nn.Conv2d:
        return _convolution(name, module, first=not before)
    if not before:
        raise _Unknown  # images are to enter through a convolution
    if type(module) is nn.ReLU:
        return _Step(Relu(name), (name,))
    channels = next(step.layer.out_channels for step in reversed(before) if isinstance(step.layer, Conv))
    return _Step(_pooling(name, module, channels), (name,))


def _convolution(name: str, module: nn.Conv2d, first: bool) -> _Step:
    kernel, stride = _one_number(module.kernel_size), _one_number(module.stride)
    if module.dilation != (1, 1) or module.groups != 1 or module.padding_mode != "zeros":
        raise _Unknown
    if first and module.in_channels != 3:
        raise _Unknown
    if module.padding == "valid":
        padding = 0
    elif module.padding == "same" and kernel % 2:
        padding = kernel // 2
    else:
        padding = _one_number(module.padding)
    weight = _wide(module.weight)
    bias = weight.new_zeros(module.out_channels) if module.bias is None else _wide(module.bias)
    return _Step(Conv(name, module.in_channels, module.out_channels, kernel, stride, padding), (name,), (weight, bias))


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(checks.widest(x.device))


def _pooling(name: str, module: nn.Module, channels: int) -> Pool:
    if type(module) is nn.MaxPool2d:
        plain = _one_number(module.dilation) == 1 and not module.return_indices
    elif type(module) is nn.AvgPool2d:
        plain = module.divisor_override is None
    else:
        raise _Unknown
    kernel, stride, padding = map(_one_number, (module.kernel_size, module.stride, module.padding))
    if not plain or padding or module.ceil_mode or kernel > LARGEST_POOLING:
        raise _Unknown
    return Pool(name, channels, kernel, stride, "max" if type(module) is nn.MaxPool2d else "average")


def _folded(name: str, norm: nn.BatchNorm2d, before: list[_Step], wanted: frozenset[str]) -> _Step:
    """The convolution with the normalisation folded in: (w x + b - mean) * gamma / std + beta."""
    step = before[0] if before else None
    if step is None or not step.weights or not wanted.isdisjoint(step.names):
        raise _Unknown
    if norm.running_mean is None or norm.running_var is None:
        raise _Unknown
    weight, bias = step.weights
    scale = (_wide(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _wide(norm.weight)
    shift = (bias - _wide(norm.running_mean)) * scale
    if norm.bias is not None:
        shift = shift + _wide(norm.bias)
    # The convolution's own output no longer exists.
    return _Step(replace(step.layer, name=name), (name,), (weight * scale.view(-1, 1, 1, 1), shift))


def _one_number(sizes: object) -> int:
    """The number of a square."""
    if isinstance(sizes, tuple) and len(sizes) == 2 and sizes[0] == sizes[1]:
        sizes = sizes[0]
    if not isinstance(sizes, int):
        raise _Unknown
    return sizes


def _named(steps: list[_Step], wanted: Sequence[str]) -> list[_Step]:
    """The steps, called as they are wanted."""
    named = []
    for step in steps:
        names = [name for name in step.names if name in wanted] or step.names[:1]
        if len(names) > 1 or "/" in names[0]:  # a layer has one name, which `FeatureNetwork` spells with slashes
            raise _Unknown
        named.append(replace(step, layer=replace(step.layer, name=names[0])))
    return named


def _common_kind(module: nn.Sequential) -> tuple[torch.dtype, torch.device]:
    """The one dtype and device of its parameters."""
    kinds = {(type(parameter), parameter.dtype, parameter.device) for parameter in module.parameters()}
    kind, dtype, device = kinds.pop()
    if kinds or kind is not nn.Parameter or dtype not in checks.DTYPES or device.type == "meta":
        raise _Unknown
    return dtype, device
