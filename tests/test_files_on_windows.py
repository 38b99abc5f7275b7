"""Files and commands where the system has no locks of POSIX, and neither replaces nor removes a file that is open."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to see which files are open")

WINDOWS = """
import os, sys, torch

sys.modules["fcntl"] = None
for name in ("fchown", "fchmod", "sysconf", "O_CLOEXEC", "O_NOFOLLOW"):
    delattr(os, name)

def of_closed(call):
    def checked(path, *others):
        held = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
        if os.path.realpath(path) in held:
            raise PermissionError(13, "the file is open", os.fspath(path))
        return call(path, *others)
    return checked

os.replace, os.unlink = of_closed(os.replace), of_closed(os.unlink)
"""


def run(folder: Path, script: str) -> str:
    command = [sys.executable, "-c", WINDOWS + textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def test_files_are_written_whole(tmp_path: Path) -> None:
    script = r"""
        from perceptual_ops import files
        from perceptual_ops.recipes.crops import check_memory

        files.write_whole("out.bin", b"first\n")
        files.check_writable_file("out.bin")
        files.write_whole("out.bin", b"second\r\n")
        files.append_whole("out.bin", b"third\n")
        files._write_all = lambda *_: 1 / 0
        try:
            files.write_whole("out.bin", b"never")
        except ZeroDivisionError:
            check_memory(1, 8)
            print(open("out.bin", "rb").read(), os.listdir())
    """
    assert run(tmp_path, script) == r"b'second\r\nthird\n' ['out.bin']"


def test_a_command_runs(tmp_path: Path) -> None:
    script = """
        from perceptual_ops.cli import main
        from perceptual_ops.images import write_image

        write_image("a.png", torch.zeros(3, 40, 40)), write_image("b.png", torch.ones(3, 40, 40))
        code = main("compare a.png b.png --weights random --csv out.csv --map map.npy".split())
        print(code, sorted(os.listdir()))
    """
    assert run(tmp_path, script).endswith("0 ['a.png', 'b.png', 'map.npy', 'out.csv']")
