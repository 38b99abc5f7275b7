"""The text of foreign exceptions, for one-sentence messages."""

from __future__ import annotations

import torch

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch has no class for it


def printable(text: str) -> str:
    """The text with control characters (cursor movement, colours, line breaks) escaped.

    Bytes of a file name that are not UTF-8 are kept; the writer handles them.
    """
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode() for c in text
    )


def reason(error: BaseException) -> str:
    """The text of an error in one printable line, or its class if it has no text."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def sentence(error: BaseException) -> str:
    """The text of an error as a sentence for users of a command, also for errors of the operating system."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(error.filename, str):
        name = printable(error.filename)
        return f"{name}: expected a file or a folder that can be used, it cannot ({error.strerror})"
    return reason(error)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)
