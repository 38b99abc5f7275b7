"""What the commands share."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from .._failures import printable, reason
from .._program import PROGRAM

TILE_HELP = (
    "pixels on the side of the tiles in which large pictures go through the network, or auto; None: auto for pictures "
    "above 4 megapixels"
)


def say(sentence: str) -> None:
    """Writes a sentence to stderr, above a progress bar that is there."""
    line, tqdm = f"{PROGRAM}: {printable(sentence)}", sys.modules.get("tqdm")
    if tqdm is None:
        print(line, file=sys.stderr)
    else:
        tqdm.tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows RuntimeWarnings, such as this package's own, as sentences; others with their place as ever."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *arguments: Any, **settings: Any) -> None:
            if category is RuntimeWarning:
                say(str(message))
            else:
                shown(message, category, *arguments, **settings)

        warnings.showwarning = show
        yield


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> torch.device:
    """The device, if something can be computed on it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says it
            device = torch.device(name)
            (torch.zeros(1, device=device) + 1).item()  # "meta" has no numbers
    except Exception as error:  # each backend that torch lacks raises its own
        why = reason(error).split(". ")[0] if "INTERNAL ASSERT" not in str(error) else "it keeps no tensors there"
        raise ValueError(f"--device: expected one that torch can use, got {name!r} ({why})") from None
    return device


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
