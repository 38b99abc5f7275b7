"""Launches of the kernels in primitives.cu."""

from __future__ import annotations

import numpy as np

from host.worker import Launch


def launch(
    name: str, given: np.ndarray, words: int, blocks: int = 1, threads: int = 32, shared_bytes: int = 0, orders: int = 8
) -> Launch:
    """One of the kernels with its input and room for so many words of output."""
    arguments = {
        "name": name,
        "blocks": blocks,
        "threads": threads,
        "shared_bytes": shared_bytes,
        "in": np.ascontiguousarray(given).view(np.uint32).reshape(-1),
        "out": np.zeros(words, np.uint32),
    }
    return Launch("primitives", "run", arguments, orders)


def numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32)
