"""What the experiments share: pictures, places, and results as JSON, so that each can be run by itself and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perceptual_ops.files import write_whole
from perceptual_ops.images import read_image, write_image
from perceptual_ops.picture_folder import pictures_in
from perceptual_ops.recipes.photographs import held_out_photographs, photograph, training_photographs

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "build" / "paper"
RESULTS = ROOT / "docs" / "paper"
# Of fetch_photographs.sh.
PHOTOGRAPHS, SCENES, STYLE = (ROOT / "build" / name for name in ("photographs", "scenes", "style/cafe.webp"))
STYLE_SIDE = 384  # pixels
WEIGHTS = "stlpips"  # real VGG16 weights that a package brings
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def training_pictures(folder: Path) -> list[Path]:
    """Photographs that were fetched, PHOTOGRAPHS or SCENES, else those in scikit-image.

    Its textures and slides are left out where there are others: their features are far stronger than those of
    photographs, and networks learn to draw stripes.
    """
    return pictures_in(folder) if folder.is_dir() else training_photographs()


def style_picture() -> Tensor:
    """Van Gogh's Cafe Terrace at Night, else a micrograph in scikit-image, (1, 3, STYLE_SIDE, STYLE_SIDE) in [0, 1]."""
    return square(read_image(STYLE if STYLE.exists() else photograph("tissue")), STYLE_SIDE)


def held_out(side: int | None = None) -> dict[str, Tensor]:
    """Photographs that nothing was trained on, (1, 3, H, W) in [0, 1].

    Args:
        side: The central square, resized to so many pixels. None: as it is, cropped to a multiple of 8.
    """
    pictures = {name: read_image(path) for name, path in held_out_photographs().items()}
    if side is None:
        return {name: _divisible(image) for name, image in pictures.items()}
    return {name: square(image, side) for name, image in pictures.items()}


def _divisible(image: Tensor) -> Tensor:
    height, width = (side // 8 * 8 for side in image.shape[2:])
    return image[..., :height, :width]


def square(image: Tensor, side: int) -> Tensor:
    """The middle of an image (1, 3, H, W) as (1, 3, side, side)."""
    height, width = image.shape[2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = image[..., top : top + short, left : left + short]
    return interpolate(middle, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def once(name: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make` returns, kept as JSON beside the models: an interrupted experiment resumes."""
    path = MODELS / f"{name}.json"
    if not path.exists():
        write_json(path, make(*arguments))
    return json.loads(path.read_text())


def publish(name: str, found: dict[str, Any], learned_from: Path) -> None:
    """Writes what an experiment found to docs/paper, with what it was trained on and the machine."""
    source = f"build/{learned_from.name}" if learned_from.is_dir() else "scikit-image"
    trained_on = f"{len(training_pictures(learned_from))} pictures of {source}"
    write_json(RESULTS / f"{name}.json", {"machine": machine(), "trained on": trained_on, **found})


def write_json(path: Path, found: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def keep(name: str, image: Tensor) -> None:
    """Writes an image (1, 3, H, W) beside the models."""
    MODELS.mkdir(parents=True, exist_ok=True)
    write_image(MODELS / f"{name}.png", image)


def kept(name: str) -> Tensor:
    """Reads such an image."""
    return read_image(MODELS / f"{name}.png")


def machine() -> str:
    """The machine of the measurements."""
    from bench.results import this_machine

    found = this_machine(torch.device(DEVICE))
    return f"{found.device}, torch {found.torch}"
