"""What the pages say of the CSVs in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .markdown import by_case, is_rival, memory, ratio
from .results import Row

# Cases that sentences are of.
HEADLINE, STYLE, CHUNKS = "lpips-vgg 16x256x256", "16x256x256", "32x256x256"


def headline(rows: Sequence[Row]) -> str:
    """Of LPIPS-VGG, 16 images: memory and time beside the package lpips, as it is and under torch.compile."""
    of = by_case(rows, "fp32").get(HEADLINE, {})
    if not {"ours", "lpips"} <= of.keys():
        raise ValueError(f"report headline: expected ours and lpips at {HEADLINE}, got {', '.join(of) or 'neither'}")
    found = f"**{gain(of, 'lpips')}** as the package lpips{processes(of, 'lpips')}"
    if "compiled" in of:
        found += f"; under `torch.compile` lpips takes {in_all(of, 'compiled')}"
    return f"LPIPS-VGG with its gradient, 16 images of 256x256 in fp32: {found}."


def style(rows: Sequence[Row]) -> str:
    """Of Johnson's loss, 16 images: memory and time beside eager's in fp32, and beside torch.compile's in bf16.

    Of what was measured: few CPUs multiply bf16. In fp32 torch.compile is named as well.
    """
    found = []
    for dtype, rival, name in (("fp32", "eager", "eager PyTorch"), ("bf16", "compiled", "`torch.compile`")):
        of = by_case(rows, dtype).get(STYLE, {})
        if {"ours", rival} <= of.keys():
            found.append(f"in {dtype} **{gain(of, rival)}** as {name}{processes(of, rival)}")
            if rival != "compiled" and "compiled" in of:
                found[-1] += f"; `torch.compile` takes {in_all(of, 'compiled')}"
    if not found:
        raise ValueError(f"report style: expected ours and eager or compiled at {STYLE}, got neither")
    return f"VGG16 style and content loss with its gradient, 16 images of 256x256: {'; '.join(found)}."


def gain(of: Mapping[str, Row], rival: str) -> str:
    own, theirs = (memory(float(of[who]["allocated_mb"])) for who in ("ours", rival))
    return f"{own} of tensors instead of {theirs}, {ratio(of[rival], of['ours']):.2f} times as fast"


def processes(of: Mapping[str, Row], rival: str) -> str:
    """What the processes take; not known of a GPU."""
    sizes = [of[who]["resident_mb"] for who in ("ours", rival)]
    return f" (the process: {' instead of '.join(memory(float(size)) for size in sizes)})" if all(sizes) else ""


def in_all(of: Mapping[str, Row], rival: str) -> str:
    return f"{memory(float(of[rival]['allocated_mb']))} and {ratio(of[rival], of['ours']):.2f} times our time"


def chunks(rows: Sequence[Row]) -> str:
    """Of Johnson's loss, a large batch: what the chunk size decides."""
    of = by_case(rows, "fp32")[CHUNKS]
    one, all_at_once = (memory(float(of[f"ours, chunk {size}"]["allocated_mb"])) for size in (1, 32))
    return (
        f"Style and content loss of 32 images of 256x256 in fp32 take {one} at `chunk_size=1`, {all_at_once} at "
        "`chunk_size=32`."
    )


def plain(rows: Sequence[Row]) -> str:
    """Of the library in plain PyTorch, over the losses that were measured beside what they stand in for."""
    pairs = [
        (of["ours"], theirs)
        for of in by_case(rows, "fp32").values()
        for theirs in of.values()
        if "ours" in of and is_rival(theirs)
    ]
    parts = (float(theirs["allocated_mb"]) / float(own["allocated_mb"]) for own, theirs in pairs)
    speeds = (ratio(theirs, own) for own, theirs in pairs)
    return (
        f"In plain PyTorch the losses take {span(parts, '.2g', '1/')} of the memory of eager PyTorch, lpips and "
        f"DISTS_pytorch in fp32, at {span(speeds, '.2f')} times their speed."
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


def precision(rows: Sequence[Row]) -> str:
    """How far values are from fp64 over photographs, at most: `bench.precision`."""

    def worst(images: str, dtype: str) -> str:
        lpips = (row for row in rows if row["loss"].startswith("LPIPS") and row["images"] == images)
        return f"{max(float(row['value_worst']) for row in lpips if row['dtype'] == dtype):.2g}"

    spoiled, equal = (
        [worst(images, dtype) for dtype in ("float32", "float16", "bfloat16")] for images in ("spoiled", "nearly equal")
    )
    return (
        f"LPIPS differs from fp64, relatively and at most, by {spoiled[0]} in fp32, {spoiled[1]} in fp16 and "
        f"{spoiled[2]} in bf16 over blurred and noisy photographs; of images that differ by one step of 8 bits here "
        f"and there by {equal[0]}, {equal[1]} and {equal[2]}."
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
