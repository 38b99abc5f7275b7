"""The command `perceptual-ops invert`: what layers know of a picture."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from torch import Tensor

from ..images import read_image, write_image
from ..networks import load_network
from ..picture_outputs import check_writable
from ..recipes.inversion import KINDS, invert
from ..recipes.optimization import OPTIMIZERS
from ..recipes.report import contact_sheet
from . import numbers
from .progress import add_progress, step_bar
from .terminal import checked_device, default_device, names


def register(commands: Any) -> None:
    command = commands.add_parser(
        "invert",
        help="make pictures that layers of a network cannot tell from one",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("picture", metavar="PICTURE", help="the picture")
    add("-o", "--output", metavar="OUT", required=True, help="the picture to write; of several layers, side by side")
    add("--layers", type=names, default="relu3_3", help="layers, separated by commas; each makes a picture of its own")
    add("--kind", choices=KINDS, default="content", help="from features, or from their Gram matrix")
    add("--size", type=numbers.side, default=256, help="pixels of the longer side")
    add("--steps", type=numbers.count, default=200, help="evaluations of the loss for each layer")
    add("--tv-weight", type=numbers.not_negative, default=1.0, help="weight of smoothness (total variation)")
    add("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or the path of a file")
    add("--optimizer", choices=OPTIMIZERS, default="lbfgs", help="lbfgs reaches a lower loss in as many steps")
    add("--device", default=default_device(), help="where to compute")
    add("--seed", type=numbers.seed, default=0, help="of the noise it starts from")
    add_progress(command)
    command.set_defaults(command=_invert)


def _invert(arguments: argparse.Namespace) -> int:
    check_writable(arguments.output, [arguments.picture, arguments.weights])
    picture = read_image(arguments.picture, arguments.size).to(checked_device(arguments.device))
    for layer in arguments.layers:  # all are refused before the first is made
        load_network("vgg16", "random", layers=[layer])
    made: dict[str, Tensor] = {}
    evaluations = itertools.count(1)
    with step_bar(arguments.steps * len(arguments.layers), arguments.progress) as show:
        for layer in arguments.layers:
            made[layer] = invert(
                picture,
                layer,
                kind=arguments.kind,
                weights=arguments.weights,
                tv_weight=arguments.tv_weight,
                steps=arguments.steps,
                optimizer=arguments.optimizer,
                seed=arguments.seed,
                on_step=lambda step, terms: show(next(evaluations), terms),
            ).image
    if len(made) == 1:
        write_image(arguments.output, made[arguments.layers[0]])
    else:
        contact_sheet(arguments.output, [[("picture", picture), *made.items()]])
    print(arguments.output)
    return 0
