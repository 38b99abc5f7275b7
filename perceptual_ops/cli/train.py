"""The commands `perceptual-ops train-style` and `train-sr`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch.distributed import is_torchelastic_launched

from ..files import check_apart
from ..images import read_image, side_lengths
from ..picture_folder import pictures_in
from ..recipes import feed_forward, super_resolution
from ..recipes.feed_forward import train_style
from ..recipes.photographs import training_photographs
from ..recipes.processes import is_first
from ..recipes.style_transfer import CONTENT_LAYERS, STYLE_LAYERS
from ..recipes.super_resolution import FEATURE_LAYERS, LOSSES, train_super_resolution
from ..recipes.training import PRECISIONS, TrainingOptions
from ..recipes.training_files import PROGRAM_SUFFIX, TrainingFiles
from ..recipes.transform_net import SCALES
from . import numbers
from .progress import add_progress, step_bar
from .skipping import STRICT_HELP
from .terminal import checked_device, default_device, names, say

PHOTOGRAPHS = "photographs"


def register(commands: Any) -> None:
    style = commands.add_parser(
        "train-style",
        help="train a network that paints any picture in one style",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = style.add_argument
    add("style", metavar="STYLE", help="the picture whose manner is taken")
    add("--style-size", type=numbers.side, default=512, help="pixels of its longer side at most")
    add("--style-weight", type=numbers.positive, default=10.0, help="weight of the style against 1 for the content")
    add("--tv-weight", type=numbers.not_negative, default=1.0, help="weight of smoothness (total variation)")
    add("--layers", type=names, default=",".join(STYLE_LAYERS), help="style layers, by commas")
    add("--content-layers", type=names, default=",".join(CONTENT_LAYERS), help="by commas")
    _add_training(style, feed_forward.OPTIONS, "images (N, 3, H, W) -> the same")
    style.set_defaults(command=_train_style)

    enlarging = commands.add_parser(
        "train-sr",
        help="train a network that enlarges pictures",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    enlarging.add_argument("--scale", type=int, choices=SCALES, default=4, help="how many times larger")
    enlarging.add_argument("--loss", choices=LOSSES, default="feature", help="what is minimised")
    enlarging.add_argument("--layers", type=names, default=",".join(FEATURE_LAYERS), help="whose features, by commas")
    _add_training(enlarging, super_resolution.OPTIONS, "images (N, 3, H, W) -> (N, 3, scale H, scale W)")
    enlarging.set_defaults(command=_train_super_resolution)


def _add_training(command: argparse.ArgumentParser, defaults: TrainingOptions, network: str) -> None:
    add = command.add_argument
    add(
        "-o",
        "--output",
        metavar="MODEL",
        required=True,
        help="the model to write, .safetensors; beside it log and checkpoint",
    )
    add("--export", metavar="PROGRAM", help="write the network as a program of torch.export too, .pt2")
    add("--data", metavar="DIR", default=PHOTOGRAPHS, help="a folder of pictures, or those in scikit-image")
    add("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or the path of a file")
    add("--network", metavar="MODULE:NAME", help=f"your own, {network}; None: the paper's")
    add("--steps", type=numbers.count, default=defaults.steps, help="batches")
    add("--batch", type=numbers.count, default=defaults.batch, help="crops of a batch, of all processes together")
    add("--size", type=numbers.count, default=defaults.size, help="pixels of a crop")
    add(
        "--lr",
        type=numbers.step_size,
        default=defaults.lr,
        help="Adam's largest step size, which rises, then falls to 0",
    )
    add("--precision", choices=PRECISIONS, default=defaults.precision, help="of autocast")
    add("--contiguous", action="store_true", help="memory layout NCHW in place of channels_last")
    add("--compile", action="store_true", help="use torch.compile on the network")
    add(
        "--workers",
        type=numbers.whole(0, 1024),
        default=defaults.workers,
        help="processes that read pictures; each keeps 1 GiB of them",
    )
    add("--save-every", type=numbers.count, default=defaults.save_every, help="steps between checkpoints")
    add("--strict", action="store_true", help=STRICT_HELP)
    add("--seed", type=numbers.seed, default=defaults.seed, help="of weights and crops")
    add("--device", default=default_device(), help="where to compute")
    add_progress(command)


def _options(arguments: argparse.Namespace) -> TrainingOptions:
    return TrainingOptions(
        steps=arguments.steps,
        batch=arguments.batch,
        size=arguments.size,
        lr=arguments.lr,
        seed=arguments.seed,
        precision=arguments.precision,
        channels_last=not arguments.contiguous,
        compile=arguments.compile,
        workers=arguments.workers,
        save_every=arguments.save_every,
        strict=arguments.strict,
    )


def _pictures(data: str) -> list[Path]:
    return training_photographs() if data == PHOTOGRAPHS and not Path(data).is_dir() else pictures_in(data)


def _train_style(arguments: argparse.Namespace) -> int:
    check_apart(
        TrainingFiles(Path(arguments.output), arguments.export and Path(arguments.export)).all, [arguments.style]
    )
    return _train(
        arguments,
        partial(
            train_style,
            read_image(arguments.style, min(arguments.style_size, max(side_lengths(arguments.style)))),
            style_weight=arguments.style_weight,
            tv_weight=arguments.tv_weight,
            content_layers=arguments.content_layers,
            style_layers=arguments.layers,
        ),
    )


def _train_super_resolution(arguments: argparse.Namespace) -> int:
    settings = {"scale": arguments.scale, "loss": arguments.loss, "layers": arguments.layers}
    return _train(arguments, partial(train_super_resolution, **settings))


def _train(arguments: argparse.Namespace, train: Callable[..., int]) -> int:
    """Runs a recipe that lacks only what every training takes."""
    options = _options(arguments)
    with step_bar(options.steps, arguments.progress) as show:
        left_out = train(
            _pictures(arguments.data),
            arguments.output,
            weights=arguments.weights,
            network=arguments.network,
            options=options,
            device=checked_device(arguments.device),
            on_step=show,
            export=arguments.export,
        )
    if is_first():  # of torchrun's processes
        if Path(arguments.output).suffix == PROGRAM_SUFFIX:
            say(
                f"{arguments.output} is a safetensors file, whatever its name; "
                f"--export PROGRAM.pt2 writes a program of torch.export"
            )
        print(arguments.output)
        if left_out:
            say(f"{left_out} pictures could not be read and were left out")
    return 1 if left_out and not is_torchelastic_launched() else 0  # torchrun would take it for a crash
