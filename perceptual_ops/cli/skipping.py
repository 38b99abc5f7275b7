"""Pictures that a job on a folder skips: each is named at once and counted, and the job goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from .._failures import is_out_of_memory, sentence
from .terminal import say

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

STRICT_HELP = "stop at the first picture that cannot be used, in place of leaving it out"


class Skipped:
    """The count of pictures that were left out.

    Args:
        strict: Whether the first ends the job with an error.
    """

    def __init__(self, strict: bool) -> None:
        self.count: int = 0
        self._strict = strict

    def attempt(
        self,
        name: str | os.PathLike[str],
        make: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result | None:
        """What `make` makes of the picture called `name`; None where the picture is at fault and was left out."""
        try:
            return make(*args, **kwargs)
        except (ValueError, OSError) as error:
            failure: Exception = error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = ValueError(
                f"{os.fspath(name)}: the device has too little memory for it; choose a smaller --size or --tile"
            )
        self.leave_out(failure)
        return None

    def leave_out(self, failure: Exception) -> None:
        """Says why a picture is left out, and counts it."""
        if self._strict:
            raise failure
        self.count += 1
        say(sentence(failure))

    def exit_code(self, done: str) -> int:
        """0, or after a summary 1. `done` says what was made of the others."""
        if not self.count:
            return 0
        say(f"{done}, {self.count} left out")
        return 1


def namesake(path: Path, first: Path) -> ValueError:
    """The error for two pictures in a folder whose names differ only in the suffix."""
    return ValueError(
        f"{path}: expected one picture of a name whatever its suffix, {first.name} comes first; rename one"
    )
