"""Stylises a photograph of a cat with the Hubble deep field; writes the pictures to demo/.

    python examples/demo.py

Both pictures come with scikit-image, the network's weights with the package stlpips-pytorch.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data
from torch import Tensor

from perceptual_ops.cli.progress import step_bar
from perceptual_ops.images import write_image
from perceptual_ops.recipes import style_transfer_loss, stylize
from perceptual_ops.recipes.report import contact_sheet, loss_curve

FOLDER = Path(__file__).resolve().parent.parent / "demo"
SIZE = 256
STYLE_SIZE = 512  # at 256 pixels the stars would be finer than a brush stroke
STEPS = 150
PROGRESS = (0, 5, 15, 50)  # most happens early


def square(pixels: np.ndarray, size: int) -> Tensor:
    """The middle of a picture, uint8 (H, W, 3), as (1, 3, size, size) in [0, 1]."""
    middle = ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(middle)).permute(2, 0, 1).unsqueeze(0) / 255


def main() -> int:
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = square(data.chelsea(), SIZE).to(device)
    style = square(data.hubble_deep_field(), STYLE_SIZE).to(device)
    try:
        loss = style_transfer_loss(content, style, weights="stlpips")
    except (OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2

    with step_bar(STEPS) as show:
        result = stylize(
            content,
            style,
            loss=loss,
            steps=STEPS,
            snapshots_at=PROGRESS,
            on_step=lambda step, terms: show(step + 1, terms),
        )

    FOLDER.mkdir(exist_ok=True)
    write_image(FOLDER / "stylised.png", result.image)
    progress = [(f"evaluation {step}", image) for step, image in result.snapshots.items()]
    pictures = [("content", content), ("style", style), ("result", result.image)]
    contact_sheet(FOLDER / "contact_sheet.png", [pictures, [*progress, ("result", result.image)]])
    loss_curve(FOLDER / "loss.png", result.history, "Style transfer: the loss and its weighted parts")

    for term in ("content", "style"):
        values = result.history[term]
        print(f"{term:8} fell by {1 - values[-1] / values[0]:4.0%}, from {values[0]:.3f} to {values[-1]:.3f}")
    print(f"{time.perf_counter() - started:.0f} s on {device}; pictures in {FOLDER.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
