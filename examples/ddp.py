"""Trains a small network to double the resolution of photographs on several processes, by DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/ddp.py                      # a GPU for each process, or the CPU
    torchrun --nproc-per-node 2 examples/ddp.py --weights imagenet   # torchvision's VGG16, downloaded once

The parts to copy are `join` and `train`. The loss is frozen and on every process: it has no parameters, so nothing of
it is broadcast or reduced, whether it is beside the model or part of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parallel import DistributedDataParallel

from perceptual_ops import PerceptualLoss
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs


class SuperResolution(nn.Module):
    """(N, 3, H, W) -> (N, 3, 2H, 2W): bilinear enlargement plus a residual of two convolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, width, 3, padding=1)
        self.pixels = nn.Conv2d(width, 3 * 4, 3, padding=1)

    def forward(self, small: Tensor) -> Tensor:
        large = interpolate(small, scale_factor=2, mode="bilinear")
        return large + nn.functional.pixel_shuffle(self.pixels(self.features(small).relu()), 2)


def join() -> torch.device:
    """Joins the process group of torchrun; returns this process's device."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    return device


def train(
    criterion: PerceptualLoss,
    device: torch.device,
    steps: int,
    batch: int = 8,
    size: int = 64,
    spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel,
) -> nn.Module:
    """Trains on crops of `size` pixels, `batch` per step over all processes; `spread` wraps the model for them."""
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = spread(SuperResolution().to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    crops = RandomCrops(training_photographs(), size)
    for step in range(steps):
        # This process's share; gradients are averaged over processes, so shares must have equal size.
        images = torch.stack([crops[step * batch + i] for i in range(rank, batch, count)]).to(device)
        output = model(interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True))
        loss = criterion(output, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        dist.all_reduce(mean := loss.detach() / count)
        if rank == 0:
            print(f"step {step:4}   loss {mean.item():.5f}")
    return model


def main(
    arguments: Sequence[str] | None = None, spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel
) -> None:
    parser = argparse.ArgumentParser(description="Trains a small network on several processes.")
    parser.add_argument("--weights", default="stlpips", help="of VGG16: imagenet, stlpips, random, or a file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    device = join()
    criterion = PerceptualLoss("vgg16", weights=options.weights, content_layers=["relu2_2"]).to(device)
    train(criterion, device, options.steps, spread=spread)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
