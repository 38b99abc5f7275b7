"""Style transfer by one pass of a network (Johnson, Alahi and Fei-Fei 2016, section 4.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import PerceptualLoss
from ..networks.weights import WeightSource
from .checkpoint import PICTURES, contents, fingerprint
from .crops import RandomCrops
from .exported import export_model
from .model_file import SMALLEST
from .models import save_model
from .optimization import StepCallback
from .own_network import own_network
from .style_transfer import CONTENT_LAYERS, STYLE_LAYERS, style_transfer_loss
from .training import Training, TrainingOptions
from .training_files import TrainingFiles, input_files
from .training_log import without_plots
from .transform_net import StyleNet

OPTIONS = TrainingOptions()
EXAMPLES = 16  # crops that say how strong the features of pictures are
# Of a picture's shorter side that a crop has at least. The paper brings whole pictures to 256 x 256: close-ups out of
# focus excite the layers of the content a quarter as strongly, and a network that knows them alone destroys the rest.
SHARE = 0.5


def train_style(
    style: Tensor,
    pictures: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    style_weight: float = 10.0,
    tv_weight: float = 1.0,
    content_layers: Sequence[str] = CONTENT_LAYERS,
    style_layers: Sequence[str] = STYLE_LAYERS,
    weights: WeightSource = "imagenet",
    network: str | None = None,
    options: TrainingOptions = OPTIONS,
    device: torch.device | str = "cpu",
    on_step: StepCallback | None = None,
    export: str | os.PathLike[str] | None = None,
) -> int:
    """Trains a network that paints any picture in one style, and writes it to a file that `load_model` reads.

    What is minimised is the loss of `style_transfer_loss`, as `stylize` minimises it for one picture, in the geometric
    mean over pictures. Grams of some are many times the style's; in the arithmetic mean, these few would decide.

    Args:
        style: Picture (1, 3, H, W) in [0, 1] whose manner is taken; strokes keep their size in pixels.
        pictures: Files; the network learns on random squares of them, brought to options.size.
        out: The model, with suffix .safetensors; log, plot and checkpoint lie beside it (see `Training`).
        style_weight, tv_weight, content_layers, style_layers, weights: As in `style_transfer_loss`.
        network: As package.module:name, (N, 3, H, W) in [0, 1] -> the same. None: `StyleNet`.
        options: How.
        device: Where.
        on_step: As in `Training`.
        export: A program of torch.export to write besides, with suffix .pt2, as `export_model` does.

    Returns:
        How many pictures could not be read and were left out.

    Raises:
        TypeError, ValueError, OSError, ModuleNotFoundError: Invalid argument, before training begins.
        DivergenceError: The loss or the weights became NaN or infinity; a ValueError.
    """
    if options.size < SMALLEST:
        raise ValueError(f"size: expected at least {SMALLEST} pixels, got {options.size}")
    files = TrainingFiles(Path(out), None if export is None else Path(export))
    files.check(input_files(without_plots(pictures), weights))
    crops = training_crops(pictures, options)

    def make_network() -> nn.Module:
        if network is None:
            return StyleNet(style=style)
        return own_network(network, options.size, scale=1, export=export is not None)

    def save(model: nn.Module) -> None:
        save_model(files.model, model, "style", source=network)
        if files.program is not None:
            export_model(files.program, model, "style")

    settings = {
        "task": "style",
        "style": fingerprint(style),
        PICTURES: contents(crops.pictures),
        "style_weight": style_weight,
        "tv_weight": tv_weight,
        "content_layers": list(content_layers),
        "style_layers": list(style_layers),
        "network": network,
        "weights": fingerprint(weights),
    }
    with Training(make_network, crops, files.model, options, torch.device(device), settings, on_step) as training:
        criterion = training_loss(
            crops,
            style.to(training.device),
            weights=weights,
            content_layers=content_layers,
            style_layers=style_layers,
            style_weight=style_weight,
            tv_weight=tv_weight,
        )
        for images in training.batches():  # (n, 3, S, S)
            with training.autocast():
                losses, terms = criterion(training.network(images), images, return_terms=True)  # (n,), dict of (n,)
            logged: dict[str, Tensor] = {
                name: terms[name].mean() for name in ("content", "style", "tv") if name in terms
            }
            training.update(_log_mean(losses), {"loss": losses.detach().mean(), **logged})
        training.finish(save)
    return crops.pool.unreadable


def _log_mean(losses: Tensor) -> Tensor:
    """The logarithm of the geometric mean of losses (n,). One of 0 is perfect and has no gradient."""
    return losses.clamp_min(torch.finfo(losses.dtype).tiny).log().mean()


def training_crops(pictures: Sequence[str | os.PathLike[str]], options: TrainingOptions) -> RandomCrops:
    """What a style is learned on."""
    return RandomCrops(without_plots(pictures), options.size, share=SHARE, seed=options.seed, strict=options.strict)


def training_loss(crops: RandomCrops, style: Tensor, **settings: Any) -> PerceptualLoss:
    """`style_transfer_loss` of a style (1, 3, H, W), its target, for what these crops excite, of each picture by
    itself (N,); on the style's device."""
    examples = torch.stack([crops[i] for i in range(EXAMPLES)]).to(style.device)
    criterion = style_transfer_loss(examples, style, **settings)
    criterion.set_style(style)
    criterion.reduction = "none"
    return criterion
