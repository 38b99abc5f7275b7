"""Any module as the trunk of a perceptual loss."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .. import _checks as checks
from .._module import Module
from .module_outputs import (
    LayerPath,
    as_map,
    check_tokens,
    checked_feature,
    entries_of,
    missing,
    picked,
    without_prefix,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class ModuleFeatures(Module):
    """Features of your own module, by layer name: `ModuleFeatures(encoder, ["stem.conv", "layer2"])`.

    A layer is a submodule (dotted, as in `named_modules`), whose output is the feature, or an entry of what the module
    returns: a key of its dict (3 is "3"), a field of its named tuple or dataclass (such as transformers' ModelOutput),
    or "output", what it returns as a whole. `[i]` and `[key]` lead on from there: "hidden_states[6]", "output[0]",
    "blocks.3[0]". If what the module returns has all the layers as entries, those are taken, else submodules go first.
    A submodule that runs more than once gives its last output. The whole module runs in every forward, on what you
    pass: nothing is normalised.

    It works on a frozen deep copy: no parameter requires a gradient, `.train()` changes nothing, your module stays as
    it was. Hooks of your module are part of it, as those of spectral_norm: their copies run in every forward, in a loss
    once for each chunk of output and of target; hooks that you register later are not seen.

    Features are copies: a tap is what the submodule returned, whatever runs after it, and a module may return the same
    memory at every call. In-place activations spoil that in other libraries: a convolution followed by
    `ReLU(inplace=True)` silently gives its values after the ReLU. Here `inplace` is off in the copy, and the output of
    a submodule is copied when it is recorded, since an in-place function in the module's own code (`out += skip`)
    cannot be switched off.

    Forwards in several threads are independent, and torch.compile traces it with fullgraph=True.

    Args:
        module: the trunk; called with the images alone.
        layers: names of the layers wanted by default, at least one.
        drop_tokens: how many tokens are dropped from the front of features (N, T, C), such as class and register tokens
            (timm calls their number `num_prefix_tokens`).

    Attributes:
        channels: of the images that the first convolution takes; None where there is none.
        is_image_network: whether it takes images alone; your own may take clips.

    Raises:
        TypeError, ValueError: invalid layers or drop_tokens; the message names them.
    """

    mean: Sequence[float] | None = None  # of images in [0, 1], where they are known
    std: Sequence[float] | None = None
    is_image_network: bool = False

    def __init__(self, module: nn.Module, layers: Iterable[str], drop_tokens: int = 0) -> None:
        super().__init__()
        self.taps: tuple[str, ...] = _names(layers)
        if not self.taps:
            raise ValueError("layers: expected the name of at least one submodule or output, got none")
        self.drop_tokens: int = checks.check_whole("drop_tokens", drop_tokens, 0)
        self.module: nn.Module = _copy(module)
        self.requires_grad_(False)
        self.eval()
        submodules = dict(self.module.named_modules(remove_duplicate=False))
        for submodule in submodules.values():
            if getattr(submodule, "inplace", False):
                submodule.inplace = False
        convolutions = [module for module in submodules.values() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
        self.channels: int | None = next((first.in_channels for first in convolutions if first.in_channels), None)
        self._paths = {name: LayerPath.of(name, submodules) for name in self.taps}
        # A name that is no submodule may still be an entry of what the module returns: `forward` finds out.
        for source in dict.fromkeys(path.source for path in self._paths.values()):
            paths = tuple(path for path in self._paths.values() if path.source == source)
            if source in submodules and source:
                submodules[source].register_forward_hook(partial(_record, paths))

    def train(self, mode: bool = True) -> Self:
        """Changes nothing: a frozen network is always in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Runs the module.

        Args:
            images: what the module takes, (N, C, H, W) as a rule, in the range and dtype it was trained with.
            layers: names of the layers wanted, among those given at construction; default: all of those.

        Returns:
            By layer name, in the order asked, floating-point maps (N, C, H, W) or (N, C, D, H, W), tokens (N, T, C)
            without the first `drop_tokens`, or vectors (N, C). Maps are taken as channels first: wrap a module that
            gives (N, H, W, C), as torchvision's Swin does, and permute.

        Raises:
            ValueError: a layer that is neither a submodule nor in what the module returns, that was not given at
                construction, that never ran, or that is not such a feature of each of the N images; drop_tokens where
                no layer gives tokens.
        """
        wanted = self.taps if layers is None else _names(layers)
        self.check_layers(wanted)

        recorded: dict[str, object] = {}
        outer = _recording.outputs
        _recording.outputs = recorded
        try:
            returned = self._run(images)
        finally:
            _recording.outputs = outer

        found = {name: self._found(self._paths[name], recorded, returned) for name in wanted}
        features = {name: checked_feature(name, feature, images.shape[0]) for name, feature in found.items()}
        if len(features) == len(self._paths):  # some of the layers may give no tokens
            check_tokens(features, self.drop_tokens)
        return without_prefix(features, self.drop_tokens)

    def _found(self, path: LayerPath, recorded: dict[str, object], returned: object) -> object:
        """What a layer gave, among outputs of submodules and what the module returned."""
        entries = entries_of(returned)
        # Over all taps, or a layer would be one thing beside these and another beside those.
        from_returned = all(other.source in entries for other in self._paths.values())
        if not from_returned and path.name in recorded:
            return recorded[path.name]
        if path.source in entries:
            return _copied(picked(returned, (path.source, *path.keys), path.name))
        if path.source == "output":
            return _copied(picked(returned, path.keys, path.name))
        raise missing(path, self.module, returned)

    def features(self, images: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """As `forward`, each as a map (N, C, H, W): pixels are tokens, one for a vector, or those of all depths."""
        return {name: as_map(feature) for name, feature in self(images, layers).items()}

    def _run(self, images: Tensor) -> object:
        expected, came = self.channels, images.shape[1]
        if expected is None or came == expected:
            return self.module(images)
        try:  # a module that prepares its images may take others than its first convolution does
            return self.module(images)
        except RuntimeError as error:
            raise ValueError(
                f"images: expected {expected} channels, as the first convolution of the network takes, got {came}; "
                f"if it prepares its images, what it stumbles over is: {error}"
            ) from error

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raises ValueError for layers that were not given at construction."""
        for name in layers:
            if name not in self.taps:
                raise ValueError(
                    f"layers: expected some of those this ModuleFeatures was made for, {', '.join(self.taps)}; "
                    f"got {name!r}"
                )


class _Recording(threading.local):
    """The outputs of the forward now running in this thread; a thread-local, because Dynamo traces no ContextVar."""

    def __init__(self) -> None:  # runs once in each thread
        self.outputs: dict[str, object] | None = None


_recording = _Recording()


def _record(paths: tuple[LayerPath, ...], module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
    """Forward hook. A module-level function, so that the module copies and pickles with its hooks."""
    if _recording.outputs is not None:
        for path in paths:
            _recording.outputs[path.name] = _copied(picked(output, path.keys, path.name))


def _copied(feature: object) -> object:
    """A feature that neither an in-place function nor the module's next call overwrites."""
    return feature.clone() if isinstance(feature, Tensor) else feature


def _copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except (
        RuntimeError
    ) as error:  # torch's: "Only Tensors created explicitly by the user support the deepcopy protocol"
        raise ValueError(
            f"network: expected a module that can be copied, {type(module).__name__} keeps weights that are computed "
            "from others; use torch.nn.utils.parametrizations, or make it plain by remove_weight_norm, "
            "remove_spectral_norm or prune.remove"
        ) from error


def _names(layers: Iterable[str]) -> tuple[str, ...]:
    if isinstance(layers, str):
        raise TypeError(f"layers: expected a list of layer names, got the string {layers!r}")
    return tuple(layers)
