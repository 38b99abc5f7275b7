"""What the pages say of the CSVs in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .markdown import by_case, memory, ratio
from .results import Row

HEADLINE = "16x256x256"


def headline(rows: Sequence[Row]) -> str:
    """Of Johnson's loss, 16 images: memory and time beside eager's in fp32, and beside torch.compile's in bf16.

    Of what was measured: few CPUs multiply bf16.
    """
    found = []
    for dtype, rival, name in (("fp32", "eager", "eager PyTorch"), ("bf16", "compiled", "`torch.compile`")):
        of = by_case(rows, dtype).get(HEADLINE, {})
        if {"ours", rival} <= of.keys():
            own, theirs = (memory(float(of[who]["allocated_mb"])) for who in ("ours", rival))
            gain = f"{own} of tensors instead of {theirs}, {ratio(of[rival], of['ours']):.1f} times as fast"
            whole = [of[who]["resident_mb"] for who in ("ours", rival)]  # not known of a GPU
            processes = " instead of ".join(memory(float(size)) for size in whole if size)
            found.append(f"in {dtype} **{gain}** as {name}" + (f" (the process: {processes})" if processes else ""))
    return f"VGG16 style and content loss with its gradient, 16 images of 256x256: {'; '.join(found)}."


def adaptive(rows: Sequence[Row]) -> str:
    """Of the generator's step, over its sizes."""
    cases = by_case(rows, "fp32")
    one, two = (
        span((ratio(of["lpips"], of["ours"]) for case, of in cases.items() if case.startswith(weights)), ".2f")
        for weights in ("1 weight", "2 weights")
    )
    parts = [float(of["lpips"]["allocated_mb"]) / float(of["ours"]["allocated_mb"]) for of in cases.values()]
    return (
        f"The generator's step in fp32 is {one} times as fast as with the package lpips with one adaptive weight, "
        f"{two} times with two, in {span(parts, '.1f', '1/')} of the memory."
    )


def span(numbers: Iterable[float], digits: str, before: str = "") -> str:
    """From the least to the most."""
    found = sorted(numbers)
    low, high = (f"{before}{number:{digits}}" for number in (found[0], found[-1]))
    return low if low == high else f"{low} to {high}"
