"""The perceptual loss of one chunk of samples, and its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .custom_op import TrunkInput
from .masks import ALL_PIXELS, Masks
from .perceptual_head import PerceptualHead
from .terms import Terms

operators: Any = torch.ops.perceptual_ops


@dataclass(frozen=True)
class PerceptualChunk:
    """A chunk of samples and the gradients that are wanted.

    Attributes:
        frames, slopes: See `PerceptualHead`.
    """

    trunk_input: TrunkInput
    terms: Terms
    output: Tensor  # (n, 3, H, W)
    target: Tensor | None  # (n, 3, H, W)
    wants_output: bool
    wants_target: bool
    frames: int = 1
    slopes: Mapping[str, Tensor] | None = None

    def run(
        self, contents: list[Tensor], grams: list[Tensor], masks: Masks = ALL_PIXELS
    ) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """The terms by name, each (n), of style (n / frames), and the gradients with respect to output and target, each
        (n, 3, H, W).

        Args:
            contents: K x (n or 1, C, H', W'), in place of the target; ownership is taken.
            grams: S x (n or 1, R, C), see style_layout.py.
            masks: Of the chunk.
        """
        trunk_input, terms, by_output, by_target, target_tape = self.trunk_input, self.terms, None, None, None
        if self.target is not None:
            contents, target_tape = trunk_input.features(self.target, terms.content.layers, self.wants_target)
        wanted = self.wants_output, self.wants_target
        head = PerceptualHead(terms, trunk_input.wide, contents, grams, *wanted, self.slopes, self.frames, masks)
        tape = None
        if terms.layers:
            # Keep no reference, so the trunk frees its input after use.
            (tape,) = trunk_input.forward(
                [(trunk_input.normalized(self.output), head.on_tap, self.wants_output)], terms.layers
            )
        if self.target is not None and self.wants_target and target_tape is not None:
            by_target = trunk_input.backward(target_tape, head.by_target, self.target, None)
        values = head.terms()
        variation, by_variation = self._variation()
        if variation is not None:
            values["tv"] = variation
        if self.wants_output and tape is not None:
            by_output = trunk_input.backward(tape, head, self.output, by_variation)
        return values, by_output, by_target

    def _variation(self) -> tuple[Tensor | None, Tensor | None]:  # (n), (n, 3, H, W)
        """The weighted total variation, if it is part of the loss, and its gradient."""
        weight, dtype = self.terms.variation, self.trunk_input.wide
        if not weight:
            return None, None
        if not self.wants_output:
            return operators.total_variation(self.output, "l2_squared").to(dtype).mul_(weight), None
        value, gradient = operators.total_variation_with_gradient(self.output, "l2_squared")
        return value.to(dtype).mul_(weight), gradient.to(dtype).mul_(weight)
