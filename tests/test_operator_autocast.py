"""Every operator, compiled and plain, ignores the caller's autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from perceptual_ops._schemas import SCHEMAS
from perceptual_ops.cli.doctor_checks import CASES


class PlainForm:
    """An operator that runs as on a device unknown to the compiled ones, which a process may have loaded."""

    def __init__(self, name: str) -> None:
        self.default = getattr(torch.ops.perceptual_ops, name).default

    def __call__(self, *arguments: Any) -> Any:
        return self.default.redispatch(DispatchKeySet(DispatchKey.PrivateUse1), *arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["in force", "plain"])
@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - {"build_info"}))
def test_autocast_changes_no_operator(
    name: str, form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "plain":
        monkeypatch.setattr(torch.ops.perceptual_ops, name, PlainForm(name))
    cases = list(CASES[name](dtype, torch.device("cpu")))  # the calls that `doctor` makes

    def results() -> list[Tensor]:
        return [result for case in cases for result in case.run()]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
