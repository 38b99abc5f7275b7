"""The pictures of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from .images import READ_FORMATS

SUFFIXES = tuple(READ_FORMATS)  # what is taken for a picture in a folder


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder and those below it, but hidden ones (other programs' notes on pictures), sorted.

    Raises:
        ValueError: No picture in it.
        FileNotFoundError: No such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder with pictures, there is no such folder")
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    if not found:
        raise ValueError(f"{root}: expected a folder with pictures ({', '.join(SUFFIXES)}), found none")
    return found
