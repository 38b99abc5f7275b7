"""A script of `bench.commits`: the losses of the tree on the path; times one call for each line it reads."""

from __future__ import annotations

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
SHAPE = (4, 3, 128, 128)


def evaluator(case: str):
    """() -> the loss and the gradient by the output, from the same numbers in every process."""
    name, dtype = case.split()
    loss = LOSSES[name](weights="random", compute_dtype=DTYPES[dtype])
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.rand(SHAPE, generator=generator) for _ in range(2))
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
    calls = {case: evaluator(case) for case in CASES}
    for line in sys.stdin:
        call = calls[line.strip()]
        start = time.perf_counter()
        results = call()
        seconds = time.perf_counter() - start
        print(seconds, digest(results), flush=True)


if __name__ == "__main__":
    main()
