"""The command `perceptual-ops`. Each subcommand has a module that registers it and returns an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .._failures import is_out_of_memory, reason
from ..recipes.optimization import DivergenceError
from . import apply, compare, doctor, invert, stylize, train
from .terminal import PROGRAM, plain_warnings

COMMANDS = (stylize, train, apply, invert, compare, doctor)  # each adds its own


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit code: 0; 1 where some pictures could not be used and the rest is done, or where numbers
        ran away and nothing is written; 2 after one sentence on stderr
        for anything the user can mend; 130 for Ctrl-C.
    """
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        with plain_warnings():
            return command(arguments)
    except KeyboardInterrupt as interruption:
        left = str(interruption) or "nothing was written"
        print(f"{PROGRAM}: interrupted, {left}", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"{PROGRAM}: the device has too little memory; choose a smaller --size or --batch", file=sys.stderr)
        return 2
    except DivergenceError as error:
        print(f"{PROGRAM}: {reason(error)}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"{PROGRAM}: {reason(error)}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, like every other error, in place of the usage and then a sentence."""
        raise ValueError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Perceptual losses for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.register(commands)
    return parser
