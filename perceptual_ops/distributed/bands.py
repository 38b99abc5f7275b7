"""Bands of rows of one image: which rank has which, halo exchange, and the gradient's way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.tiles import Region
from .ranks import Ranks


@dataclass(frozen=True)
class Banded:
    """The rows of an image, or of its gradient, that one process has; others must not be indexed.

    Attributes:
        shape: (N, C, H, W) of the whole.
        pieces: First row and tensor (N, C, h, W) of each piece, in order.
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
        """Some samples of the batch; a batch of 1 stays as it is."""
        if self.shape[0] == 1:
            return self
        pieces = [(first, piece[rows]) for first, piece in self.pieces]
        return Banded(torch.Size([pieces[0][1].shape[0], *self.shape[1:]]), pieces)

    def _of(self, rows: slice) -> list[tuple[Tensor, slice, slice]]:
        """Pieces that have some of the rows: which of their own, and where those are among the rows."""
        pieces = []
        for first, piece in self.pieces:
            common = overlap(rows, slice(first, first + piece.shape[2]))
            if common.start < common.stop:
                pieces.append((piece, shifted(common, -first), shifted(common, -rows.start)))
        return pieces


@dataclass(frozen=True)
class Bands:
    """An image in bands.

    Attributes:
        ranks: The group.
        rows: The rows of each rank; together, those of the image.
        reads: The rows that each rank reads, with its halo.
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
        """This process's band with its halo, which it receives from other ranks."""
        given = {rank: band[:, :, shifted(rows, -self.own.start)] for rank, rows in self._given.items()}
        shapes = {rank: (*band.shape[:2], rows.stop - rows.start, band.shape[3]) for rank, rows in self._taken.items()}
        return self._banded(band, self.ranks.exchanged(given, shapes, band))

    def zeros(self, band: Tensor, dtype: torch.dtype) -> Banded:
        """A zero gradient with respect to `with_halo(band)`."""
        own = torch.zeros_like(band, dtype=dtype)
        return self._banded(
            own,
            {
                rank: own.new_zeros((*band.shape[:2], rows.stop - rows.start, band.shape[3]))
                for rank, rows in self._taken.items()
            },
        )

    def returned(self, gradient: Banded) -> Tensor:  # (N, C, h, W)
        """The gradient with respect to this process's band, with the halo gradients of others added in rank order."""
        pieces = dict(gradient.pieces)
        own = pieces[self.own.start]
        given = {rank: pieces[rows.start] for rank, rows in self._taken.items()}
        shapes = {rank: (*own.shape[:2], rows.stop - rows.start, own.shape[3]) for rank, rows in self._given.items()}
        for rank, part in sorted(self.ranks.exchanged(given, shapes, own).items()):
            own[:, :, shifted(self._given[rank], -self.own.start)] += part
        return own

    @property
    def _given(self) -> dict[int, slice]:
        """Rows of this process that others read."""
        common = {rank: overlap(reads, self.own) for rank, reads in enumerate(self.reads)}
        return {rank: rows for rank, rows in common.items() if rank != self.ranks.rank and rows.start < rows.stop}

    @property
    def _taken(self) -> dict[int, slice]:
        """Rows of others that this process reads."""
        common = {rank: overlap(self.reads[self.ranks.rank], rows) for rank, rows in enumerate(self.rows)}
        return {rank: rows for rank, rows in common.items() if rank != self.ranks.rank and rows.start < rows.stop}

    def _banded(self, own: Tensor, others: dict[int, Tensor]) -> Banded:
        pieces = [(self.own.start, own), *((self._taken[rank].start, x) for rank, x in others.items())]
        return Banded(
            torch.Size([*own.shape[:2], self.height, own.shape[3]]), sorted(pieces, key=lambda piece: piece[0])
        )


def overlap(a: slice, b: slice) -> slice:
    """The intersection; empty if its stop is not above its start."""
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
