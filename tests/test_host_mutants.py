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

Pairs = list[tuple[Launch, Check]]


@pytest.fixture(scope="module")
def cases() -> dict[str, Pairs]:
    """The small launches of each launcher with their checks, the smallest first."""
    made = [(case.name.split()[0], case.make()) for case in [*small_cases(), *small_fp16_cases()]]
    return {
        launcher: sorted((pair for other, pair in made if other == launcher), key=lambda pair: pair[0].nbytes)
        for launcher, _ in made
    }


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    """By configuration."""
    workers = {configuration: Worker(build(configuration)) for configuration in SEEDED}
    yield workers
    for worker in workers.values():
        worker.close()


def outcome(pairs: Pairs, worker: Worker, mutant: int) -> str:
    """What the first case to fail says."""
    try:
        for launch, check in pairs:
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
def test_fault_is_found(mutant: Mutant, cases: dict[str, Pairs], workers: dict[str, Worker]) -> None:
    pairs = cases[mutant.launcher]
    if mutant.configuration == "address":  # built without fp16
        pairs = [(launch, check) for launch, check in pairs if launch.arguments["element"] != "float16"]
    said = outcome(pairs, workers[mutant.configuration], mutant.number)
    assert re.search(mutant.caught, said), said


def test_without_a_fault_nothing_is_found(cases: dict[str, Pairs]) -> None:
    for launch, check in (pair for of_launcher in cases.values() for pair in of_launcher):
        check(run(build("plain"), launch))
