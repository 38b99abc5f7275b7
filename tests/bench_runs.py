"""What tests of the benches share: small cases, and runs that end at once. None looks at how long anything takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import __main__ as command
from bench import results, roofline, runner, timing
from bench.case import Case
from bench.suites import Suite

CPU = torch.device("cpu")


@contextmanager
def suite_of(*cases: Case, name: str = "small") -> Iterator[None]:
    """`make bench` has these cases alone, a cache that is quick to evict, and measures memory in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
        patch.setattr(roofline, "copy_bandwidth", lambda cache, seconds: 1e10)
        patch.setattr(roofline, "matmul_rate", lambda dtype, cache, seconds: 1e11)
        patch.setattr(command, "suites", lambda: [Suite(name, "Small", {"cpu": cases, "cuda": cases})])
        patch.setattr(runner, "in_fresh_process", in_this_process)
        yield


def in_this_process(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def run(folder: Path, *options: str) -> tuple[int, list[results.Row]]:
    """Exit code and rows."""
    code = command.main(["--device=cpu", f"--out={folder}", "--seconds=0", *options])
    (path,) = folder.iterdir()
    return code, results.read(path)


def by_name(rows: list[results.Row]) -> dict[str, results.Row]:
    return {f"{row['variant']} {row['dtype']}".strip(): row for row in rows}
