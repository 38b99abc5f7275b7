"""Every CUDA kernel, executed thread by thread on the CPU through its own launcher (tests/host)."""

from __future__ import annotations

import pytest
from host.build import build
from host.cases import Case
from host.suite import all_cases
from host.worker import run


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_kernel(case: Case) -> None:
    launch, check = case.make()
    check(run(build("plain"), launch))
