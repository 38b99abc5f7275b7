"""Running the command `compare` in tests."""

import csv
from importlib.util import find_spec

import torch

import perceptual_ops as po
from perceptual_ops import cli
from perceptual_ops.images import read_image

LPIPS = ("--metric", "stlpips") if find_spec("stlpips_pytorch") else ("--weights", "random")
WEIGHTS = "stlpips" if find_spec("stlpips_pytorch") else "random"


def picture(seed, height=64, width=96):
    """A cloudy picture (3, H, W) in [0, 1]."""
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]


def run(folder, *options, output="a.png", target="b.png"):
    return cli.main(["compare", str(folder / output), str(folder / target), "--device", "cpu", *map(str, options)])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def by_hand(loss, first, second, **options):
    with torch.no_grad():
        return loss(read_image(first), **{"target": read_image(second), **options}).item()


def lpips():
    return po.LPIPS("alex", weights=WEIGHTS, input_range=(0, 1))
