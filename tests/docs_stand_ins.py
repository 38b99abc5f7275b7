"""What the examples of README, docs and docstrings take from their reader: images, models, weights to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peer_torchvision import import_torchvision
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops import recipes
from perceptual_ops.networks import load, published
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.photographs import training_photographs

SIDE = 32
DOWNLOADED = ("imagenet", "vgg16-397923af.pth")


class Generator(nn.Module):
    """Anything with a last layer: (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(x).sigmoid()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def output_of(decoder: Generator) -> Tensor:
    """With a graph that no backward has freed yet."""
    output: Tensor = decoder(images(2, 3, SIDE, SIDE))
    return output


def readers_names() -> dict[str, Any]:
    """What is the reader's own, by the names that the examples give it, and the modules that he has imported."""
    torch.manual_seed(0)
    batch, one, clip = (2, 3, SIDE, SIDE), (1, 3, SIDE, SIDE), (2, 3, 2, SIDE, SIDE)
    row = torch.arange(SIDE).view(1, 1, SIDE, 1).expand(1, 1, SIDE, SIDE)
    model, decoder = Generator(), Generator()
    maps = [images(2, 16, 24, 24), images(2, 32, 12, 12)]
    return {
        "po": po, "torch": torch,
        "model": model, "optimizer": torch.optim.Adam(model.parameters()), "loader": [(images(*batch), images(*batch))],
        "decoder": decoder, "output": output_of(decoder), "target": images(*batch), "images": images(*batch),
        "t": torch.tensor([20, 700]), "face": images(2, 1, SIDE, SIDE),
        "content": images(*one), "style": images(*one), "style_image": images(*one), "photograph": images(*one),
        "sky": images(*one), "above": (row < SIDE // 2).float(),
        "sand": images(1, 3, 48, SIDE), "below": (row >= SIDE // 2).float(),
        "picture": images(3, SIDE, SIDE).numpy(),
        "band": images(*batch).requires_grad_(), "target_band": images(*batch),
        "clips": images(*clip), "targets": images(*clip), "style_clip": images(*clip)[:1],
        "small": images(3, 32, 40), "a": images(3, 32, 40), "large": images(3, 48, 40), "b": images(3, 48, 40),
        "features": maps, "target_features": [x.flip(0) for x in maps], "style_features": maps,
        "generator": Generator(), "noise": images(*batch), "discriminator": nn.Conv2d(3, 1, 4, 2),
        "clip": nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 4)),
        "text_embeddings": images(2, 4), "device": torch.device("cpu"),
    }  # fmt: skip


def names_of_docstrings() -> dict[str, Any]:
    """What the examples of docstrings take besides."""
    return {
        **vars(recipes), "Path": Path, "resize": nn.Identity(),
        "clip": lambda x: x.mean((2, 3)), "text_embeddings": images(2, 3),
        "state": {"param_groups": [{"params": [0, 1, 2]}]}, "first": 1, "count": 1,
        "make_network": recipes.StyleNet, "crops": RandomCrops(training_photographs()[:2], 32),
        "options": recipes.TrainingOptions(steps=1, batch=2, size=32), "settings": {},
        "criterion": lambda output, images: (output - images).square().mean(),
    }  # fmt: skip


def install(patch: pytest.MonkeyPatch, code: str, folder: Path) -> None:
    """No network and nothing in the reader's folder: weights are random, files are made in `folder`.

    Skips the test where a package of others that the code builds a network with is not installed.
    """
    patch.chdir(folder)
    read, stylize = load.read_weights, recipes.stylize

    def read_weights(weights: Any, network: str, progress: bool = True) -> tuple[Any, str]:
        if isinstance(weights, str) and weights in DOWNLOADED:
            return po.load_network(network, "random").state_dict(), "random numbers"
        return read(weights, network, progress)

    patch.setattr(load, "read_weights", read_weights)
    patch.setattr(recipes, "stylize", lambda *pictures, steps, **settings: stylize(*pictures, steps=2, **settings))
    if "distributed" in code:
        for variable, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}.items():
            patch.setenv(variable, str(value))
    if "distributed" in code and "init_process_group" not in code:
        dist.init_process_group("gloo")
    if "torch.export.load" in code:
        torch.export.save(torch.export.export(Generator().eval(), (images(1, 3, SIDE, SIDE),)), folder / "style.pt2")
    if '"titok"' in code:
        models = import_torchvision().models
        stages = [models.convnext.CNBlockConfig(24, None, 2)]
        patch.setattr(models, "convnext_small", lambda weights, **settings: models.ConvNeXt(stages, **settings))
        patch.setattr(published, "read_weights", lambda weights, name: (None, ""))
    if "transformers" in code:
        import_torchvision()  # which transformers imports
        transformers = pytest.importorskip("transformers")
        config = transformers.Dinov2Config(hidden_size=24, num_attention_heads=2, image_size=224)
        patch.setattr(transformers.Dinov2Model, "from_pretrained", lambda name: transformers.Dinov2Model(config).eval())
