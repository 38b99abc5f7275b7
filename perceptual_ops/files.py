"""How files are written: whole or not at all, never over what is read, and with a sentence where there is no room."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: without locks nobody removes what a killed process left
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]

BYTES = getattr(os, "O_BINARY", 0)  # or Windows would write line ends of its own
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = re.compile(r"\.perceptual-ops-\d+-[0-9a-f]{16}\.tmp")  # the number is the writer's process


def write_whole(path: PathLike, data: bytes | memoryview) -> None:
    """Writes a file whole or not at all: one that is already there stays until the new one is complete.

    A symbolic link stays one, and what it points to is replaced; mode and owner of a file that is replaced are kept.

    Raises:
        FileNotFoundError, PermissionError: No such folder; a folder or a file that must not be written.
        OSError: No room, in a sentence with the bytes needed and free; no regular file.
    """
    size = memoryview(data).nbytes
    with _told(path, size), _temporary_beside(path) as (file, temporary, target):
        _write_all(file.fileno(), data)
        os.fsync(file.fileno())
        _close_without_locks(file)
        os.replace(temporary, target)


def append_whole(path: PathLike, data: bytes) -> None:
    """Adds to the end of a file all of the data or nothing. Raises as `write_whole`."""
    with _told(path, len(data)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | BYTES)
        end = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, data)
        except BaseException:
            os.ftruncate(descriptor, end)
            raise
        finally:
            os.close(descriptor)


def check_writable_file(path: PathLike) -> None:
    """Raises what `write_whole` would raise before it writes, and removes what killed processes left beside `path`."""
    with _told(path, 0), _temporary_beside(path) as (_, _, target):
        _remove_abandoned(target.parent)


def make_folder(path: PathLike) -> None:
    """Makes a folder and those above it, where they are missing. OSError in a sentence."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise _no_folder(path, error) from error


def check_folder(path: PathLike) -> None:
    """Raises what `make_folder`, and writing to the folder, would raise, as far as can be known before."""
    there = next(place for place in (Path(path), *Path(path).parents) if os.path.lexists(place))
    if not there.is_dir():
        raise _no_folder(path, NotADirectoryError(errno.EEXIST, f"{there} is no folder"))
    if not os.access(there, os.W_OK | os.X_OK):
        raise _no_folder(path, PermissionError(errno.EACCES, f"{there} is write-protected"))


def _no_folder(path: PathLike, error: OSError) -> OSError:
    return type(error)(f"{os.fspath(path)}: expected a folder, or a place for one, it is none ({error.strerror})")


def check_apart(outputs: Iterable[PathLike], inputs: Iterable[PathLike]) -> None:
    """Keeps what is read from being written over, whatever the links to it.

    Raises:
        ValueError: An output is one of the inputs, or another output.
    """
    read, written = {_identity(path): path for path in inputs}, dict[object, PathLike]()
    for path in outputs:
        identity = _identity(path)
        if identity in read:
            raise ValueError(
                f"{os.fspath(path)}: expected a place where no input is, {os.fspath(read[identity])} is there; "
                f"choose another"
            )
        if identity in written:
            raise ValueError(
                f"{os.fspath(path)}: expected a place of its own, {os.fspath(written[identity])} is to be written "
                f"there; choose another"
            )
        written[identity] = path


def is_taken(path: PathLike) -> bool:
    """Whether there is something that a new file would put an end to; an empty file is nothing."""
    return os.path.exists(path) and os.path.getsize(path) > 0


def _identity(path: PathLike) -> object:
    """The same for each name of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _told(path: PathLike, size: int) -> Iterator[None]:
    """One sentence for whatever the system reports about a file of `size` bytes."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        name, reason = os.fspath(path), error.strerror
        if error.errno not in NO_ROOM:
            raise type(error)(f"{name}: expected a file that can be written, it cannot ({reason})") from error
        if error.errno == errno.EFBIG:
            lack = f"the system's limit is below that ({reason}, see ulimit -f)"
        else:
            free = shutil.disk_usage(Path(os.path.realpath(path)).parent).free
            lack = f"{free:,} are free ({reason}); make room or choose another place"
        raise OSError(f"{name}: expected room for {size:,} bytes, {lack}") from error


@contextlib.contextmanager
def _temporary_beside(path: PathLike) -> Iterator[tuple[FileIO, Path, Path]]:
    """A new empty file, its path, and the file that it is to replace: what `path` is or points to.

    It lies in the same folder, as only there os.replace is sure to be atomic, and is removed if anything goes wrong.
    Its lock says that its writer lives; the system releases it when the process ends, however it does.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink() or (target.exists() and not target.is_file()):  # where links end there is one in a circle
        raise OSError(
            f"{os.fspath(path)}: expected the name of a file, this is a folder, a device or a circle of links"
        )
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"{os.fspath(path)}: expected a file that may be replaced, it is write-protected")
    temporary, descriptor = _locked_temporary(path, target.parent)
    file = FileIO(descriptor, "w")
    try:
        if target.exists():
            _take_over(path, target.stat(), descriptor, temporary)
        yield file, temporary, target
    finally:  # Ctrl-C too; after os.replace there is none
        _close_without_locks(file)
        temporary.unlink(missing_ok=True)
        file.close()


def _close_without_locks(file: FileIO) -> None:
    """Where there are none, on Windows, an open file can be neither renamed nor removed; a lock ends with its file."""
    if fcntl is None:
        file.close()


def _locked_temporary(path: PathLike, folder: Path) -> tuple[Path, int]:
    while True:
        temporary = folder / f".perceptual-ops-{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BYTES, 0o666)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{os.fspath(path)}: expected an existing folder, there is no {folder}; create it"
            ) from None
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise type(error)(
                f"{os.fspath(path)}: expected a folder to write to, {folder} is not one ({error.strerror})"
            ) from None
        if fcntl is None:
            return temporary, descriptor
        with contextlib.suppress(OSError):  # a file system without locks: then nobody removes it either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another process took it for abandoned before it was locked


def _take_over(path: PathLike, before: os.stat_result, descriptor: int, temporary: Path) -> None:
    """Gives the new file the owner and the mode of the one that it replaces."""
    now = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:
            raise PermissionError(
                f"{os.fspath(path)}: expected a file whose owner can be kept, it belongs to another user or group; "
                f"remove it or choose another name"
            ) from None
    opened = descriptor if os.chmod in os.supports_fd else temporary
    os.chmod(opened, stat.S_IMODE(before.st_mode) & 0o777)  # what sets the user was meant for other bytes


def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of processes that were killed."""
    if fcntl is None:
        return
    for entry in os.scandir(folder):
        if not (TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
            continue
        with contextlib.suppress(OSError):  # of another user, or just gone
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
            finally:
                os.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
