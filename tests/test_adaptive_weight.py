"""Adaptive weights of VAE-GAN trainers: `torch.autograd.grad` at one layer, then `backward`, over one loss."""

from __future__ import annotations

import pytest
import torch
from maps import relative_error
from peers import features, peer, state, torchvision_gives
from placement import placed
from torch import nn
from torch.utils.checkpoint import checkpoint

from examples.drop_in import vae_gan
from perceptual_ops.compat.taming import LPIPS
from perceptual_ops.engine.trunk import Trunk

pytestmark = pytest.mark.usefixtures("on_device")


def networks(dtype: torch.dtype = torch.float32) -> tuple[vae_gan.Autoencoder, nn.Module]:
    torch.manual_seed(0)
    discriminator = vae_gan.PatchDiscriminator(width=8).to(dtype).requires_grad_(False)
    return placed(vae_gan.Autoencoder(width=16).to(dtype)), placed(discriminator)


def images(dtype: torch.dtype = torch.float32) -> torch.Tensor:  # (2, 3, 32, 32) in [-1, 1]
    return placed(2 * torch.rand(2, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1)) - 1)


def step(perceptual: nn.Module, vae: vae_gan.Autoencoder, discriminator: nn.Module, dtype=torch.float32):
    """A generator's step with the same noise each time: the adaptive weight, and the gradients it leaves."""
    torch.manual_seed(2)
    loss, _, parts = vae_gan.generator_loss(vae, discriminator, perceptual, images(dtype), factor=1.0)
    vae.zero_grad()
    loss.backward()
    return parts["weight"], torch.cat([parameter.grad.flatten() for parameter in vae.parameters()])


def test_the_ratio_of_the_norms():
    layer = torch.ones(4, requires_grad=True)
    steep, flat = (3 * layer).sum(), (0.5 * layer).sum()  # gradients of norm 6 and 1
    assert vae_gan.adaptive_weight(steep, flat, layer).item() == pytest.approx(6 / (1 + 1e-4))
    assert vae_gan.adaptive_weight(steep, 0 * flat, layer).item() == 1e4  # 6e4, clamped


def test_equal_to_the_package_lpips():
    """In fp64: the package keeps its normalisation in fp32."""
    peer("lpips")
    found = []
    for package in vae_gan.LOSSES:
        with torchvision_gives(vgg16=features("vgg16")):
            perceptual = placed(vae_gan.loss_network(package, state("vgg16")).double())
        found.append(step(perceptual, *networks(torch.float64), torch.float64))
    (weight, gradients), (their_weight, their_gradients) = found
    assert 0.1 < their_weight < 1e4  # not clamped
    assert relative_error(weight, their_weight) < 1e-5
    assert relative_error(gradients, their_gradients) < 1e-5


def count_gradients(x: torch.Tensor, calls: list[int]) -> None:
    if x.requires_grad:
        x.register_hook(lambda gradient: calls.append(1))


@pytest.mark.parametrize(("engine", "expected"), [("lean", [1, 1, 1]), ("autograd", [0, 1, 2])])
def test_how_often_the_backward_of_the_loss_network_runs(engine, expected, monkeypatch):
    """After the forward, the adaptive weight and `backward`; under autograd it runs in both of these."""
    perceptual = placed(LPIPS(weights="random", engine=engine))
    calls: list[int] = []
    by_hand = Trunk.backward
    monkeypatch.setattr(Trunk, "backward", lambda *arguments: calls.append(1) or by_hand(*arguments))
    first = next(layer for layer in perceptual._loss._network.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda layer, inputs: count_gradients(inputs[0], calls))
    vae, discriminator = networks()

    output, _ = vae(images())
    nll = perceptual(output, images()).mean()
    counts = [len(calls)]
    weight = vae_gan.adaptive_weight(nll, -discriminator(output).mean(), vae.last_layer)
    counts.append(len(calls))
    (nll - weight * discriminator(output).mean()).backward()
    counts.append(len(calls))
    assert counts == expected


def test_a_checkpointed_decoder_has_the_same_gradients():
    perceptual, (vae, discriminator) = placed(LPIPS(weights="random")), networks()
    weight, gradients = step(perceptual, vae, discriminator)
    plain = vae.decoder.forward
    vae.decoder.forward = lambda code: checkpoint(plain, code, use_reentrant=False)
    again, others = step(perceptual, vae, discriminator)
    torch.testing.assert_close(again, weight)
    torch.testing.assert_close(others, gradients)
