"""`python -m bench.fused_convolution`: may cuDNN's convolution + bias + ReLU take the place of a convolution and ours?

For VGG16's convolutions before a tap, 3x3 with as many channels out as in, without a gradient. torch leaves open what
decides it (NOTES.md): whether NaN and infinity pass, whether what the result's memory held before shows (torch hands it
over as a summand, times 0), whether bits repeat. So all is tried on the device at hand, the errors are set beside ours,
and both are timed. The last line is the verdict.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_ops.engine.convolution import Convolution
from perceptual_ops.engine.stages import operators

from . import results, timing
from .suites.operators import TAPS, Draw, Images

# (N, C, H, W), weight (C, C, 3, 3), bias (C) -> (N, C, H, W)
Fused = Callable[[Tensor, Tensor, Tensor], Tensor]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
REPEATS = 3
LARGER = 1.5  # times our error that another's may be
HEADINGS = ("tap", "dtype", "finding", "error", "ours", "ratio")


@dataclass(frozen=True)
class Finding:
    """What was found at one tap in one dtype.

    Attributes:
        faults: What makes the single call unfit; none where it may be used.
        error, our_error: Largest errors of the first sample relative to its largest value, against fp64.
        ratio: How many times as fast as ours it is.
    """

    tap: str
    dtype: str
    faults: tuple[str, ...]
    error: float = 0.0
    our_error: float = 0.0
    ratio: float = 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        finding = ", ".join(self.faults) or "fit"
        return (self.tap, self.dtype, finding, f"{self.error:.1e}", f"{self.our_error:.1e}", f"{self.ratio:.2f}")


def by_cudnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)


class Ours:
    """A convolution without its bias, then bias and ReLU in place, as the engine runs them on CUDA."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.convolution, self.bias = Convolution(weight, None, 1, 1), bias

    def __call__(self, x: Tensor) -> Tensor:
        y = self.convolution(x, biased=False)
        operators.bias_relu_(y, self.bias, False)
        return y


def reference(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=padding).relu_()


def passes(call: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor, value: float) -> bool:
    """Whether a value that is not finite shows in each result that it belongs to; in others it may show as well."""
    row, column = x.shape[2] // 2, x.shape[3] // 2
    x = x.clone()
    x[0, 0, row, column] = value
    seen = x[:1, :, row - 2 : row + 3, column - 2 : column + 3]
    wanted = reference(seen.cpu(), weight.cpu(), bias.cpu(), padding=0)
    found = call(x)[:1, :, row - 1 : row + 2, column - 1 : column + 2].cpu()
    return not bool((found.isfinite() & ~wanted.isfinite()).any())


def shows_leftovers(call: Callable[[], Tensor], like: Tensor) -> bool:
    """Whether NaN in memory that the result is then given shows in it; False too where it is given other memory."""
    leftover = torch.full_like(like, torch.nan)
    address = leftover.data_ptr()
    del leftover
    result = call()
    return result.data_ptr() == address and not bool(result.isfinite().all())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def examine(tap: str, images: Images, fused: Fused, cache: timing.ColdCache, seconds: float) -> Finding:
    """All that is to be known of one tap; what is unfit is timed too."""
    draw = Draw(images, cache.device)
    x = draw.features(images.tap(tap))
    channels = x.shape[1]
    weight = (draw.normal(channels, channels, 3, 3) * (2 / (9 * channels)) ** 0.5).to(x)
    weight = weight.contiguous(memory_format=images.layout)
    bias = (draw.normal(channels) * 0.1).to(x)
    ours, other = Ours(weight, bias), partial(fused, weight=weight, bias=bias)
    dtype = str(images.dtype).removeprefix("torch.")
    try:
        first = other(x)
    except RuntimeError as error:
        return Finding(tap, dtype, (f"refused: {str(error).partition(chr(10))[0][:80]}",))
    wanted = reference(x[:1], weight, bias, padding=1)
    error, our_error = relative_error(first[:1], wanted), relative_error(ours(x)[:1], wanted)
    faults = {
        "NaN lost": not passes(other, x, weight, bias, torch.nan),
        "infinity lost": not passes(other, x, weight, bias, torch.inf),
        "leftovers show": shows_leftovers(partial(other, x), first),
        "bits differ": not all(torch.equal(first, other(x)) for _ in range(REPEATS)),
        "inaccurate": not error <= LARGER * our_error,
    }
    samples = timing.take_turns({"ours": partial(ours, x), "fused": partial(other, x)}, cache, seconds)
    ratio = timing.ratio(samples["ours"], samples["fused"]).median
    return Finding(tap, dtype, tuple(name for name, found in faults.items() if found), error, our_error, ratio)


def verdict(findings: Iterable[Finding]) -> str:
    """One line: where the single call is fit and faster, and how often it is not fit, and why."""
    findings = list(findings)
    gains = [finding for finding in findings if not finding.faults and finding.ratio > 1]
    best = f", {min(f.ratio for f in gains):.2f} to {max(f.ratio for f in gains):.2f} times as fast" if gains else ""
    faults = [fault.partition(":")[0] for finding in findings for fault in finding.faults]
    counts = "".join(f"; {name} in {faults.count(name)}" for name in dict.fromkeys(faults))
    return f"fit and faster in {len(gains)} of {len(findings)}{best}{counts}"


def main(arguments: list[str] | None = None, fused: Fused = by_cudnn) -> int:
    """Prints a line for each tap and dtype as it is made, then the verdict; a fault of cuDNN's is no failure."""
    parser = argparse.ArgumentParser("python -m bench.fused_convolution", description="; ".join(HEADINGS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="of the square images, a multiple of 8 from 40 on")
    parser.add_argument("--seconds", type=float, default=0.2, help="time to spend on each call")
    options = parser.parse_args(arguments)
    cache = timing.ColdCache(torch.device(options.device))
    findings = []
    print("  ".join(HEADINGS))
    for dtype in DTYPES:
        images = Images(options.batch, options.size, dtype, torch.channels_last)
        for tap in TAPS:
            findings.append(examine(tap, images, fused, cache, options.seconds))
            print("  ".join(findings[-1].cells), flush=True)
    machine = results.this_machine(cache.device)
    print(f"\n{machine.device}, torch {machine.torch}, cuDNN {torch.backends.cudnn.version()}, commit {machine.commit}")
    print(verdict(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
