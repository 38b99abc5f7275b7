"""Trains a tiny network to double the resolution of photographs, with a pixel loss and a perceptual loss.

    python examples/training_loop.py                      # real VGG16 weights, from the package stlpips-pytorch
    python examples/training_loop.py --weights imagenet   # torchvision's, downloaded once

The part to copy is `train`.
"""

import argparse
from collections.abc import Sequence

import torch
from skimage import data
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss

from perceptual_ops import PerceptualLoss


class SuperResolution(nn.Module):
    """(N, 3, H, W) -> (N, 3, 2H, 2W): bicubic enlargement plus a residual of three convolutions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3 * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        nn.init.zeros_(self.body[-2].weight)  # training starts at the bicubic enlargement
        nn.init.zeros_(self.body[-2].bias)

    def forward(self, small: Tensor) -> Tensor:
        return interpolate(small, scale_factor=2, mode="bicubic", align_corners=False) + self.body(small)


def photographs() -> list[Tensor]:
    """Each (3, H, W) in [0, 1]."""
    pictures = (data.chelsea(), data.astronaut(), data.coffee(), data.rocket())
    return [torch.tensor(picture).permute(2, 0, 1) / 255 for picture in pictures]


def random_crops(pictures: list[Tensor], count: int, size: int) -> Tensor:
    """(count, 3, size, size), from torch's global generator."""
    crops = []
    for index in torch.randint(len(pictures), (count,)).tolist():
        picture = pictures[index]
        top = int(torch.randint(picture.shape[1] - size + 1, ()))
        left = int(torch.randint(picture.shape[2] - size + 1, ()))
        crops.append(picture[:, top : top + size, left : left + size])
    return torch.stack(crops)


def halved(large: Tensor) -> Tensor:
    """(N, 3, 2H, 2W) -> (N, 3, H, W): the network's input."""
    return interpolate(large, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)


def train(weights: str, perceptual_weight: float, steps: int, batch: int, size: int, device: str) -> SuperResolution:
    pictures = photographs()
    model = SuperResolution().to(device)
    criterion = PerceptualLoss(
        "vgg16", weights=weights, content_layers=["relu2_2"], content_weight=perceptual_weight
    ).to(device)
    # The criterion has no parameters: the optimizer and the checkpoint hold the model alone.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    fixed = random_crops(pictures, batch, size).to(device)

    @torch.no_grad()  # an evaluation without it would pay for a gradient nobody uses
    def evaluate() -> str:
        output = model(halved(fixed))
        return f"pixel {l1_loss(output, fixed).item():.5f}   perceptual {criterion(output, fixed).item():.5f}"

    print(f"before      {evaluate()}")
    for step in range(steps):
        large = random_crops(pictures, batch, size).to(device)
        output = model(halved(large))
        pixel = l1_loss(output, large)
        perceptual = criterion(output, large)
        optimizer.zero_grad()
        (pixel + perceptual).backward()
        optimizer.step()
        print(f"step {step:4}   pixel {pixel.item():.5f}   perceptual {perceptual.item():.5f}")
    print(f"after       {evaluate()}")
    return model


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="stlpips", help="imagenet, stlpips, random, or the path of a file")
    parser.add_argument(
        "--perceptual-weight",
        type=float,
        default=10.0,
        help="makes both parts alike with stlpips; ImageNet's features are larger and want a smaller weight",
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=96, help="pixels of a crop, an even number")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train(arguments.weights, arguments.perceptual_weight, arguments.steps, arguments.batch, arguments.size, device)


if __name__ == "__main__":
    main()
