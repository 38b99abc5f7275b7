"""Every CUDA kernel, executed thread by thread on the CPU through its own launcher (tests/host)."""

from __future__ import annotations

import pytest
from host.build import build
from host.cases import Case
from host.suite import all_cases, small_cases
from host.worker import run, run_apart


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_kernel(case: Case) -> None:
    launch, check = case.make()
    check(run(build("plain"), launch))


def test_kernels_under_address_sanitizer() -> None:
    """Reads and writes outside of buffers at the line where they happen; `make sanitize` has the other sanitizers."""
    pairs = [case.make() for case in small_cases()]
    results = run_apart(build("address"), [launch for launch, _ in pairs])
    for (_, check), outputs in zip(pairs, results, strict=True):
        assert not isinstance(outputs, str), outputs
        check(outputs)
