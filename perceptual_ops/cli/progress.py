"""Progress bars on stderr with the time that is left, by tqdm, which only a bar that is shown needs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..recipes.optimization import StepCallback
from ..recipes.training_log import COUNTS

FORMAT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}{postfix}]"
HELP = "show on stderr how much is done and the time that is left; None: where stderr is a terminal"


def add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument("--progress", action=argparse.BooleanOptionalAction, help=HELP)


@contextlib.contextmanager
def progress_bar(total: float, wanted: bool | None = None) -> Iterator[Callable[..., None]]:
    """A callback (how much is done, what to say of it, numbers to show) that moves a bar, if one is shown.

    The bar begins with the first call: until then errors may come, and of several processes only one calls. What was
    done before does not count for the time that is left.

    Args:
        total: How much there is to do; more may be done.
        wanted: Whether it is shown; None: where stderr is a terminal.
    """
    bar: Any = None
    is_shown = sys.stderr is not None and sys.stderr.isatty() if wanted is None else wanted

    def reach(done: float, text: str, numbers: Mapping[str, str] | None = None) -> None:
        nonlocal bar
        if not is_shown:
            return
        if bar is None:
            bar = _tqdm()(total=total, initial=done, bar_format=FORMAT, dynamic_ncols=True)
        bar.total = max(bar.total, done)
        bar.set_description_str(text, refresh=False)
        bar.set_postfix(numbers or {}, refresh=done >= bar.total)
        bar.update(done - bar.n)

    try:
        yield reach
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def step_bar(
    steps: int, wanted: bool | None = None, costs: Sequence[tuple[int, float]] | None = None
) -> Iterator[StepCallback]:
    """A callback (steps done, terms) that shows them.

    Args:
        steps: How many there are; L-BFGS makes a few more, to finish the line search it is in.
        wanted: As in `progress_bar`.
        costs: Steps that follow each other, and how long each takes, in any unit; None: all alike.
    """
    costs = costs or [(steps, 1.0)]
    with progress_bar(_cost(steps, costs), wanted) as reach:

        def show(done: int, terms: dict[str, float]) -> None:
            parts = {name: f"{terms[name]:.3g}" for name in terms if name not in COUNTS and "/" not in name}
            reach(_cost(done, costs), f"{done}/{max(done, steps)}", parts)

        yield show


def _cost(done: int, costs: Sequence[tuple[int, float]]) -> float:
    """The cost of the first steps."""
    cost = 0.0
    for steps, each in costs:
        cost += min(done, steps) * each
        done -= min(done, steps)
    return cost


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--progress: expected tqdm, which the bar is made by, it is not installed: pip install "
            "'perceptual_ops[cli]', or --no-progress"
        ) from None
    return tqdm
