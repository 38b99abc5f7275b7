"""What the pages say of the CSVs in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .markdown import by_case, memory, ratio
from .results import Row

# Cases that sentences are of.
HEADLINE, CHUNKS, LARGE = "16x256x256", "32x256x256", "lpips-vgg 1x1080x1920"


def headline(rows: Sequence[Row]) -> str:
    """Of Johnson's loss, 16 images: memory and time beside eager's in fp32, and beside torch.compile's in bf16.

    Of what was measured: few CPUs multiply bf16. In fp32 the time is also beside torch.compile's.
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
            if rival != "compiled" and "compiled" in of:
                found[-1] += f", {ratio(of['compiled'], of['ours']):.1f} times as fast as `torch.compile`"
    if not found:
        raise ValueError(f"report headline: expected ours and eager or compiled at {HEADLINE}, got neither")
    return f"VGG16 style and content loss with its gradient, 16 images of 256x256: {'; '.join(found)}."


def large(rows: Sequence[Row]) -> str:
    """Of LPIPS-VGG with its gradient, one image of 1080p."""
    of = by_case(rows, "fp32")[LARGE]
    own, theirs = (memory(float(of[who]["allocated_mb"])) for who in ("ours", "lpips"))
    return f"LPIPS-VGG of a 1080p image with its gradient takes {own}, with the package lpips {theirs}, both in fp32."


def chunks(rows: Sequence[Row]) -> str:
    """Of Johnson's loss, a large batch: what the chunk size decides."""
    of = by_case(rows, "fp32")[CHUNKS]
    one, all_at_once = (memory(float(of[f"ours, chunk {size}"]["allocated_mb"])) for size in (1, 32))
    return (
        f"Style and content loss of 32 images of 256x256 in fp32 take {one} at `chunk_size=1`, {all_at_once} at "
        "`chunk_size=32`."
    )


def modules(rows: Sequence[Row]) -> str:
    """Of networks that run as they are, each beside eager, at the default chunk size."""
    cases = {
        case: of
        for case, of in by_case(rows, "fp32").items()
        if case.endswith(" 16x224x224") and {"ours", "eager"} <= of.keys()
    }
    parts = (float(of["eager"]["allocated_mb"]) / float(of["ours"]["allocated_mb"]) for of in cases.values())
    speeds = (ratio(of["eager"], of["ours"]) for of in cases.values())
    return (
        f"Over {', '.join(case.split()[0] for case in cases)}, 16 images of 224x224 in fp32, a feature loss takes "
        f"{span(parts, '.2g', '1/')} of eager's memory, at {span(speeds, '.2f')} times its speed."
    )


def photograph(rows: Sequence[Row]) -> str:
    """Of a style gradient in capped memory, `bench.large_photograph`: the largest, and the error of a small one."""
    largest = max(rows, key=lambda row: int(row["side"]))
    limit, minutes = memory(float(largest["limit_mb"])), float(largest["seconds"]) / 60
    small = next(row for row in rows if row["error"])
    return (
        f"The style gradient of a photograph of {largest['side']}x{largest['side']} pixels was computed in a process "
        f"limited to {limit} of private memory, in {minutes:.0f} minutes; at "
        f"{small['side']}x{small['side']} it differs from the whole image's by {float(small['error']):.1e}."
    )


def training(rows: Sequence[Row]) -> str:
    """Of whole trainings with our loss and with the plain one, `bench.training`."""
    of = {row["run"]: row for row in rows}
    off, twin, off_bf16 = (float(of[run]["mean_difference"]) for run in ("ours", "plain NHWC", "ours bf16"))
    seconds = {run: f"{float(row['seconds']):.0f} s" for run, row in of.items()}
    return (
        f"Trained on photographs for {of['ours']['steps']} steps, a small net has the plain loss's curve in fp32: "
        f"{off:.1%} off on average, where the plain loss in channels_last is {twin:.1%} off. It takes "
        f"{seconds['ours']}, with the plain loss {seconds['plain']}; in bf16 {seconds['ours bf16']}, and the curve is "
        f"{off_bf16:.0%} off."
    )


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
