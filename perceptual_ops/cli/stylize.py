"""The command `perceptual-ops stylize`: paints one picture in the manner of another."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from ..images import read_image, write_image
from ..picture_outputs import check_writable
from ..recipes.optimization import OPTIMIZERS
from ..recipes.style_transfer import (
    CONTENT_LAYERS,
    INITS,
    STYLE_LAYERS,
    fitting_scales,
    steps_of,
    style_transfer_loss,
    stylize_coarse_to_fine,
)
from . import numbers
from .progress import add_progress, step_bar
from .terminal import TILE_HELP, checked_device, default_device, names


def register(commands: Any) -> None:
    command = commands.add_parser(
        "stylize",
        help="paint one picture in the manner of another",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("content", metavar="CONTENT", help="the picture to paint")
    add("style", metavar="STYLE", help="the picture whose manner is taken")
    add("-o", "--output", metavar="OUT", required=True, help="the picture to write; its suffix says the format")
    add("--size", type=numbers.side, default=512, help="pixels of the longer side of both pictures")
    add("--style-size", type=numbers.side, help="pixels of the longer side of the style; None: that of --size")
    add(
        "--scales",
        type=numbers.count,
        help="sizes it is painted at, each half the next, for large strokes; None: so many that the first is of 512 "
        "pixels at most",
    )
    add(
        "--steps",
        type=numbers.counts,
        default="150",
        help="evaluations of the loss at each size, or at the first, the second ... separated by commas",
    )
    add("--tile", type=numbers.tile, metavar="N", help=TILE_HELP)
    add("--style-weight", type=numbers.positive, default=10.0, help="weight of the style against 1 for the content")
    add("--tv-weight", type=numbers.not_negative, default=1.0, help="weight of smoothness (total variation)")
    add("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or the path of a file")
    add("--layers", type=names, default=",".join(STYLE_LAYERS), help="style layers, separated by commas")
    add("--content-layers", type=names, default=",".join(CONTENT_LAYERS), help="separated by commas")
    add("--optimizer", choices=OPTIMIZERS, default="lbfgs", help="lbfgs reaches a lower loss in as many steps")
    add("--init", choices=INITS, default="content", help="what to start from, in the style's palette")
    add("--device", default=default_device(), help="where to compute")
    add("--seed", type=numbers.seed, default=0, help="of the noise that --init noise starts from")
    add_progress(command)
    command.set_defaults(command=_stylize)


def _stylize(arguments: argparse.Namespace) -> int:
    # Everything that can be refused is refused before minutes are spent.
    check_writable(arguments.output, [arguments.content, arguments.style, arguments.weights])
    device = checked_device(arguments.device)
    content = read_image(arguments.content, arguments.size).to(device)
    style = read_image(arguments.style, arguments.style_size or arguments.size).to(device)
    scales = arguments.scales or fitting_scales(content, style)
    steps = steps_of(arguments.steps if len(arguments.steps) > 1 else arguments.steps[0], scales)
    make_loss = partial(
        style_transfer_loss,
        weights=arguments.weights,
        content_layers=arguments.content_layers,
        style_layers=arguments.layers,
        style_weight=arguments.style_weight,
        tv_weight=arguments.tv_weight,
        tile_size=arguments.tile,
    )
    costs = [(count, 4.0**finer) for finer, count in enumerate(steps)]  # as the pixels of each size
    with step_bar(sum(steps), arguments.progress, costs) as show:
        result = stylize_coarse_to_fine(
            content,
            style,
            scales=scales,
            make_loss=make_loss,
            steps=steps,
            optimizer=arguments.optimizer,
            init=arguments.init,
            seed=arguments.seed,
            on_step=lambda step, terms: show(step + 1, terms),
        )
    write_image(arguments.output, result.image)
    print(arguments.output)
    return 0
