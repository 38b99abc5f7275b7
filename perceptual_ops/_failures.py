"""What errors of others say, for messages of one sentence."""

from __future__ import annotations

import torch

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch has no class for it


def printable(text: str) -> str:
    """A text of one line, in which what would move a terminal's cursor, colour it or break the line is escaped.

    Bytes of a file's name that are no UTF-8 stay as they are: whoever writes them knows how.
    """
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode() for c in text
    )


def reason(error: BaseException) -> str:
    """The text of an error in one line, printable, or its class where it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def sentence(error: BaseException) -> str:
    """The text of an error for who runs a command: also where the system's own, which is no sentence, came through."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(error.filename, str):
        name = printable(error.filename)
        return f"{name}: expected a file or a folder that can be used, it cannot ({error.strerror})"
    return reason(error)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)
