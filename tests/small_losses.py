"""Small frozen networks in fp64 for `chunked`: a CLIP-like reward and a PatchGAN discriminator, with random weights."""

from __future__ import annotations

import torch
from placement import placed
from torch import Tensor, nn
from torch.nn import functional


class Vision(nn.Module):
    """Patches, a class token, two attention blocks, a projection: (N, 3, 16, 16) -> (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(0.1 * torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.projection = nn.Linear(16, 12)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.places
        for block in self.blocks:
            tokens = block(tokens)
        return self.projection(tokens[:, 0])


class Reward(nn.Module):
    """The similarity of images (N, 3, H, W) and text embeddings (N or 1, 12), negated: (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = Vision()

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        small = functional.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
        return -functional.cosine_similarity(self.vision(small), text)


def reward() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return placed(Reward().double().eval().requires_grad_(False))


def patch_gan() -> nn.Sequential:
    """(N, 3, H, W) -> logits (N, 1, H', W')."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        layers = [
            nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(16, 1, 4, 1, 1),
        ]  # fmt: skip
        return placed(nn.Sequential(*layers).double().eval().requires_grad_(False))


def adversarial(images: Tensor) -> Tensor:
    return -patch_gan()(images).mean((1, 2, 3))


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return placed(torch.rand(shape, generator=drawn, dtype=torch.float64).to(dtype))
