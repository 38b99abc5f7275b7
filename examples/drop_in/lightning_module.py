"""A Lightning module that trains super-resolution with piq's content loss and scores with torchmetrics' LPIPS.

    python examples/drop_in/lightning_module.py --steps 20

Changed lines are marked with the original.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceptual_ops.compat.piq import ContentLoss  # was: from piq import ContentLoss

# was: from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from perceptual_ops.compat.torchmetrics import LearnedPerceptualImagePatchSimilarity
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs
from perceptual_ops.recipes.super_resolution import shrunk
from perceptual_ops.recipes.transform_net import SuperResolutionNet


class Batch(Dataset[Tensor]):
    """A number of crops (3, size, size) of the packaged photographs."""

    def __init__(self, count: int, size: int, seed: int = 0) -> None:
        self.crops, self.count = RandomCrops(training_photographs(), size, zoom=2, seed=seed), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.crops[index]


class SuperResolution(lightning.LightningModule):
    """(N, 3, H, W) in [0, 1] -> (N, 3, 4H, 4W)."""

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__()
        self.network = SuperResolutionNet(4)
        # Which weights is this example's own option; the drop-in classes begin with ImageNet's, like the others.
        self.content = ContentLoss(layers=("relu2_2",), network_weights=weights)
        self.lpips = LearnedPerceptualImagePatchSimilarity("vgg", normalize=True, weights=weights)

    def training_step(self, images: Tensor, index: int) -> Tensor:
        loss = self.content(self.network(shrunk(images, 4)).clamp(0, 1), images)
        self.log("content", loss, prog_bar=True)
        return loss

    def validation_step(self, images: Tensor, index: int) -> None:
        self.lpips(self.network(shrunk(images, 4)).clamp(0, 1), images)
        self.log("lpips", self.lpips, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-4)


def train(weights: str, steps: int, size: int = 64, batch: int = 4, **settings: object) -> lightning.Trainer:
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(max_epochs=1, devices=1, logger=False, enable_checkpointing=False, **settings)
    trainer.fit(
        SuperResolution(weights),
        DataLoader(Batch(steps * batch, size), batch),
        DataLoader(Batch(2 * batch, size, seed=1), batch),
    )
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or a file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    print({name: float(value) for name, value in train(options.weights, options.steps).callback_metrics.items()})


if __name__ == "__main__":
    main()
