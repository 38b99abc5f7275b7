"""A KL-VAE with LPIPS and a patch discriminator, as taming-transformers and latent diffusion train it.

    python examples/drop_in/vae_gan.py --steps 300 --log vae_gan.log.csv
    python examples/drop_in/vae_gan.py --loss lpips          # the package lpips with the same weights, to compare

The discriminator's weight is adaptive (Esser et al. 2021, arXiv 2012.09841): `torch.autograd.grad` takes the gradient
of the reconstruction loss with respect to the last layer, then `backward` runs. Under autograd both run the backward of
the loss network. This library's LPIPS computes its image gradient in the forward, so neither runs it again.

The changed line is marked with the original; the part to copy is `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops.compat.taming import LPIPS  # was: from taming.modules.losses.lpips import LPIPS
from perceptual_ops.networks import load_network
from perceptual_ops.picture_folder import pictures_in
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs
from perceptual_ops.recipes.training_log import READ_EVERY, Log

KL_WEIGHT = 1e-6
DISCRIMINATOR_WEIGHT = 0.5
LOSSES = ("perceptual_ops", "lpips")


def block(channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(8, out_channels), nn.SiLU())


class Autoencoder(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> the same, and the KL divergence of each image's code from N(0, 1) (N,)."""

    def __init__(self, width: int = 64, channels: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            block(3, width // 2, kernel=4, stride=2),
            block(width // 2, width, kernel=4, stride=2),
            block(width, width),
            nn.Conv2d(width, 2 * channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            block(channels, width),
            block(width, width),
            nn.Upsample(scale_factor=2),
            block(width, width),
            nn.Upsample(scale_factor=2),
            block(width, width // 2),
            nn.Conv2d(width // 2, 3, 3, padding=1),
        )

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution."""
        return self.decoder[-1].weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, 1)  # (N, C, H / 4, W / 4) each
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2, 3))
        return self.decoder(code), divergence


class PatchDiscriminator(nn.Sequential):
    """Images (N, 3, H, W) in [-1, 1] -> how real each patch looks (N, 1, H / 8, W / 8)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )


def adaptive_weight(nll: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """The ratio of the gradient norms of two scalar losses with respect to the layer, in [0, 1e4]."""
    (nll_gradient,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (nll_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4)


def generator_loss(
    vae: Autoencoder, discriminator: nn.Module, perceptual: nn.Module, images: Tensor, factor: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The autoencoder's loss, its output (N, 3, H, W), and the loss's parts.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        factor: 1 once the discriminator is on, else 0.
    """
    output, divergence = vae(images)
    l1, lpips = (output - images).abs().mean(), perceptual(output, images).mean()
    nll, kl, adversarial = l1 + lpips, divergence.mean(), -discriminator(output).mean()
    weight = adaptive_weight(nll, adversarial, vae.last_layer)
    loss = nll + KL_WEIGHT * kl + factor * DISCRIMINATOR_WEIGHT * weight * adversarial
    parts = {"l1": l1, "lpips": lpips, "kl": kl, "adversarial": adversarial, "weight": weight}
    return loss, output, parts


def hinge_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:  # (N, 3, H, W) each
    return 0.5 * (F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean())


def train(
    perceptual: nn.Module,
    pictures: Sequence[Path],
    log: Log,
    steps: int,
    size: int = 64,
    batch: int = 4,
    start: int = 100,
    seed: int = 0,
    device: str = "cpu",
) -> Autoencoder:
    """Trains on crops of the pictures; the discriminator is on from step `start`."""
    torch.manual_seed(seed)
    crops = RandomCrops(pictures, size, seed=seed)
    vae, discriminator = Autoencoder().to(device), PatchDiscriminator().to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-4, betas=(0.9, 0.99))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.9, 0.99))
    for step in range(1, steps + 1):
        first, factor = (step - 1) * batch, float(step >= start)
        images = 2 * torch.stack([crops[first + i] for i in range(batch)]).to(device) - 1

        discriminator.requires_grad_(False)  # or this loss would add to the gradients of its own
        loss, output, parts = generator_loss(vae, discriminator, perceptual, images, factor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        discriminator.requires_grad_(True)
        hinge = factor * hinge_loss(discriminator, images, output.detach())
        discriminator_optimizer.zero_grad()
        hinge.backward()
        discriminator_optimizer.step()

        numbers = {"loss": loss, **parts, "discriminator": hinge}
        log.add(step, {name: number.detach() for name, number in numbers.items()})
        if step % READ_EVERY == 0:
            print("   ".join(f"{name} {number:.4g}" for name, number in log.rows[-1].items()), flush=True)
    return vae


def loss_network(package: str, weights: str) -> nn.Module:
    """LPIPS by VGG16 of either package, with the same weights: pairs (N, 3, H, W) in [-1, 1] -> (N, 1, 1, 1)."""
    if package == "perceptual_ops":
        return LPIPS(weights=weights)
    if weights == "stlpips":
        raise ValueError("weights: expected imagenet, random or a file, whose poolings are lpips' maxima, got stlpips")
    import lpips

    module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).requires_grad_(False)
    own, theirs = (
        [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for network in (load_network("vgg16", weights), module.net)
    )
    for layer, source in zip(theirs, own, strict=True):
        layer.load_state_dict(source.state_dict())
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures; default: scikit-image's photographs")
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0], help="whose LPIPS (default %(default)s)")
    parser.add_argument("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or a file")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=64, help="pixels of a crop, a multiple of 8 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--start", type=int, default=100, help="first step of the discriminator (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--log", type=Path, default=Path("vae_gan.log.csv"), help="default %(default)s")
    options = parser.parse_args(arguments)
    pictures = pictures_in(options.data) if options.data else training_photographs()
    perceptual = loss_network(options.loss, options.weights).to(options.device)
    log = Log(options.log)
    train(
        perceptual, pictures, log, options.steps, options.size, options.batch, options.start, options.seed,
        options.device,
    )  # fmt: skip
    log.write()
    print(f"{log.rows[-1]['seconds'] / options.steps:.3f} s a step; {options.log}")


if __name__ == "__main__":
    main()
