"""How files are written: whole or not at all, with mode, owner and links kept, and never over what is read."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perceptual_ops import files

resource = pytest.importorskip("resource", reason="owners, modes and limits of POSIX")
ROOT = Path(__file__).resolve().parent.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def limited():
    """No file may grow beyond 1000 bytes: so a full disk is played."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_replaced_with_its_mode(tmp_path):
    path = tmp_path / "out.bin"
    files.write_whole(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o640)
    files.write_whole(path, memoryview(b"second"))
    assert path.read_bytes() == b"second" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["out.bin"]


def _umask():
    before = os.umask(0)
    os.umask(before)
    return before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    path.write_bytes(b"theirs")
    os.chown(path, 1234, 2345)
    path.chmod(0o664)
    files.write_whole(path, b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o664)

    def refused(*arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    with pytest.raises(PermissionError, match=r"out\.bin: expected a file whose owner can be kept"):
        files.check_writable_file(path)
    assert path.read_bytes() == b"new" and names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path, there):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "data.bin", tmp_path / "link.bin"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    files.write_whole(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert names(tmp_path / "elsewhere") == ["data.bin"] and names(tmp_path) == ["elsewhere", "link.bin"]


def test_no_room(tmp_path, limited):
    path = tmp_path / "out.bin"
    files.write_whole(path, b"old")
    with pytest.raises(OSError, match=r"out\.bin: expected room for 2,000 bytes, the system's limit is below"):
        files.write_whole(path, bytes(2000))
    assert path.read_bytes() == b"old" and names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_fails(tmp_path, monkeypatch, call, number):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    room = r"room for 3 bytes, [\d,]+ are free" if number != errno.EIO else "a file that can be written, it cannot"
    with pytest.raises(OSError, match=rf"out\.bin: expected {room} \({os.strerror(number)}\)"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["out.bin"]


def test_interruption_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["out.bin"]


def test_rows_are_added_whole(tmp_path, limited):
    path = tmp_path / "out.csv"
    files.write_whole(path, b"header\n")
    files.append_whole(path, b"row\n")
    with pytest.raises(OSError, match=r"out\.csv: expected room for 2,000 bytes"):
        files.append_whole(path, bytes(2000))
    assert path.read_bytes() == b"header\nrow\n"


def test_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, error, sentence in [
        ("no/out.bin", FileNotFoundError, "no/out.bin: expected an existing folder, .*; create it"),
        ("folder", OSError, "folder: expected the name of a file"),
        ("fifo", OSError, "fifo: expected the name of a file"),
        ("loop", OSError, "loop: expected the name of a file"),
        ("file/out.bin", OSError, "file/out.bin: expected a folder to write to"),
        (300 * "x", OSError, "x: expected .*File name too long"),
    ]:
        for act in (files.check_writable_file, lambda path: files.write_whole(path, b"new")):
            with pytest.raises(error, match=sentence):
                act(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(PermissionError, match="file: expected a file that may be replaced, it is write-protected"):
        files.check_writable_file(tmp_path / "file")
    assert names(tmp_path) == ["fifo", "file", "folder", "loop"]


WRITER = """
import sys
from perceptual_ops import files
files.os.fsync = lambda descriptor: (print("written", flush=True), sys.stdin.read())
files.write_whole(sys.argv[1], b"new")
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    """At the next check of a place in that folder; what a living process writes is left alone."""
    others = [".perceptual-ops-1-0123456789abcdef.tmp.txt", ".1234.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"another program's")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out.bin")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, living = (subprocess.Popen(command, env=environment, **pipes) for _ in range(2))
    assert killed.stdout.readline() == living.stdout.readline() == b"written\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path)) == 4
    files.check_writable_file(tmp_path / "other.bin")
    left = [name for name in names(tmp_path) if name not in others]
    assert len(left) == 1 and f"-{living.pid}-" in left[0]
    living.communicate()
    assert living.returncode == 0 and names(tmp_path) == sorted([*others, "out.bin"])


def test_a_temporary_that_was_taken_for_abandoned_is_made_again(tmp_path, monkeypatch):
    """Between the making of the file and its lock another process may find it."""
    lock, found = files.fcntl.flock, []

    def raced(descriptor, operation):
        if not found:
            found.extend(tmp_path.iterdir())
            found[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", raced)
    files.write_whole(tmp_path / "out.bin", b"new")
    assert len(found) == 1 and (tmp_path / "out.bin").read_bytes() == b"new"


def test_outputs_lie_apart_from_inputs(tmp_path):
    read, new = tmp_path / "in.bin", tmp_path / "new.bin"
    read.write_bytes(b"in")
    (tmp_path / "symbolic.bin").symlink_to(read)
    (tmp_path / "hard.bin").hardlink_to(read)
    (tmp_path / "dangling.bin").symlink_to(new)
    files.check_apart([new], [read, tmp_path / "missing.bin"])
    for name in ("in.bin", "symbolic.bin", "hard.bin"):
        with pytest.raises(ValueError, match=rf"{name}: expected a place where no input is, .*in\.bin is there"):
            files.check_apart([new, tmp_path / name], [read])
    for name in ("new.bin", "dangling.bin"):
        with pytest.raises(ValueError, match=rf"{name}: expected a place of its own, .*new\.bin is to be written"):
            files.check_apart([new, tmp_path / name], [read])
