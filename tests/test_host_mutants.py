"""Seeded faults in the kernels, each of which the host execution must find: what the tests of tests/host can see."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from host import mutants_activation, mutants_dists, mutants_gram, mutants_lpips, mutants_pointwise
from host.cases import Check
from host.mutants import Mutant, build_mutants
from host.suite import small_cases
from host.worker import Launch, each_apart

ROOMS = (mutants_activation, mutants_dists, mutants_gram, mutants_lpips, mutants_pointwise)
MUTANTS = [mutant for room in ROOMS for mutant in room.MUTANTS]


@pytest.fixture(scope="module")
def cases() -> dict[str, list[tuple[Launch, Check]]]:
    """The small launches of each launcher with their checks."""
    made = [(case.name.split()[0], case.make()) for case in small_cases()]
    return {launcher: [pair for other, pair in made if other == launcher] for launcher, _ in made}


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Modules by configuration: the plain ones hold all faults, so that all of them can be seen to change nothing."""
    asan = [mutant for mutant in MUTANTS if mutant.configuration == "asan"]
    return {"plain": build_mutants(MUTANTS, "plain"), "asan": build_mutants(asan, "asan")}


def outcome(pairs: list[tuple[Launch, Check]], folder: Path, configuration: str, mutant: int) -> str:
    """What the first case to fail says."""
    results = each_apart(folder, [launch for launch, _ in pairs], configuration, mutant=mutant)
    try:
        for (_, check), outputs in zip(pairs, results, strict=True):
            if isinstance(outputs, str):
                return outputs
            check(outputs)
    except RuntimeError as error:
        return str(error)
    except AssertionError as error:
        return f"wrong values: {error}"
    finally:
        results.close()
    return "not caught"


@pytest.fixture(scope="module")
def outcomes(cases, folders) -> dict[str, str]:
    """By name of the fault."""

    def of(mutant: Mutant) -> str:
        return outcome(cases[mutant.launcher], folders[mutant.configuration], mutant.configuration, mutant.number)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {mutant.name: said for mutant, said in zip(MUTANTS, pool.map(of, MUTANTS), strict=True)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, outcomes: dict[str, str]) -> None:
    assert re.search(mutant.caught, outcomes[mutant.name]), outcomes[mutant.name]


def test_without_a_fault_nothing_is_found(cases, folders) -> None:
    pairs = [pair for of_launcher in cases.values() for pair in of_launcher]
    assert outcome(pairs, folders["plain"], "plain", mutant=0) == "not caught"
