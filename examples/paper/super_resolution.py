"""Super-resolution x4 and x8 with pixel, feature and combined losses, trained alike, scored on held-out photographs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from perceptual_ops.cli.progress import step_bar
from perceptual_ops.recipes import load_model, train_super_resolution
from perceptual_ops.recipes.report import contact_sheet
from perceptual_ops.recipes.super_resolution import FEATURE_LAYERS, OPTIONS, enlarged, shrunk

from .common import DEVICE, MODELS, PHOTOGRAPHS, RESULTS, WEIGHTS, held_out, once, publish, training_pictures
from .scores import scores

# Name -> loss and layers. relu2_2 is the paper's; relu2_1 suits the weights that are at hand (docs/levels.md).
TRAINED_WITH = {
    "pixel": ("pixel", ()),
    "feature relu2_2": ("feature", FEATURE_LAYERS),
    "feature relu2_1": ("feature", ("relu2_1",)),
    "pixel + relu2_1": ("combined", ("relu2_1",)),
}
SEEDS = {4: (0, 1, 2), 8: (0,)}
TRAINED = replace(OPTIONS, steps=1500, precision="bf16")
# What is shown: name -> (top, left) of a square of CROP pixels.
CROPS = {"astronaut": (60, 170), "cat": (90, 130), "temple": (180, 230)}
CROP = 128


def model_file(scale: int, loss: str, layers: Sequence[str], seed: int) -> Path:
    """Trains the model unless it exists; resumes an interrupted run."""
    out = MODELS / f"{'-'.join([f'sr-x{scale}', loss, *layers, str(seed)])}.safetensors"
    if not out.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        options = replace(TRAINED, seed=seed)
        print(out.stem, flush=True)
        with step_bar(options.steps) as show:
            train_super_resolution(
                training_pictures(PHOTOGRAPHS),
                out,
                scale=scale,
                loss=loss,
                layers=layers,
                weights=WEIGHTS,
                options=options,
                device=DEVICE,
                on_step=show,
            )
    return out


def train(scale: int, seed: int) -> None:
    """The models of one seed."""
    for loss, layers in TRAINED_WITH.values():
        model_file(scale, loss, layers, seed)


def restored(file: Path | None, image: Tensor, scale: int) -> Tensor:
    """A photograph (1, 3, H, W), downsampled and enlarged again, by a model or bicubic."""
    small = shrunk(image, scale)
    if file is None:
        return enlarged(small, scale)
    return load_model(file, DEVICE)(small.to(DEVICE)).cpu()


def scored(file: Path | None, scale: int) -> dict[str, float]:
    """Each score, a mean over the held-out photographs."""

    def score_all() -> dict[str, float]:
        pairs = [(restored(file, image, scale), image) for image in held_out().values()]
        return {name: statistics.fmean(score(*pair) for pair in pairs) for name, score in scores(border=scale).items()}

    return once(f"scores-{file.stem if file else f'bicubic-x{scale}'}", score_all)


def table(scale: int) -> dict[str, Any]:
    """Scores of each loss, a list over the seeds; of bicubic one."""
    found: dict[str, Any] = {"bicubic": [scored(None, scale)]}
    for name, (loss, layers) in TRAINED_WITH.items():
        found[name] = [scored(model_file(scale, loss, layers, seed), scale) for seed in SEEDS[scale]]
    return {"scores": found}


def sheet(scale: int) -> None:
    """Crops side by side, enlarged, so that pixels show."""
    rows = []
    for name, (top, left) in CROPS.items():
        image = held_out()[name]
        results = {"bicubic": restored(None, image, scale)}
        for label, (loss, layers) in TRAINED_WITH.items():
            results[label] = restored(model_file(scale, loss, layers, 0), image, scale)
        results["original"] = image
        rows.append(
            [(f"{name}: {label}", whole[..., top : top + CROP, left : left + CROP]) for label, whole in results.items()]
        )
    contact_sheet(RESULTS / f"sr-x{scale}.jpg", rows, width=1600)


def main(scale: int) -> None:
    publish(f"sr-x{scale}", table(scale), PHOTOGRAPHS)
    sheet(scale)
