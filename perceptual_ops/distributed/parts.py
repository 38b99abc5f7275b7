"""This rank's shard of the images or clips of a call, and its report to the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..engine.batching import check_partner
from ..losses.metric import MetricLoss
from ..losses.perceptual import PerceptualLoss
from .agreement import KeptLengths, Report, facts_of_images, facts_of_loss
from .dtensors import DIM, is_dtensor, part_of
from .ranks import Ranks


@dataclass(frozen=True)
class Parts:
    """A part of the output, and of the target if there is one.

    Attributes:
        output: (N, 3, h, W), or of clips (N, 3, t, H, W).
        target: Of the same size, (N or 1, ...).
    """

    output: Tensor
    target: Tensor | None

    @classmethod
    def of(cls, criterion: PerceptualLoss | MetricLoss, ranks: Ranks, output: object, target: object) -> Parts:
        """Those of a call, checked."""
        part = _part("output", criterion, ranks, output)
        ranks.check_device(part.device)
        if not part.shape[0]:
            raise ValueError(f"output: expected a batch of at least one, got {tuple(part.shape)}")
        if part.dim() == 5 and not criterion.is_clip(part):
            raise ValueError(
                f"output: expected a clip for a network that sees it frame by frame, got {tuple(part.shape)} for a "
                "module of your own, which sees the whole"
            )
        if target is None:
            return cls(part, None)
        other = _part("target", criterion, ranks, target)
        check_partner("target", part.shape, other.shape, "output")
        return cls(part, other)

    @property
    def are_frames(self) -> bool:
        return self.output.dim() == 5

    def report(self, criterion: PerceptualLoss | MetricLoss, kept: KeptLengths) -> Report:
        """The report that other ranks compare with theirs."""
        images = {"output": self.output, "target": self.target}
        targets = self._kept_targets(criterion)
        facts = {**facts_of_loss(criterion), **facts_of_images(images, dim=DIM)}
        facts["kept targets"] = [tuple(x.shape) for x in targets]
        return Report(self.output.shape[DIM], facts, kept.of(targets))

    def _kept_targets(self, criterion: PerceptualLoss | MetricLoss) -> list[Tensor]:
        """Cached targets that must be equal on all ranks; of frames each rank has its own."""
        if isinstance(criterion, MetricLoss):
            return []
        kept = criterion.kept_targets()
        contents = kept.get("content", []) if self.target is None and not self.are_frames else []
        grams = kept.get("style", [])
        return [*contents, *(x for x in grams if x.dim() == 3), *kept.get("regions", [])]


def _part(name: str, criterion: PerceptualLoss | MetricLoss, ranks: Ranks, images: object) -> Tensor:
    part = part_of(name, images, ranks) if is_dtensor(images) else images
    return criterion.checked_parts(name, part, clips=True)
