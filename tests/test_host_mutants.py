"""Seeded faults in the kernels, each of which the host execution must find: what the tests of tests/host can see."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from host.build import SEEDED, build
from host.cases import Check
from host.faults import MUTANTS
from host.mutants import Mutant
from host.suite import small_cases, small_fp16_cases
from host.worker import Launch, Worker, run

Made = list[tuple[str, Launch, Check]]  # by name


@pytest.fixture(scope="module")
def cases() -> dict[str, Made]:
    """The small launches of each launcher with their checks, the smallest first."""
    made: dict[str, Made] = {}
    for case in [*small_cases(), *small_fp16_cases()]:
        made.setdefault(case.name.split()[0], []).append((case.name, *case.make()))
    return {launcher: sorted(of_launcher, key=lambda one: one[1].nbytes) for launcher, of_launcher in made.items()}


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    """By configuration."""
    workers = {configuration: Worker(build(configuration)) for configuration in SEEDED}
    yield workers
    for worker in workers.values():
        worker.close()


def outcome(cases: Made, worker: Worker, mutant: int) -> str:
    """What the first case to fail says."""
    try:
        for _, launch, check in cases:
            (outputs,) = worker.answers([launch], mutant=mutant)
            if isinstance(outputs, str):
                return outputs
            check(outputs)
    except RuntimeError as error:
        return str(error)
    except AssertionError as error:
        return f"wrong values: {error}"
    return "not caught"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, cases: dict[str, Made], workers: dict[str, Worker]) -> None:
    made = sorted(cases[mutant.launcher], key=lambda one: mutant.case not in one[0])
    assert mutant.case in made[0][0], f"no case of {mutant.launcher} has {mutant.case!r} in its name"
    if mutant.configuration == "address":  # built without fp16
        made = [one for one in made if one[1].arguments["element"] != "float16"]
    said = outcome(made, workers[mutant.configuration], mutant.number)
    assert re.search(mutant.caught, said), said


def test_without_a_fault_nothing_is_found(cases: dict[str, Made]) -> None:
    for _, launch, check in (one for of_launcher in cases.values() for one in of_launcher):
        check(run(build("plain"), launch))
