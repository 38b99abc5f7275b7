"""Any module as the trunk of a perceptual loss."""

from __future__ import annotations

import copy
import difflib
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class ModuleFeatures(nn.Module):
    """Features of your own module, by submodule name: `ModuleFeatures(encoder, ["stem.conv", "layer2"])`.

    If the module returns a dict that holds all the layers wanted, its entries are the features; otherwise each layer
    names a submodule (dotted, as in `named_modules`), and its output is the feature. A submodule that runs more than
    once gives its last output. The whole module runs in every forward, on what you pass: nothing is normalised.

    It works on a frozen deep copy: no parameter requires a gradient, `.train()` changes nothing, your module stays as
    it was. A tap is what the submodule returned, whatever runs after it. In-place activations spoil that in other
    libraries: a convolution followed by `ReLU(inplace=True)` silently gives its values after the ReLU. Here `inplace`
    is off in the copy, and the output of a submodule is copied when it is recorded, since an in-place function
    in the module's own code (`out += skip`) cannot be switched off.

    Concurrent forwards from several threads do not meet, and torch.compile traces it with fullgraph=True.

    Args:
        module: the trunk; called with the images alone.
        layers: names of the layers wanted by default, at least one.
    """

    mean: None = None
    std: None = None

    def __init__(self, module: nn.Module, layers: Iterable[str]) -> None:
        super().__init__()
        self.taps = _names(layers)
        if not self.taps:
            raise ValueError("layers must name at least one submodule")
        self.module = copy.deepcopy(module)
        self.requires_grad_(False)
        self.eval()
        submodules = dict(self.module.named_modules(remove_duplicate=False))
        for submodule in submodules.values():
            if getattr(submodule, "inplace", False):
                submodule.inplace = False
        # A name that is no submodule may still be a key of what the module returns: `forward` finds out.
        for name in set(self.taps) & submodules.keys():
            submodules[name].register_forward_hook(partial(_record, name))

    def train(self, mode: bool = True) -> Self:
        """Changes nothing: a frozen network is always in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Runs the module.

        Args:
            images: what the module takes, (N, C, H, W) as a rule, in the range and dtype it was trained with.
            layers: names of the layers wanted, among those given at construction; default: all of those.

        Returns:
            Features by layer name, in the order asked: (N, C', H', W'), floating point.

        Raises:
            ValueError: a layer that is neither a submodule nor in the dict returned, that was not given at
                construction, that never ran, or whose output is not a 4-d floating-point tensor.
        """
        wanted = self.taps if layers is None else _names(layers)
        self.check_layers(wanted)

        recorded: dict[str, object] = {}
        outer = _recording.outputs
        _recording.outputs = recorded
        try:
            returned = self.module(images)
        finally:
            _recording.outputs = outer

        keys = [key for key in returned if isinstance(key, str)] if isinstance(returned, Mapping) else []
        outputs = returned if set(wanted) <= set(keys) else recorded
        return {name: self._feature(name, outputs, keys) for name in wanted}

    features = forward

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raises ValueError for layers that were not given at construction."""
        for name in layers:
            if name not in self.taps:
                raise ValueError(f"layer {name!r} was not among the layers of this ModuleFeatures: {self.taps}")

    def _feature(self, name: str, outputs: Mapping[str, object], keys: list[str]) -> Tensor:
        """The feature called `name`, or the error that says why there is none; `keys`: of the dict returned, if any."""
        if name not in outputs:
            submodules = [submodule for submodule, _ in self.module.named_modules(remove_duplicate=False) if submodule]
            if name in submodules:
                raise ValueError(f"layer {name!r} did not run in the forward of {type(self.module).__name__}")
            close = difflib.get_close_matches(name, submodules + keys, n=5, cutoff=0.4)
            hint = f"close to it: {', '.join(close)}" if close else f"submodules: {', '.join(submodules)}"
            raise ValueError(f"{type(self.module).__name__} has no submodule {name!r} and returns none; {hint}")
        feature = outputs[name]
        if not isinstance(feature, Tensor):
            raise ValueError(f"layer {name!r} must give a 4-d float tensor, got {type(feature).__name__}")
        if feature.dim() != 4 or not feature.is_floating_point():
            raise ValueError(
                f"layer {name!r} must give a 4-d float tensor, got {feature.dtype} of shape {tuple(feature.shape)}"
            )
        return feature


class _Recording(threading.local):
    """The outputs of the forward now running in this thread; a thread-local, because Dynamo traces no ContextVar."""

    def __init__(self) -> None:  # runs once in each thread
        self.outputs: dict[str, object] | None = None


_recording = _Recording()


def _record(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
    """Forward hook. A module-level function, so that the module copies and pickles with its hooks."""
    if _recording.outputs is not None:
        _recording.outputs[name] = output.clone() if isinstance(output, Tensor) else output


def _names(layers: Iterable[str]) -> tuple[str, ...]:
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of layer names, got the string {layers!r}")
    return tuple(layers)
