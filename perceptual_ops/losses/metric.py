"""What the metrics LPIPS and DISTS share: pairs of images, and their way through either engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _checks as checks
from .. import ops
from .._settings import Fixed, fixed, setting
from ..engine.batching import chunks, same_size
from ..engine.metric_op import MetricSettings, metric_loss
from ..engine.pair import IMAGE
from ..engine.registry import hash_of
from ..names import Reduction
from ..networks import FeatureNetwork
from .base import FrozenLoss
from .options import EngineOptions, takes_engine_options
from .samples import Samples, pairs_of


class MetricLoss(FrozenLoss):
    """A distance of image pairs by the features of a frozen network.

    Args:
        network: The frozen trunk.
        layers: Names of the layers compared; `IMAGE` is the images themselves.
        learned: The learned weights of the metric, each (C,).
        mean, std, input_range, reduction, options: See `LPIPS`.
    """

    _network: FeatureNetwork
    metric: str  # as of `MetricSettings`
    reduction: Reduction = setting("reduction", partial(checks.check_choice, choices=checks.REDUCTIONS))
    layers: Fixed[tuple[str, ...]] = fixed("layers")

    @takes_engine_options
    def __init__(
        self,
        network: FeatureNetwork,
        layers: Sequence[str],
        learned: Sequence[Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        input_range: tuple[float, float],
        reduction: Reduction,
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__(network, mean, std, input_range, **options)
        self._layers = tuple(layers)
        self.reduction = reduction
        self.set_learned_weights(learned)

    def set_learned_weights(self, learned: Sequence[Tensor]) -> None:
        """Sets the learned weights, each (C,)."""
        self._keep_constants("learned_weights", [weight.double() for weight in learned])

    def learned_weights(self, dtype: torch.dtype) -> list[Tensor]:
        """The learned weights, each (C,), on the network's device."""
        return [weight.to(dtype) for weight in self._kept["learned_weights"]]

    def exact_weights(self) -> list[Tensor]:
        """The learned weights as given, each (C,): fp64, on the CPU."""
        return self._constants["learned_weights"]

    def identity(self) -> dict[str, object]:
        of_network = super().identity()
        return of_network | {
            "architecture": (of_network["architecture"], self._network.pooling, self.layers),
            "learned weights": hash_of("", enumerate(self.exact_weights())),
            "settings": (of_network["settings"], self._eps_settings()),
        }

    @property
    def frozen_network(self) -> FeatureNetwork:
        return self._network

    @property
    def network_layers(self) -> list[str]:
        return [layer for layer in self.layers if layer != IMAGE]

    def _pair(self, output: object, target: object) -> tuple[Samples, Samples]:
        """Both, checked; a single image or clip stands for a batch, repeated where it is the output."""
        first, second = [
            self.checked_samples(name, x, self.network_layers) for name, x in (("output", output), ("target", target))
        ]
        for name, x, y in pairs_of("target", first, second):
            one_for_all = x.shape[0] == 1 or y.shape[0] == 1
            if not same_size(x.shape, y.shape) or not (one_for_all or x.shape[0] == y.shape[0]):
                raise ValueError(
                    f"{name}: expected the batch and size of output, or a batch of 1; output is {tuple(x.shape)}, "
                    f"target {tuple(y.shape)}"
                )
        if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape[0] == 1 and second.shape[0] != 1:
            first = first.expand(second.shape[0], *first.shape[1:])
        return first, second

    def _eps_settings(self) -> tuple[float, bool]:
        """eps and eps_inside, as of `MetricSettings`."""
        return 0.0, False

    def metric_settings(self) -> MetricSettings:
        """What is compared, as the engine takes it; read at each call, since the attributes are the user's."""
        return MetricSettings(self.layers, self.metric, *self._eps_settings())

    def _lean_distance(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:  # (N)
        """The distance, with its gradients made at once where they are wanted."""
        return metric_loss(
            output, target, self._kept["learned_weights"], self.trunk_input(output), self.metric_settings(), mask
        )

    def _graph_pairs(self, output: Tensor, target: Tensor) -> list[tuple[list[Tensor], list[Tensor]]]:
        """The features of each layer of both, a chunk of samples at a time, as an ordinary autograd graph."""
        found = []
        for rows in chunks(output.shape[0], self._graph_chunk):
            own = target if target.shape[0] == 1 else target[rows]
            found.append((self._layer_maps(output[rows]), self._layer_maps(own)))
        return found

    def _layer_maps(self, images: Tensor) -> list[Tensor]:
        """Features of one of the two; the pass keeps nothing unless a gradient is to flow to the images."""
        with ops.grad_mode(torch.is_grad_enabled() and images.requires_grad):
            return self.features(images, self.network_layers)
