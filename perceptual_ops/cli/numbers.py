"""argparse types for numbers, which refuse values out of range in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from .._checks import MAX_SEED
from ..images import MAX_SIDE
from ..recipes.training import MAX_LR

FP32 = torch.finfo(torch.float32)


def whole(least: int, most: int, or_else: str = "") -> Callable[[str], int]:
    """From `least` to `most`; `or_else` says what may come in its place."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also of more digits than Python converts
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}{or_else}, got {_shown(text)}"
            )
        return number

    return parse


def number(least: float, what: str, most: float = FP32.max) -> Callable[[str], float]:
    """From `least` to `most`; `what` says so."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number {what}, got {_shown(text)}")
        return value

    return parse


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def counts(text: str) -> list[int]:
    """One or more, separated by commas."""
    return [count(part) for part in text.split(",")]


def tile(text: str) -> int | str:
    """The side of a tile in pixels, or "auto"."""
    return text if text == "auto" else _tile_side(text)


side: Callable[[str], int] = whole(1, MAX_SIDE)  # in pixels
_tile_side: Callable[[str], int] = whole(1, MAX_SIDE, " or auto")
count: Callable[[str], int] = whole(1, 2**31 - 1)
seed: Callable[[str], int] = whole(0, MAX_SEED)
positive: Callable[[str], float] = number(FP32.tiny, "above 0 that fp32 can hold")
not_negative: Callable[[str], float] = number(0.0, "of at least 0 that fp32 can hold")
step_size: Callable[[str], float] = number(FP32.tiny, f"above 0 and at most {MAX_LR:g}", MAX_LR)
