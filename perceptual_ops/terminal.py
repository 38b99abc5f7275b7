"""What the commands share."""

from __future__ import annotations

from typing import Any

import torch

PROGRAM = "perceptual-ops"


def progress_bar(steps: int, unit: str = "it") -> Any:
    """A tqdm bar on stderr; it shows the iterations per second by itself."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ModuleNotFoundError(
            "the progress bar needs tqdm, which is not installed: pip install 'perceptual_ops[cli]'"
        ) from None
    return tqdm(total=steps, unit=unit, dynamic_ncols=True)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: expected one that torch can use, got {name!r} ({reason})") from None
    return device
