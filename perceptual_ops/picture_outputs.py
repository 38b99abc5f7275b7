"""Where commands may write pictures: never over an input, nor over what this library did not write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import PathLike, check_apart, check_folder, check_writable_file, is_taken
from .images import SOFTWARE, check_installed, format_of, software_of


def check_writable(path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Raises what writing a picture to `path` would raise, before minutes are spent on it.

    Also where it would take the place of one of the inputs, or of a file that is no picture of this library's: what a
    command writes may replace an earlier result of that name, and nothing else. A BMP never says what wrote it.
    """
    check_installed()
    format_of(path)
    _check_no_folder(path)
    check_apart([path], inputs)
    check_writable_file(path)
    _check_replaceable(path)


def check_writable_below(places: Sequence[Path], inputs: Iterable[PathLike]) -> None:
    """As `check_writable`, for pictures of a folder; folders that are missing are left to be made."""
    check_installed()
    check_apart(places, inputs)
    for place in places:
        _check_no_folder(place)
    for place in {place.parent: place for place in places}.values():  # one of each folder
        check_folder(place.parent)
        if place.parent.is_dir():
            check_writable_file(place)
    for place in places:
        _check_replaceable(place)


def _check_no_folder(path: PathLike) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(f"{os.fspath(path)}: expected the name of a picture, this is a folder")


def _check_replaceable(path: PathLike) -> None:
    if is_taken(path) and not _is_own(path):
        raise FileExistsError(
            f"{os.fspath(path)}: expected a new name or an earlier result, the file that is there was not written by "
            f"{SOFTWARE}; move it or choose another name"
        )


def _is_own(path: PathLike) -> bool:
    """Whether it is a picture that this library wrote."""
    try:
        return software_of(path).startswith(SOFTWARE)
    except ValueError:
        return False
