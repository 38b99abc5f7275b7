"""Paints a rocket before its launch like Van Gogh's Café Terrace at Night; writes the pictures to demo/.

    python examples/demo.py

The photograph (SpaceX, CC0) comes with scikit-image, the painting (1888, public domain) lies in docs/paper/, the
network's weights come with the package stlpips-pytorch.
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

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo"
SIZE = 256
STYLE_SIZE = 320  # pixels: its brush strokes are then about as wide as the trusses of the towers
STEPS = 100
PROGRESS = (0, 5, 15, 40)  # most happens early
# The first layers of the blocks: in the last ones, ST-LPIPS's VGG16 has a few filters with far larger activations than
# all others.
CONTENT_LAYERS = ("relu3_1",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1")
STYLE_WEIGHT = 3.0


def square(picture: Image.Image, size: int) -> Tensor:
    """The middle of a picture, as (1, 3, size, size) in [0, 1]."""
    middle = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(middle)).permute(2, 0, 1).unsqueeze(0) / 255


def main() -> int:
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = square(Image.fromarray(data.rocket()), SIZE).to(device)
    style = square(Image.open(ROOT / "docs" / "paper" / "style.jpg"), STYLE_SIZE).to(device)
    try:
        loss = style_transfer_loss(
            content,
            style,
            weights="stlpips",
            content_layers=CONTENT_LAYERS,
            style_layers=STYLE_LAYERS,
            style_weight=STYLE_WEIGHT,
        )
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
