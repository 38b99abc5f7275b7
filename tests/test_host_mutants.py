"""Seeded faults in the kernels, each of which the host execution must find: what the tests of tests/host can see."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from host import mutants_activation, mutants_dists, mutants_gram, mutants_lpips, mutants_pointwise
from host.mutants import Mutant, build_mutants
from host.suite import small_cases
from host.worker import run_apart

ROOMS = (mutants_activation, mutants_dists, mutants_gram, mutants_lpips, mutants_pointwise)
MUTANTS = [mutant for room in ROOMS for mutant in room.MUTANTS]


def outcome(mutant: Mutant, folder) -> str:
    """What the first case to fail says."""
    pairs = [case.make() for case in small_cases() if case.name.split()[0] == mutant.launcher]
    try:
        results = run_apart(folder, [launch for launch, _ in pairs], mutant.configuration)
    except RuntimeError as error:
        return str(error)
    for (_, check), outputs in zip(pairs, results, strict=True):
        if isinstance(outputs, str):
            return outputs
        try:
            check(outputs)
        except AssertionError as error:
            return f"wrong values: {error}"
    return "not caught"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    folders = build_mutants(MUTANTS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda mutant: outcome(mutant, folders[mutant.name]), MUTANTS)
        return {mutant.name: sentence for mutant, sentence in zip(MUTANTS, said, strict=True)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, outcomes: dict[str, str]) -> None:
    assert re.search(mutant.caught, outcomes[mutant.name]), outcomes[mutant.name]
