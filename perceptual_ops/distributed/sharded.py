"""`sharded`: the loss of images and clips that lie in parts on several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _checks as checks
from .._module import Module
from ..losses.gradients import check_criterion, tiled_trunk_input
from ..losses.metric import MetricLoss
from ..losses.perceptual import PerceptualLoss
from .agreement import KeptLengths, Report, check_alike
from .banded_loss import loss_of_bands
from .dtensors import is_dtensor, replicated
from .frames import joined_frames, loss_of_frames
from .parts import Parts
from .ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def sharded(criterion: PerceptualLoss | MetricLoss, group: ProcessGroup | None = None) -> Sharded:
    """A loss of images, or clips, of which each rank of a group holds a part.

    Of images (N, 3, H, W) a rank holds a band of rows (N, 3, h, W), of clips (N, 3, T, H, W) some frames
    (N, 3, t, H, W); parts lie in the order of ranks, and may differ in length or be empty. All ranks call the loss
    together, each with its part, and get the loss of the whole, bit-equal everywhere. The gradient with respect to its
    part is made in the call; the backward exchanges nothing::

        loss = po.distributed.sharded(po.LPIPS("vgg16", reduction="mean").to(device))
        loss(band, target_band).backward()

    The frozen network is on every rank. Bands go through it in tiles of `criterion.tile_size` (None is "auto"): a rank
    runs those whose feature pixels begin in its band (`engine.tiles.own_rows`), reads what their windows reach of other
    bands (the halo), and sends the halo's gradient back. Frames need no others; only their values are added up.

    In a call with bands a rank sends the rows of output and target that others read (VGG16 to relu4_3: 48 rows above
    their band and 42 below, of as many ranks as have them), N x 3 x W numbers each; as many of the gradient with
    respect to the rows that it read itself; and to each other rank a kilobyte that describes the call, and its sums, 8
    bytes a number: N x C x C of a layer of style (2.8 MB for four layers of VGG16), 6 x N x C of a layer of DISTS, N of
    a term.

    Args:
        criterion: A `perceptual_ops.PerceptualLoss`, LPIPS or DISTS, the same on every rank; for bands a chain (VGG,
            AlexNet) with engine="lean". Its kept targets are those of the whole: call `set_style` and, for images,
            `set_content` with the same images on every rank; for clips `set_content` with the rank's own frames.
        group: None: torch.distributed's default group.

    Raises:
        TypeError: criterion is not such a loss.
        RuntimeError: There is no process group.
        ValueError: This process is not in the group.
    """
    check_criterion(criterion)
    Ranks(group)
    return Sharded(criterion, group)


class Sharded(Module):
    """A loss over several processes; `sharded` makes it."""

    def __init__(self, criterion: PerceptualLoss | MetricLoss, group: ProcessGroup | None) -> None:
        super().__init__()
        self.criterion: PerceptualLoss | MetricLoss = criterion
        self._group = group
        self._kept = KeptLengths()

    if TYPE_CHECKING:  # the decorator of forward hides its type

        def __call__(self, output: Tensor, target: Tensor | None = None) -> Tensor: ...

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, output: Tensor, target: Tensor | None = None, **others: object) -> Tensor:
        """The loss of the whole.

        Args:
            output: This rank's part, or a DTensor sharded over rows (dim 2), or frames, on the group's mesh, whose
                gradient is a DTensor, too. The gradient flows to it.
            target: The same rows or frames, with the same batch or one of 1. None: what `set_content` kept. The
                gradient flows to it if it requires one.
            others: Other arguments of the criterion are refused, on every rank.

        Returns:
            A scalar, or (N,) for reduction="none", as the criterion; for a DTensor a replicated DTensor. Its upstream
            gradient has to be the same on every rank.

        Raises:
            ValueError: Invalid argument on one of the ranks, or ranks differ in what has to be the same:
                on every rank.
            RuntimeError: A rank has ended, failed amid the call or did not make it: on every other within the timeout
                of the group. The group cannot be used any more then.
        """
        ranks, criterion, failure = Ranks(self._group), self.criterion, None
        try:
            if others:
                raise ValueError(
                    f"{', '.join(others)}: expected output and target alone, got more; multiply what "
                    'reduction="none" gives by weights of samples, give styles to set_style, and call the criterion '
                    "itself for masks, frames and terms"
                )
            parts = Parts.of(criterion, ranks, output, target)
            own = loss_of_frames(criterion, parts) if parts.are_frames else tiled_trunk_input(criterion)
            report = parts.report(criterion, self._kept)
        except (TypeError, ValueError, RuntimeError) as error:
            report, failure = Report(error=str(error)), error
        reports = ranks.told(report)
        try:
            check_alike(reports)
        except ValueError as error:
            raise error from failure
        if isinstance(own, Tensor):
            loss = joined_frames(own, ranks, reports)
        else:
            loss = checks.reduce(loss_of_bands(criterion, *own, parts, ranks, reports), criterion.reduction)
        return replicated(loss, output) if is_dtensor(output) else loss
