"""Targets of a batch: how they are made once and kept, matched to the output, and taken apart into chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def target_pass(device: torch.device) -> Iterator[None]:
    """Targets that are kept are made alike whatever the caller has switched on, and may be used in training later."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def rows_of(targets: Sequence[Tensor], rows: slice) -> list[Tensor]:
    """The rows of targets that are one per sample; those that stand for every sample as they are."""
    return [target if target.shape[0] == 1 else target[rows] for target in targets]


def check_partner(name: str, output: torch.Size, partner: torch.Size, what: str) -> None:
    same_size = partner[2] == output[2] and partner[3] == output[3]
    if not same_size or (partner[0] != 1 and partner[0] != output[0]):
        raise ValueError(
            f"{name}: expected the batch and size of {what}"
            f"{'' if name == 'output' else ', or a batch of 1'}; output is {tuple(output)}, the other {tuple(partner)}"
        )
