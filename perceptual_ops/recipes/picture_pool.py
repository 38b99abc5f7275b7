"""The pictures that training reads, decoded once; another takes the place of one that cannot be read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..images import read_image, side_lengths
from .processes import is_first

CACHE_BYTES = 1 << 30  # of decoded pictures, in each process
NAMED = 3  # pictures that a warning names before it only counts them


class PicturePool:
    """Pictures by number. Which picture a number gives depends on the files alone, not on who reads them and when.

    Args:
        pictures: Files that `read_image` reads. Those that are no picture, and those with a side below `least_side`,
            are left out, with a warning.
        least_side: In pixels.
        strict: Whether the first that cannot be read is an error.

    Attributes:
        paths: The pictures that are left.
        speaks: Whether a picture that turns out damaged is warned of where it is read. A loop that has its pictures
            read by several processes sets False and calls `tell` now and then, so that each is named once.

    Raises:
        ValueError: No picture is left; with `strict`, one that cannot be read.
    """

    def __init__(self, pictures: Sequence[str | os.PathLike[str]], least_side: int, *, strict: bool = False) -> None:
        self.paths: list[Path] = []
        self.speaks: bool = True
        self.strict: bool = strict
        self._unopened, small = 0, list[Path]()
        for path in map(Path, pictures):
            try:
                fits = min(side_lengths(path)) >= least_side
            except (OSError, ValueError) as error:
                self._unopened += 1
                self._refuse(str(error), is_first())
                continue
            (self.paths if fits else small).append(path)
        if not self.paths:
            raise ValueError(
                f"pictures: expected one with sides of at least {least_side} pixels, got {len(small)} that are smaller "
                f"and {self._unopened} that cannot be read"
            )
        if small and is_first():
            more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
            named = ", ".join(map(str, small[:NAMED])) + more
            told = f"{len(small)} of {len(pictures)} pictures are left out, a side below {least_side} pixels: {named}"
            warnings.warn(told, RuntimeWarning, stacklevel=3)
        # In shared memory: the processes that read mark what they find, the one that trains sees it.
        self.damaged: Tensor = torch.zeros(len(self.paths), dtype=torch.uint8).share_memory_()  # (pictures,)
        self._told = torch.zeros_like(self.damaged)
        self._decoded: dict[int, Tensor] = {}  # (3, H, W) uint8, of the first pictures that fit into CACHE_BYTES
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def folder(self) -> Path:
        """That has all of the pictures in it or below."""
        return Path(os.path.commonpath([path.absolute().parent for path in self.paths]))

    @property
    def unreadable(self) -> int:
        """How many pictures could not be read until now."""
        return self._unopened + int(self.damaged.sum())

    def pixels(self, number: int) -> Tensor:  # (3, H, W) uint8
        """The picture, or the next that can be read: one damaged file must not end hours of training."""
        for attempt in range(len(self.paths)):
            place = (number + attempt) % len(self.paths)
            if place in self._decoded:
                return self._decoded[place]
            if self.damaged[place]:
                continue
            try:
                found = _read(self.paths[place])
            except (OSError, ValueError) as error:
                self.damaged[place] = 1
                if self.speaks:
                    self._told[place] = 1
                    self._refuse(str(error), True)
                continue
            if self._bytes + found.numel() <= CACHE_BYTES:
                self._decoded[place] = found
                self._bytes += found.numel()
            return found
        raise self._none_left()

    def tell(self, aloud: bool = True) -> None:
        """Warns of the pictures that were found damaged since the last call, with `aloud`, or raises with `strict`."""
        for place in (self.damaged > self._told).nonzero().flatten().tolist():
            self._told[place] = 1
            if aloud or self.strict:
                self._refuse(_failure(self.paths[place]), aloud)
        if self.damaged.all():
            raise self._none_left()

    def _refuse(self, reason: str, aloud: bool) -> None:
        if self.strict:
            raise ValueError(reason)
        if aloud:
            warnings.warn(f"{reason}; it is left out", RuntimeWarning, stacklevel=3)

    def _none_left(self) -> ValueError:
        count, example = len(self.paths), _failure(self.paths[0])
        return ValueError(f"pictures: expected one that can be read, none of the {count} can, such as {example}")


def _read(path: Path) -> Tensor:  # (3, H, W) uint8
    return read_image(path)[0].mul(255).round().to(torch.uint8)


def _failure(path: Path) -> str:
    """Why a picture, which another process could not read, cannot be read."""
    try:
        _read(path)
    except (OSError, ValueError) as error:
        return str(error)
    return f"{path}: expected a picture, it could not be read just now"
