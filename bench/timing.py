"""Times calls on CPU and CUDA: caches cold, rivals interleaved, medians with their spread. Times are in seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]

MIN_ROUNDS = 5
MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, or a ratio: the median and the 20 % and 80 % quantiles of `count` calls."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Of samples; quantiles are interpolated between neighbours."""
        low, *_, high = statistics.quantiles(samples, n=5, method="inclusive") if len(samples) > 1 else samples * 2
        return cls(statistics.median(samples), low, high, len(samples))


def last_level_cache(device: torch.device) -> int:
    """Bytes of the largest cache between the device and its memory; 64 MiB where the CPU does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    kib = [int(path.read_text().rstrip("K\n")) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("*/size")]
    return max(kib, default=64 * 1024) * 1024


class ColdCache:
    """Evicts a device's caches by going through a buffer larger than the last of them."""

    def __init__(self, device: torch.device) -> None:
        cache = last_level_cache(device)
        # On a GPU the write should also outlast Python's way to the first launch of the call behind it: in a training
        # step, where work is queued, that is hidden too. Where later launches bound the call, it still shows.
        size = max(2 * cache, 256 * MIB) if device.type == "cuda" else cache * 5 // 4
        self.device = device
        self.buffer = torch.ones(size // 4, device=device)

    def evict(self) -> None:
        if self.device.type == "cuda":
            self.buffer.zero_()
        else:
            # Read, not written: dirty lines would be written back on the time of the next call.
            self.buffer.sum()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_once(call: Call, device: torch.device) -> float:
    """Seconds of one call, by CUDA events or the host's clock; its result is freed after the clock has stopped."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        end.synchronize()
        elapsed = start.elapsed_time(end) / 1e3
    else:
        begin = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - begin
    del result
    return elapsed


def take_turns(
    calls: Mapping[str, Call], cache: ColdCache, seconds: float = 0.0, rounds: int = MIN_ROUNDS
) -> dict[str, list[float]]:
    """Seconds of rival calls in turn (A B C, C B A, ...), so that a machine's drift hits all alike.

    Args:
        calls: What to time, by name; warm by now. A result is freed before the next call.
        cache: Emptied before every timed call.
        seconds: Wall-clock time to spend on each call, evictions included.
        rounds: At least so many, however long they take.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    end = time.perf_counter() + seconds * len(calls)
    while min(map(len, samples.values())) < rounds or time.perf_counter() < end:
        for name in order:
            cache.evict()
            samples[name].append(time_once(calls[name], cache.device))
        order.reverse()
    return samples


def time_one(call: Call, cache: ColdCache, seconds: float) -> Timing:
    """Of a call without rivals, after a warm-up."""
    call()
    return Timing.of(take_turns({"": call}, cache, seconds)[""])


def ratio(samples: Sequence[float], of: Sequence[float]) -> Timing:
    """Of two calls in the same rounds, pair by pair."""
    return Timing.of([one / other for one, other in zip(samples, of, strict=True)])


def extra_peak_memory(call: Call, device: torch.device) -> int | None:
    """Bytes by which one call raises the peak of allocated memory; None on the CPU, which keeps no such account."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
