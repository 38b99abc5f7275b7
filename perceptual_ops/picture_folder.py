"""The pictures of a folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from .images import READ_FORMATS

SUFFIXES = tuple(READ_FORMATS)  # what is taken for a picture in a folder


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder and those below it, but hidden ones (other programs' notes on pictures), sorted.

    What cannot be read as one is among them, such as a link to a file that is not there: its reader says why.

    Raises:
        ValueError: No picture in it.
        FileNotFoundError, PermissionError: No such folder, or one that must not be read. One below it is left out with
            a warning.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder with pictures, there is no such folder")

    def unlisted(error: OSError) -> None:
        if error.filename == str(root):
            raise PermissionError(f"{root}: expected a folder that may be read ({error.strerror})") from None
        warnings.warn(f"{error.filename}: left out, it cannot be read ({error.strerror})", RuntimeWarning, stacklevel=3)

    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"{root}: expected a folder with pictures ({', '.join(SUFFIXES)}), found none")
    return sorted(found)
