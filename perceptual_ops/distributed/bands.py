"""Bands of rows of one image: who has which, what tiles read of others, and the way of a gradient back to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.tiles import Region
from .ranks import Ranks


@dataclass(frozen=True)
class Banded:
    """Of an image, or of its gradient, the rows that one process has, as far as it asks for no others.

    Attributes:
        shape: (N, C, H, W) of the whole.
        pieces: First rows, and what is there, (N, C, h, W), one after the other.
    """

    shape: torch.Size
    pieces: Sequence[tuple[int, Tensor]]

    def __getitem__(self, region: Region) -> Tensor:
        _, rows, columns = region
        parts = [piece[..., own, columns] for piece, own, _ in self._of(rows)]
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]

    def __setitem__(self, region: Region, numbers: Tensor) -> None:
        _, rows, columns = region
        for piece, own, place in self._of(rows):
            piece[..., own, columns] = numbers[..., place, :]

    def samples(self, rows: slice) -> Banded:
        """Some of the batch; of a single image that stands for every sample that one."""
        if self.shape[0] == 1:
            return self
        pieces = [(first, piece[rows]) for first, piece in self.pieces]
        return Banded(torch.Size([pieces[0][1].shape[0], *self.shape[1:]]), pieces)

    def _of(self, rows: slice) -> list[tuple[Tensor, slice, slice]]:
        """Pieces that have some of the rows: which of their own, and where those are among the rows."""
        found = []
        for first, piece in self.pieces:
            common = overlap(rows, slice(first, first + piece.shape[2]))
            if common.start < common.stop:
                found.append((piece, shifted(common, -first), shifted(common, -rows.start)))
        return found


@dataclass(frozen=True)
class Bands:
    """An image in bands.

    Attributes:
        ranks: Whose they are.
        rows: The rows of each rank; together, those of the image.
        reads: The rows that each rank reads, its own and others'.
    """

    ranks: Ranks
    rows: Sequence[slice]
    reads: Sequence[slice]

    @property
    def height(self) -> int:
        """Of the image."""
        return max(int(rows.stop) for rows in self.rows)

    @property
    def own(self) -> slice:
        """The rows of this process."""
        return self.rows[self.ranks.rank]

    def with_halo(self, band: Tensor) -> Banded:  # (N, C, h, W)
        """This process's band with what it reads of others, which it gets from them."""
        given = {rank: band[:, :, shifted(rows, -self.own.start)] for rank, rows in self._given.items()}
        shapes = {rank: (*band.shape[:2], rows.stop - rows.start, band.shape[3]) for rank, rows in self._taken.items()}
        return self._banded(band, self.ranks.exchanged(given, shapes, band))

    def zeros(self, band: Tensor, dtype: torch.dtype) -> Banded:
        """A gradient by `with_halo(band)`."""
        own = torch.zeros_like(band, dtype=dtype)
        return self._banded(
            own,
            {
                rank: own.new_zeros((*band.shape[:2], rows.stop - rows.start, band.shape[3]))
                for rank, rows in self._taken.items()
            },
        )

    def returned(self, gradient: Banded) -> Tensor:  # (N, C, h, W)
        """That by this process's band: its own, and what others made of its rows, added in the order of ranks."""
        pieces = dict(gradient.pieces)
        own = pieces[self.own.start]
        given = {rank: pieces[rows.start] for rank, rows in self._taken.items()}
        shapes = {rank: (*own.shape[:2], rows.stop - rows.start, own.shape[3]) for rank, rows in self._given.items()}
        for rank, part in sorted(self.ranks.exchanged(given, shapes, own).items()):
            own[:, :, shifted(self._given[rank], -self.own.start)] += part
        return own

    @property
    def _given(self) -> dict[int, slice]:
        """Which of this process's rows others read."""
        common = {rank: overlap(reads, self.own) for rank, reads in enumerate(self.reads)}
        return {rank: rows for rank, rows in common.items() if rank != self.ranks.rank and rows.start < rows.stop}

    @property
    def _taken(self) -> dict[int, slice]:
        """Which rows of others this process reads."""
        common = {rank: overlap(self.reads[self.ranks.rank], rows) for rank, rows in enumerate(self.rows)}
        return {rank: rows for rank, rows in common.items() if rank != self.ranks.rank and rows.start < rows.stop}

    def _banded(self, own: Tensor, others: dict[int, Tensor]) -> Banded:
        pieces = [(self.own.start, own), *((self._taken[rank].start, x) for rank, x in others.items())]
        return Banded(
            torch.Size([*own.shape[:2], self.height, own.shape[3]]), sorted(pieces, key=lambda piece: piece[0])
        )


def overlap(a: slice, b: slice) -> slice:
    """What is in both; empty where its stop is no more than its start."""
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
