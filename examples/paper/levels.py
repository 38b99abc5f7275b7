"""Which level for which task: inversions of each level of VGG16, and super-resolution trained on each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceptual_ops.cli.progress import step_bar
from perceptual_ops.networks import load_network
from perceptual_ops.recipes import invert
from perceptual_ops.recipes.report import contact_sheet

from .common import DEVICE, PHOTOGRAPHS, RESULTS, WEIGHTS, held_out, keep, kept, once, publish, square, style_picture
from .super_resolution import CROP, CROPS, TRAINED_WITH, model_file, restored, scored

# The first layer of each block (see LOSS in style.py).
CONTENT_LEVELS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LEVELS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
LEVELS = ("relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3", "relu4_1", "relu4_2", "relu4_3")
STEPS = 200  # of inversion


def inversion() -> None:
    """A photograph from the features of each level, a style's texture from the Gram matrix of each."""
    content = held_out(256)["cat"]
    style = square(style_picture(), 256)
    rows = []
    for kind, target, levels in (("content", content, CONTENT_LEVELS), ("style", style, STYLE_LEVELS)):
        row = [(kind, target)]
        for level in levels:
            left = once(f"inverted-{kind}-{level}", inverted, target, level, kind)
            row.append((f"{level}, {left:.1%}", kept(f"inverted-{kind}-{level}")))
        rows.append(row)
    contact_sheet(RESULTS / "inversion.jpg", rows, width=1400)


def inverted(target: Tensor, level: str, kind: str) -> float:
    """The remaining squared error relative to the target's square, of the picture (1, 3, H, W) that it saves."""
    with step_bar(STEPS) as show:
        result = invert(
            target.to(DEVICE),
            level,
            kind=kind,
            weights=WEIGHTS,
            steps=STEPS,
            on_step=lambda step, terms: show(step + 1, terms),
        )
    keep(f"inverted-{kind}-{level}", result.image)
    return result.history[kind][result.history["loss"].index(min(result.history["loss"]))]


@torch.no_grad()
def loudest() -> dict[str, float]:
    """Of the squared error of bicubic enlargements at each level, the share of the four filters that make the most."""
    network = load_network("vgg16", WEIGHTS, layers=LEVELS).to(DEVICE)
    errors: dict[str, Any] = dict.fromkeys(LEVELS, 0.0)
    for image in held_out().values():
        wanted, got = network(image.to(DEVICE)), network(restored(None, image, 4).to(DEVICE))
        for level in LEVELS:
            errors[level] = errors[level] + (got[level] - wanted[level]).square().mean((0, 2, 3))  # (C,)
    return {level: (error.topk(4).values.sum() / error.sum()).item() for level, error in errors.items()}


def train(block: int) -> None:
    """The models of the layers of one block."""
    for level in LEVELS:
        if level.startswith(f"relu{block}_"):
            model_file(4, "feature", (level,), 0)


def table() -> dict[str, Any]:
    """Scores of super-resolution x4 trained on the features of each level alone."""
    found = {level: scored(model_file(4, "feature", (level,), 0), 4) for level in LEVELS}
    return {"scores": found, "loudest": once("loudest", loudest)}


def sheet() -> None:
    name = "astronaut"
    (top, left), image = CROPS[name], held_out()[name]
    results = {"bicubic": restored(None, image, 4)}
    results |= {level: restored(model_file(4, "feature", (level,), 0), image, 4) for level in LEVELS}
    results |= {"pixel loss": restored(model_file(4, *TRAINED_WITH["pixel"], 0), image, 4), "original": image}
    crops = [(label, whole[..., top : top + CROP, left : left + CROP]) for label, whole in results.items()]
    half = len(crops) // 2
    contact_sheet(RESULTS / "levels.jpg", [crops[:half], crops[half:]], width=1400)


def main() -> None:
    publish("levels", table(), PHOTOGRAPHS)
    sheet()
