"""A script of `bench.commits`: times one call of a loss of the tree on the path for each line it reads.

It runs beside the perceptual_ops of any commit, so it uses its public names alone.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import time
from pathlib import Path

import torch

import perceptual_ops

LOSSES = {
    "PerceptualLoss": lambda **settings: perceptual_ops.PerceptualLoss.preset("johnson-style", **settings),
    "LPIPS": lambda **settings: perceptual_ops.LPIPS("vgg16", **settings),
    "DISTS": perceptual_ops.DISTS,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = [f"{loss} {dtype}" for loss in LOSSES for dtype in DTYPES]
BATCH = 4


@functools.cache
def evaluator(case: str, side: int):
    """() -> the loss and its gradient with respect to the output, from the same numbers in every process."""
    name, dtype = case.split()
    loss = LOSSES[name](weights="random", compute_dtype=DTYPES[dtype])
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.rand(BATCH, 3, side, side, generator=generator) for _ in range(2))
    output.requires_grad_()
    if name == "PerceptualLoss":
        loss.set_style(target[:1])

    def call():
        value = loss(output, target).mean()
        return value.detach(), *torch.autograd.grad(value, output)

    return call


def digest(tensors) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def main() -> None:
    print(Path(perceptual_ops.__file__).parent.parent, flush=True)
    for line in sys.stdin:
        call = evaluator(line.strip(), int(sys.argv[1]))
        start = time.perf_counter()
        results = call()
        seconds = time.perf_counter() - start
        print(seconds, digest(results), flush=True)


if __name__ == "__main__":
    main()
