"""Feed-forward style transfer: a model, its speed beside optimisation, and its objective beside the optimiser's."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perceptual_ops.cli.progress import step_bar
from perceptual_ops.images import write_image
from perceptual_ops.losses import PerceptualLoss
from perceptual_ops.recipes import Model, TrainingOptions, load_model, style_transfer_loss, stylize, train_style
from perceptual_ops.recipes.feed_forward import training_crops, training_loss
from perceptual_ops.recipes.report import contact_sheet, curve_picture

from .common import (
    DEVICE,
    MODELS,
    RESULTS,
    SCENES,
    WEIGHTS,
    held_out,
    keep,
    kept,
    once,
    publish,
    style_picture,
    training_pictures,
)

# First layers of the blocks, as in Gatys et al. 2015, to relu3_1. The last layers, which the paper takes, are where
# ST-LPIPS reads its VGG16: a few filters there have far larger activations than all others (docs/levels.md).
LOSS = {
    "content_layers": ("relu3_1",),
    "style_layers": ("relu1_1", "relu2_1", "relu3_1"),
    "style_weight": 3.0,
}
SHOWN = 256  # pixels of a side
SIZES = (256, 512, 1024)
ITERATIONS = (100, 300, 500)
OPTIONS = TrainingOptions(steps=4000, batch=2, size=128, precision="bf16")
if DEVICE == "cuda":  # the paper's size
    OPTIONS = replace(OPTIONS, batch=4, size=256)


def model_file() -> Path:
    """Trains the model unless it exists; resumes an interrupted run."""
    out = MODELS / "style.safetensors"
    if not out.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        with step_bar(OPTIONS.steps) as show:
            train_style(
                style_picture(),
                training_pictures(SCENES),
                out,
                weights=WEIGHTS,
                **LOSS,
                options=OPTIONS,
                device=DEVICE,
                on_step=show,
            )
    return out


def objective() -> PerceptualLoss:
    """The loss that the model was trained with, a mean over pictures (N, 3, SHOWN, SHOWN)."""
    crops = training_crops(training_pictures(SCENES), OPTIONS)
    loss = training_loss(crops, style_picture().to(DEVICE), weights=WEIGHTS, **LOSS)
    loss.reduction = "mean"
    loss.tv_weight *= (OPTIONS.size / SHOWN) ** 2  # total variation is a sum over pixels, all else a mean
    return loss


def pictures() -> None:
    """The style; held-out photographs, the model's results in one pass, and optimisation, two in a row."""
    write_image(RESULTS / "style.jpg", style_picture())
    model, cells = load_model(model_file(), DEVICE), []
    for name, image in held_out(SHOWN).items():
        cells += [(name, image), ("one pass", model(image.to(DEVICE)).cpu()), ("optimised", kept(f"optimised-{name}"))]
    contact_sheet(RESULTS / "stylised.jpg", [cells[i : i + 6] for i in range(0, len(cells), 6)], width=1400)


def curve() -> dict[str, Any]:
    """The loss of the model's result, and of the optimiser's picture at each of its evaluations."""
    model, loss = load_model(model_file(), DEVICE), objective()

    def compared(name: str, image: Tensor) -> dict[str, Any]:
        content = image.to(DEVICE)
        result = stylize(content, style_picture().to(DEVICE), loss=loss, steps=max(ITERATIONS))
        keep(f"optimised-{name}", result.image)
        with torch.no_grad():
            one_pass, untouched = loss(model(content), content).item(), loss(content, content).item()
        history = running_least(result.history["loss"])
        return {
            "one pass": one_pass,
            "photograph": untouched,
            "optimised": history,
            "overtaken": overtaken(history, one_pass),
        }

    images = held_out(SHOWN).items()
    return {"pictures": {name: once(f"objective-{name}", compared, name, image) for name, image in images}}


def running_least(values: list[float]) -> list[float]:
    least, found = float("inf"), []
    for value in values:
        least = min(least, value)
        found.append(round(least, 5))
    return found


def overtaken(history: list[float], one_pass: float) -> int | None:
    """The number of evaluations after which the optimiser's loss is below the model's, if ever."""
    return next((i + 1 for i, value in enumerate(history) if value < one_pass), None)


def draw(found: dict[str, Any]) -> None:
    pictures = found["pictures"].values()
    length = min(len(one["optimised"]) for one in pictures)
    mean = [statistics.fmean(one["optimised"][i] for one in pictures) for i in range(length)]
    curves = {
        "optimisation": mean,
        "one pass": [statistics.fmean(one["one pass"] for one in pictures)] * length,
        "the photograph": [statistics.fmean(one["photograph"] for one in pictures)] * length,
    }
    styles = [("#000000", "solid"), ("#D55E00", "dashed"), ("#0072B2", "dotted")]
    title = "The objective, mean over held-out photographs"
    curve_picture(RESULTS / "objective.png", curves, styles, title, "evaluation of the optimiser", "loss")


def speed() -> dict[str, Any]:
    """Seconds of optimisation and of one pass, both in bf16."""
    model, whole = load_model(model_file(), DEVICE), held_out(1024)["astronaut"]

    def timed(size: int) -> dict[str, float]:
        content = interpolate(whole, (size, size), mode="area").to(DEVICE)
        return {"one pass": one_pass_seconds(model, content), **optimisation_seconds(content)}

    return {"sizes": {str(size): once(f"speed-{size}", timed, size) for size in SIZES}}


def one_pass_seconds(model: Model, content: Tensor) -> float:
    """Median of seven, after two."""
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
            model(content)
        _wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def optimisation_seconds(content: Tensor) -> dict[str, float]:
    """Seconds until each of ITERATIONS evaluations; by Adam, as L-BFGS may stop before in bf16."""
    loss = style_transfer_loss(content, style_picture().to(DEVICE), weights=WEIGHTS, **LOSS)
    loss.compute_dtype = torch.bfloat16
    reached = {}

    def note(step: int, terms: dict[str, float]) -> None:
        if step + 1 in ITERATIONS:
            reached[str(step + 1)] = time.perf_counter() - start

    start = time.perf_counter()
    stylize(content, style_picture().to(DEVICE), loss=loss, steps=max(ITERATIONS), optimizer="adam", on_step=note)
    return reached


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main_objective() -> None:
    found = curve()
    draw(found)
    summary = {
        name: one | {"palette": one["optimised"][0], "optimised": one["optimised"][-1]}
        for name, one in found["pictures"].items()
    }
    for name, one in summary.items():
        print(
            f"{name}: one pass {one['one pass']:.3f}, the optimiser is below at evaluation {one['overtaken'] or 'none'}"
        )
    publish("objective", {"pictures": summary}, SCENES)
    pictures()


def main_speed() -> None:
    publish("speed", speed(), SCENES)
