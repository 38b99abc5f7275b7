"""Packed signs and codes of a map, processed a machine word at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Multiplied by a word of eight bytes that are 0 or 1, it gathers them in the top byte, the first in the lowest bit.
GATHER = 0x0102040810204080
# A byte in all eight places of a word keeps its first bit in the first place, the second in the second ...
COPIES, OWN_BIT = 0x0101010101010101, 0x8040201008040201 - 2**64


def _flat(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, H * W * C), in the order of a channels_last map
    return x.permute(0, 2, 3, 1).flatten(1)


def packed_signs(passes: Tensor) -> Tensor:  # (N, C, H, W) bool -> (N, ceil(C H W / 8)) uint8
    flat = _flat(passes)
    if flat.shape[1] % 8:
        flat = F.pad(flat, (0, -flat.shape[1] % 8))
    return (flat.contiguous().view(torch.int64) * GATHER >> 56).to(torch.uint8)


def mask_of_signs(signs: Tensor, shape: Sequence[int], rows: slice) -> Tensor:  # (N, ceil(C H W / 8)) uint8
    """The int8 mask (N, C, rows, W) of `masked`, for some rows of a map (C, H, W): all bits set where a sign is."""
    words = _of_rows(signs, 1, shape, rows).to(torch.int64).mul_(COPIES).bitwise_and_(OWN_BIT)
    return _map(words.view(torch.uint8), shape, rows).clamp_(max=1).view(torch.int8).neg_()


def masked(x: Tensor, mask: Tensor, out: Tensor) -> Tensor:  # (N, C, H, W) each
    """x where all bits of an int8 mask are set, 0 where none is; exact for NaN and inf, faster than torch.where."""
    integer = torch.int32 if x.element_size() == 4 else torch.int64
    torch.bitwise_and(x.view(integer), mask, out=out.view(integer))
    return out


def packed_codes(codes: Tensor, bits: int) -> Tensor:  # (N, C, H, W) uint8 -> (N, ceil(C H W bits / 8)) uint8
    """Packs the lowest four bits of each code, or all eight."""
    flat = _flat(codes)
    if bits == 8:
        return flat.contiguous()
    flat = flat & 15
    if flat.shape[1] % 2:
        flat = F.pad(flat, (0, 1))
    pairs = flat.contiguous().view(torch.int16)
    return (pairs >> 4 | pairs).to(torch.uint8)


def codes_of(numbers: Tensor, bits: int, shape: Sequence[int], rows: slice) -> Tensor:  # -> (N, C, rows, W) uint8
    """Inverse of `packed_codes`, for some rows of a map (C, H, W)."""
    numbers = _of_rows(numbers, bits, shape, rows)
    if bits == 4:
        numbers = torch.stack([numbers & 15, numbers >> 4], 2).flatten(1)
    return _map(numbers, shape, rows)


def _of_rows(packed: Tensor, bits: int, shape: Sequence[int], rows: slice) -> Tensor:
    """The bytes of some rows, which begin with a byte."""
    of_row = shape[0] * shape[2] * bits
    return packed[:, rows.start * of_row // 8 : (rows.stop * of_row + 7) // 8]


def _map(flat: Tensor, shape: Sequence[int], rows: slice) -> Tensor:  # (N, at least C rows W) -> (N, C, rows, W)
    channels, _, width = shape
    height = rows.stop - rows.start
    return flat[:, : channels * height * width].view(flat.shape[0], height, width, channels).permute(0, 3, 1, 2)
