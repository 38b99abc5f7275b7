"""What the command `perceptual-ops` needs before torch is imported, which takes seconds; for it alone."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys

PROGRAM = "perceptual-ops"
NAMES = (PROGRAM, "-m")  # sys.argv[0] of the installed script, and while Python imports what `python -m` is to run
ERRORS = "perceptual_ops.as_on_disk"


def prepare_streams() -> None:
    """Makes stdout and stderr something to write to, where they are closed or of an encoding that lacks letters."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next file to be opened would be taken for it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # Kept until the end, where an error can be told: Python may be asked to write each text at once.
        sys.stdout.reconfigure(errors=ERRORS, write_through=False)


def discard_output() -> None:
    """Discards what stdout and stderr still buffer, since nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):  # not a file, but an object of the caller
            continue
    os.close(nowhere)


def _as_on_disk(error: UnicodeError) -> tuple[str | bytes, int]:
    """Letters that an encoding lacks, as the bytes that a file of that name has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    try:
        return os.fsencode(error.object[error.start : error.end]), error.end
    except UnicodeEncodeError:
        return codecs.backslashreplace_errors(error)


def interruptible() -> None:
    """Ctrl-C raises KeyboardInterrupt again, where the imports are done."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    """Ends the process as the signal would, and at once: torch's imports may swallow a KeyboardInterrupt."""
    with contextlib.suppress(OSError):  # nobody reads stderr
        os.write(2, f"{PROGRAM}: interrupted, nothing was written\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


codecs.register_error(ERRORS, _as_on_disk)
if os.path.basename(sys.argv[0] if sys.argv else "") in NAMES:
    prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as it is not under nohup
        signal.signal(signal.SIGINT, _end)
