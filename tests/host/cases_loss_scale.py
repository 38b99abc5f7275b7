"""The launches of loss scaling, in fp32 alone; see cases.py. Oracle: perceptual_ops/activation_reference.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from host.cases import Case, Check, named
from host.worker import Launch, Outputs
from perceptual_ops import activation_reference as oracle

# (N, what is given, taps), by letters: s(cale), b(ound), g(rown), n(ext convolution). Part of a block, several blocks.
SCALES: list[tuple[int, str, int]] = [(5, "", 1), (5, "n", 8), (300, "sbgn", 2), (129, "sb", 0), (1, "sbg", 1)]


def loss_scale_cases() -> Iterator[Case]:
    for batch, given, taps in SCALES:
        yield Case(named("loss_scale", "float32", batch, given, taps), partial(loss_scale, batch, given, taps))


def loss_scale(batch: int, given: str, taps: int) -> tuple[Launch, Check]:
    scale, bound, *added = (_numbers(seed, batch) for seed in range(2 + taps))
    scale = scale.clamp(max=1).log2().round().exp2()
    grown, grows = torch.tensor(17.0), torch.tensor(230.0)
    numbers: tuple[Tensor | None, ...] = (
        scale if "s" in given else None,
        bound if "b" in given else None,
        grown if "g" in given else None,
    )
    after = grows if "n" in given else None
    names = ("scale", "bound", "grown")
    arguments = {
        "element": "float32",
        **{name: None if x is None else x.numpy() for name, x in zip(names, numbers, strict=True)},
        "spread": 4.0,
        "taps": [tap.numpy() for tap in added],
        "grows": None if after is None else after.numpy(),
        "room": 2.0**15,
        "batch": batch,
    }

    def check(outputs: Outputs) -> None:
        ours = torch.from_numpy(outputs[0]).view(4, batch)
        expected = oracle.loss_scale(*numbers, 4.0, added, after, 2.0**15)
        torch.testing.assert_close(ours, expected)

    return Launch("activation", "loss_scale", arguments), check


def _numbers(seed: int, batch: int) -> Tensor:
    """Of many sizes; the last is beyond every scale."""
    drawn = (10 * torch.randn(batch, generator=torch.Generator().manual_seed(seed))).exp2()
    drawn[-1] = 2.0**80
    return drawn
