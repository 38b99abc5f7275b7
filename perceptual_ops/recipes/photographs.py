"""Photographs in the packages scikit-image and scikit-learn, for recipes without a folder of one's own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# Name -> package and file. What is trained on is never scored.
TRAINING = {
    "rocket": ("skimage", "data/rocket.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
    "brick": ("skimage", "data/brick.png"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
}
HELD_OUT = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def photograph(name: str) -> Path:
    """The file of a photograph.

    Raises:
        ValueError: Unknown name.
        ModuleNotFoundError: Its package is not installed.
    """
    files = {**TRAINING, **HELD_OUT}
    if name not in files:
        raise ValueError(f"name: expected one of {', '.join(files)}, got {name!r}")
    package, file = files[name]
    spec = find_spec(package)  # does not import it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the photograph {name} comes with {PACKAGES[package]}, which is not installed: "
            f"pip install {PACKAGES[package]}"
        )
    return Path(spec.origin).parent / file


def training_photographs() -> list[Path]:
    return [photograph(name) for name in TRAINING]


def held_out_photographs() -> dict[str, Path]:
    return {name: photograph(name) for name in HELD_OUT}
