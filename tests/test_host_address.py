"""The kernels under AddressSanitizer: reads and writes outside of buffers at the line where they happen.

`make sanitize` has the other sanitizers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from host.build import build
from host.primitives.launch import launch, numbers
from host.suite import small_cases
from host.worker import run_apart


def test_kernels() -> None:
    """In one order of threads: addresses depend on none where all orders give the same bits (test_host_kernels.py)."""
    pairs = [case.make() for case in small_cases()]
    results = run_apart(build("address"), [replace(launch, orders=1) for launch, _ in pairs])
    for (_, check), outputs in zip(pairs, results, strict=True):
        assert not isinstance(outputs, str), outputs
        check(outputs)


def test_sound_primitives_run() -> None:
    (outputs,) = run_apart(build("address"), [launch("neighbours", numbers(128), 32)])
    assert not isinstance(outputs, str), outputs


@pytest.mark.parametrize("name", ["write outside", "write after shared"])
def test_wrong_accesses_are_found(name: str) -> None:
    given = numbers(128)
    given[0] = 1
    with pytest.raises(RuntimeError, match=r"AddressSanitizer: use-after-poison(.|\n)*primitives.cu"):
        run_apart(build("address"), [launch(name, given, 32)])
