"""Super-resolution with a pixel loss, a feature loss, or both (Johnson, Alahi and Fei-Fei 2016, section 4.2)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks as checks
from .._module import Module
from ..losses import PerceptualLoss
from ..names import ChainName
from ..networks import load_network
from ..networks.weights import WeightSource
from .checkpoint import PICTURES, contents, fingerprint
from .crops import RandomCrops
from .exported import export_model
from .models import save_model
from .optimization import StepCallback
from .own_network import own_network
from .training import Training, TrainingOptions
from .training_files import TrainingFiles, input_files
from .training_log import without_plots
from .transform_net import SCALES, SuperResolutionNet

LossName = Literal["pixel", "feature", "combined"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
FEATURE_LAYERS = ("relu2_2",)  # the paper's
OPTIONS = TrainingOptions(batch=8, size=128)
ZOOM = 8  # full-size photographs are soft pixel by pixel, an eighth of the size is sharp
EXAMPLES = 16  # crops that say how far a bicubic enlargement is off


def shrunk(images: Tensor, scale: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, H // scale, W // scale): what super-resolution is given; bicubic, antialiased, 8 bits."""
    height, width = images.shape[2] // scale, images.shape[3] // scale
    small = F.interpolate(
        images[..., : height * scale, : width * scale],
        (height, width),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    return small.clamp(0, 1).mul(255).round() / 255  # as a file would hold them


def enlarged(images: Tensor, scale: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, scale H, scale W) in [0, 1]: what super-resolution is measured against."""
    return F.interpolate(images, scale_factor=float(scale), mode="bicubic", align_corners=False).clamp(0, 1)


class SuperResolutionLoss(Module):
    """The loss of a batch, in units of what a bicubic enlargement of the examples has: 0 is perfect, 1 no better.

    Squared errors of pixels, of features, or the sum of both. Features of one layer may be a hundred times those of
    another; in these units a weight means the same for every network, layer and scale.

    Args:
        loss: "pixel", "feature" or "combined".
        examples: Images (N, 3, H, W) in [0, 1], such as the first batch; the loss is made on their device.
        scale: Of the enlargement.
        network, weights, layers: Of the features, as in `PerceptualLoss`; not read for "pixel".
    """

    def __init__(
        self,
        loss: LossName,
        examples: Tensor,
        scale: int,
        *,
        network: ChainName = "vgg16",
        weights: WeightSource = "imagenet",
        layers: Sequence[str] = FEATURE_LAYERS,
    ) -> None:
        super().__init__()
        checks.check_choice("loss", loss, LOSSES)
        bicubic = enlarged(shrunk(examples, scale), scale)
        self.pixel_weight: float = 1 / _positive("pixels", F.mse_loss(bicubic, examples)) if loss != "feature" else 0.0
        self.features: PerceptualLoss | None = None
        if loss != "pixel":
            trunk = load_network(network, weights, layers=list(layers)).to(examples.device)
            with torch.no_grad():
                _, terms = PerceptualLoss(trunk, content_layers=list(layers))(bicubic, examples, return_terms=True)
            shares = {layer: 1 / (len(layers) * _positive(layer, terms[f"content/{layer}"])) for layer in layers}
            self.features = PerceptualLoss(trunk, content_layers=shares).to(examples.device)

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images (N, 3, H, W), a scalar, and its parts, detached."""
        terms = {}
        if self.pixel_weight:
            terms["pixel"] = self.pixel_weight * F.mse_loss(output.float(), target)
        if self.features is not None:
            terms["feature"] = self.features(output, target)
        loss = torch.stack([*terms.values()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}


def train_super_resolution(
    pictures: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    scale: int = 4,
    loss: LossName = "feature",
    network: str | None = None,
    weights: WeightSource = "imagenet",
    layers: Sequence[str] = FEATURE_LAYERS,
    options: TrainingOptions = OPTIONS,
    device: torch.device | str = "cpu",
    on_step: StepCallback | None = None,
    export: str | os.PathLike[str] | None = None,
) -> int:
    """Trains a network that enlarges pictures, and writes it to a file that `load_model` reads.

    Args:
        pictures: Files; random crops of them are shrunk and restored.
        out: The model, with suffix .safetensors; log, plot and checkpoint lie beside it (see `Training`).
        scale: 2, 4 or 8.
        loss: "pixel", "feature" or "combined" (see `SuperResolutionLoss`).
        network: As package.module:name, (N, 3, H, W) -> (N, 3, scale H, scale W); None:
            `SuperResolutionNet`.
        weights: Weights of VGG16, as in `PerceptualLoss`.
        layers: Whose features are compared, by "feature" and "combined".
        options: How; the size is that of the large crops, a multiple of the scale.
        device: Where.
        on_step: As in `Training`.
        export: A program of torch.export to write besides, with suffix .pt2, as `export_model` does.

    Returns:
        How many pictures could not be read and were left out.

    Raises:
        TypeError, ValueError, OSError, ModuleNotFoundError: Invalid argument, before training begins.
        DivergenceError: The loss or the weights became NaN or infinity; a ValueError.
    """
    if scale not in SCALES:
        raise ValueError(f"scale: expected {', '.join(map(str, SCALES))}, got {scale!r}")
    if options.size % scale:
        raise ValueError(f"size: expected a multiple of the scale {scale}, got {options.size}")
    files = TrainingFiles(Path(out), None if export is None else Path(export))
    files.check(input_files(without_plots(pictures), weights))
    crops = RandomCrops(without_plots(pictures), options.size, zoom=ZOOM, seed=options.seed, strict=options.strict)

    def make_network() -> nn.Module:
        if network is None:
            return SuperResolutionNet(scale)
        return own_network(network, options.size // scale, scale, export=export is not None)

    def save(model: nn.Module) -> None:
        save_model(files.model, model, "super-resolution", scale, source=network)
        if files.program is not None:
            export_model(files.program, model, "super-resolution", scale)

    settings = {
        "task": "super-resolution",
        PICTURES: contents(crops.pictures),
        "scale": scale,
        "loss": loss,
        "network": network,
        "weights": fingerprint(weights),
        "layers": list(layers),
    }
    with Training(make_network, crops, files.model, options, torch.device(device), settings, on_step) as training:
        examples = torch.stack([crops[i] for i in range(EXAMPLES)]).to(training.device)
        criterion = SuperResolutionLoss(loss, examples, scale, weights=weights, layers=layers)
        for images in training.batches():  # (n, 3, S, S)
            with training.autocast():
                value, terms = criterion(training.network(shrunk(images, scale)), images)
            training.update(value, {"loss": value.detach(), **terms})
        training.finish(save)
    return crops.pool.unreadable


def _positive(what: str, error: Tensor) -> float:
    """A scalar above 0."""
    number = error.item()
    if not 0 < number < math.inf:
        raise ValueError(f"pictures: expected some that a bicubic enlargement blurs, by {what} it is off by {number}")
    return number
