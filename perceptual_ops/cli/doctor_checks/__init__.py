"""`perceptual-ops doctor --check`: every operator on a device, beside plain PyTorch in fp64.

cases.py says what a call is compared with; maps.py, activations.py and networks.py list the calls, operator by
operator. An operator that none of them lists is a row that fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ... import _checks
from ..._accuracy import allowed_error, relative_error
from ..._failures import reason
from .activations import ACTIVATIONS
from .cases import Case, Cases
from .maps import MAPS
from .networks import NETWORKS

CASES: dict[str, Cases] = {**MAPS, **ACTIVATIONS, **NETWORKS}


@dataclass(frozen=True)
class Row:
    """An operator in a dtype: the error that comes nearest to its bound, or exceeds it most.

    Attributes:
        error: The largest error over the largest value; NaN where there is no result to compare.
        bound: The largest allowed, see `allowed_error`.
        problem: What is wrong, and in which case; empty where nothing is.
    """

    operator: str
    dtype: torch.dtype
    error: float
    bound: float
    problem: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return COLUMNS.format(self.operator, dtype, f"{self.error:.2e}", f"{self.bound:.2e}", self.problem or "ok")


COLUMNS = "{:<30} {:<9} {:>9} {:>9}  {}"
HEADER = COLUMNS.format("operator", "dtype", "error", "bound", "ok")


def registered() -> list[str]:
    """Names of the operators that this process has, the library's and the engine's, but for those without tensors."""
    prefix = "perceptual_ops::"
    names = {name.removeprefix(prefix) for name in torch._C._dispatch_get_all_op_names() if name.startswith(prefix)}
    schemas = {name: getattr(torch.ops.perceptual_ops, name).default._schema for name in names}
    return sorted(name for name, schema in schemas.items() if any("Tensor" in str(one.type) for one in schema.returns))


def check(device: torch.device) -> Iterator[Row]:
    """A row for each operator and dtype."""
    for name in sorted({*registered(), *CASES}):
        for dtype in _checks.DTYPES:
            yield row(name, dtype, device)


def row(name: str, dtype: torch.dtype, device: torch.device) -> Row:
    """One operator in one dtype. Convolutions run without TF32 and in a fixed order."""
    enabled = torch.backends.cudnn.enabled
    with torch.backends.cudnn.flags(enabled=enabled, benchmark=False, deterministic=True, allow_tf32=False):
        return _row(name, dtype, device)


def _row(name: str, dtype: torch.dtype, device: torch.device) -> Row:
    if name not in CASES:
        return Row(name, dtype, math.nan, math.nan, "doctor has no check of this operator")
    worst, where = Row(name, dtype, 0.0, math.inf, ""), ""
    try:
        for case in CASES[name](dtype, device):
            where = case.where
            for number, (error, bound, problem) in enumerate(_compared(case)):
                problem = problem or ("" if error <= bound else "off")
                found = Row(name, dtype, error, bound, problem and f"{problem}: result {number}, {where}")
                if problem:
                    return found
                if error / max(bound, 1e-300) >= worst.error / max(worst.bound, 1e-300):
                    worst = found
    except Exception as error:  # whatever it is belongs in the report, and the next operator may work
        first_line = reason(RuntimeError((str(error).splitlines() or [type(error).__name__])[0]))
        return Row(name, dtype, math.nan, math.nan, f"{first_line} ({where or 'no call yet'})")
    return worst


def _compared(case: Case) -> Iterator[tuple[float, float, str]]:
    """Error, bound and what else is wrong of each result."""
    ours, again = case.run(), case.run()
    naive, exact = case.plain(False), case.plain(True)
    for mine, same, theirs, truth in zip(ours, again, naive, exact, strict=True):
        bound = allowed_error(case.rounding or mine.dtype, theirs, truth)
        if mine.shape != truth.shape:
            yield math.nan, bound, f"shape {tuple(mine.shape)}, expected {tuple(truth.shape)}"
        elif not mine.isfinite().all():
            yield math.nan, bound, "not finite"
        elif not torch.equal(mine, same):
            yield relative_error(mine, truth), bound, "other bits the second time"
        else:
            yield relative_error(mine, truth), bound, ""
