"""A network and pictures so small that tests can train with them."""

import torch
from torch import nn

from perceptual_ops.images import write_image
from perceptual_ops.recipes import Training, TrainingOptions
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.training_log import read_log

TINY = TrainingOptions(steps=6, batch=2, size=32, save_every=2)


class Tiny(nn.Module):
    """(N, 3, H, W) -> the same, with random numbers in training."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, images):
        return images + self.dropout(self.convolution(images))


class Stop(Exception):
    pass


def write_pictures(folder):
    """Three pictures of coloured blocks in a new folder."""
    generator = torch.Generator().manual_seed(0)
    folder.mkdir()
    for number in range(3):
        blocks = torch.rand(3, 12, 10, generator=generator).repeat_interleave(5, 1).repeat_interleave(5, 2)
        write_image(folder / f"{number}.png", blocks)
    return sorted(folder.iterdir())


def seeded(options):
    """The network as training begins with it."""
    torch.manual_seed(options.seed)
    return Tiny()


def run(pictures, out, options=TINY, stop_after=None, on_step=None, weight=1.0, **settings):
    """Trains `Tiny` to give back its input; raises Stop in the middle of a step."""
    with Training(
        Tiny, RandomCrops(pictures, options.size), out, options, torch.device("cpu"), settings, on_step
    ) as training:
        for images in training.batches():
            if training.done == stop_after:
                raise Stop
            with training.autocast():
                loss = weight * (training.network(images).float() - images).square().mean()
            training.update(loss, {"loss": loss.detach(), "error": loss.detach().sqrt()})
        return training.model


def losses(out):
    return [row["loss"] for row in read_log(out.with_suffix(".log.csv"))]
