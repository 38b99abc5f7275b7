"""`make parity` has rows of every peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import parity_report
import pytest
from peers import Difference

PARTS = [getattr(parity_report, name) for name in vars(parity_report) if name.endswith("_cases")]


@pytest.mark.parametrize("part", PARTS)
def test_the_first_row_of_each_peer(part: Callable[[], Iterator[tuple[str, str, Difference]]]) -> None:
    peer, case, found = next(part())
    assert peer and case
    found.check()


def test_every_part_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in PARTS:
        monkeypatch.setattr(parity_report, part.__name__, lambda part=part: iter([part.__name__]))
    assert [*parity_report.cases()] == [part.__name__ for part in PARTS]
