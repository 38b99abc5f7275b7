"""What errors of others say, for messages of one sentence."""

from __future__ import annotations

import torch

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch has no class for it


def reason(error: BaseException) -> str:
    """The text of an error in one line, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)
