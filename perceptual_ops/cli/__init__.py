"""The command `perceptual-ops`. Each subcommand has a module that registers it and returns an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .._failures import is_out_of_memory, reason, sentence
from .._program import PROGRAM, discard_output, interruptible, prepare_streams
from ..recipes.optimization import DivergenceError
from . import apply, compare, doctor, invert, stylize, train
from .terminal import plain_warnings, say

COMMANDS = (stylize, train, apply, invert, compare, doctor)  # each adds its own


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit code: 0; 1 if some pictures could not be used and the rest is done, or if values diverged and nothing
        is written; 2 after one sentence on stderr for anything the user can fix; 130 for Ctrl-C; 141 for
        a closed output pipe.
    """
    prepare_streams()
    try:
        try:
            return _run(argv)
        finally:
            _flush()
    except BrokenPipeError:
        discard_output()
        return 141  # what the shell says of a program that SIGPIPE ended


def _run(argv: Sequence[str] | None) -> int:
    try:
        interruptible()
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        with plain_warnings():
            return command(arguments)
    except KeyboardInterrupt as interruption:
        say(f"interrupted, {str(interruption) or 'nothing was written'}")
        return 130
    except BrokenPipeError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say("the device has too little memory; choose a smaller --size, --batch or --tile")
        return 2
    except DivergenceError as error:
        say(reason(error))
        return 1
    except (ValueError, OSError, ImportError) as error:
        say(sentence(error))
        return 2


def _flush() -> None:
    """Here, where an error can still be told. BrokenPipeError where nobody reads."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"stdout: expected a place to write to, it cannot be written ({error.strerror})")
        discard_output()
        sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, like every other error, in place of the usage and then a sentence."""
        raise ValueError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        print(doctor.version())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Perceptual losses for PyTorch.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say what is installed, in one line")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.register(commands)
    return parser
