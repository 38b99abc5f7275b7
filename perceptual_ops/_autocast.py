"""autocast on devices that may lack it: "meta" has none, "mps" none before torch 2.5."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def _is_missing(device_type: str) -> bool:
    try:
        torch.get_autocast_dtype(device_type)
    except RuntimeError:
        return True
    return False


# Found once: torch.compile traces the functions below.
WITHOUT_AUTOCAST = tuple(filter(_is_missing, ("meta", "mps")))


def autocast(device_type: str, dtype: torch.dtype | None = None) -> AbstractContextManager[object]:
    """torch.autocast to a dtype; None disables autocast."""
    if device_type in WITHOUT_AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype of the caller's autocast; None where it is off."""
    if device_type in WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)
