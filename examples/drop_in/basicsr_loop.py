"""A super-resolution loop as BasicSR's models write it; changed lines are marked with the original.

BasicSR's own training needs none: call `perceptual_ops.compat.basicsr.register()` before it builds the model, and write
`type: PerceptualLoss_perceptual_ops` in the options file where `type: PerceptualLoss` was.

python examples/drop_in/basicsr_loop.py --steps 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn

from perceptual_ops.compat.basicsr import PerceptualLoss  # was: from basicsr.losses import PerceptualLoss
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs
from perceptual_ops.recipes.super_resolution import shrunk
from perceptual_ops.recipes.transform_net import SuperResolutionNet


def train(weights: str, steps: int, size: int = 96, batch: int = 4) -> list[float]:
    """The loss of each step."""
    crops = RandomCrops(training_photographs(), size, zoom=2)
    net_g = SuperResolutionNet(4)
    cri_pix = nn.L1Loss()
    cri_perceptual = PerceptualLoss(
        layer_weights={"conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0},
        vgg_type="vgg19",
        perceptual_weight=1.0,
        style_weight=0.0,
        criterion="l1",
        weights=weights,  # was: the file experiments/pretrained_models/vgg19-dcbb9e9d.pth
    )
    optimizer_g = torch.optim.Adam(net_g.parameters(), lr=2e-4)
    losses = []
    for step in range(steps):
        gt = torch.stack([crops[step * batch + i] for i in range(batch)])
        output = net_g(shrunk(gt, 4))
        optimizer_g.zero_grad()
        l_total = cri_pix(output, gt)
        l_percep, _l_style = cri_perceptual(output, gt)  # the style loss is None at weight 0
        l_total = l_total + l_percep
        l_total.backward()
        optimizer_g.step()
        losses.append(l_total.item())
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="of VGG19: imagenet, random, or the path of a file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    for step, loss in enumerate(train(options.weights, options.steps)):
        print(f"step {step:4}   loss {loss:.5f}")


if __name__ == "__main__":
    main()
