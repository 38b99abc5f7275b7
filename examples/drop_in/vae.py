"""A variational autoencoder with LPIPS as latent-diffusion codes train it; changed lines are marked.

python examples/drop_in/vae.py --steps 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perceptual_ops.compat.lpips import LPIPS  # was: from lpips import LPIPS
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs


class VAE(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> the same, and the mean and log-variance (N, 8, H / 4, W / 4) of its code."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 16, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(8, width, 3, 1, 1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, 3, 3, 1, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


def train(perceptual: nn.Module, steps: int, size: int = 64, batch: int = 4) -> list[float]:
    """The loss of each step."""
    torch.manual_seed(0)
    crops = RandomCrops(training_photographs(), size)
    vae = VAE()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        images = 2 * torch.stack([crops[step * batch + i] for i in range(batch)]) - 1
        output, mean, log_variance = vae(images)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = (output - images).abs().mean() + perceptual(output, images).mean() + 1e-6 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or a file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    perceptual = LPIPS(net="vgg", weights=options.weights)  # was: LPIPS(net="vgg").eval(), frozen by hand
    for step, loss in enumerate(train(perceptual, options.steps)):
        print(f"step {step:4}   loss {loss:.5f}")


if __name__ == "__main__":
    main()
