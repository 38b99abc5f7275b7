"""`make` in a folder whose name has spaces, with pins of nothing: when .venv is made, and what is cleaned."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAMP = ".venv/.installed"

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements-demo.txt", "requirements-dev.txt", "requirements-data.txt"):
        (folder / name).write_text("# nothing\n")
    return folder


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    of_this_run = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=checkout, env={**of_this_run, **environment}, capture_output=True, text=True)


def recipe(checkout: Path, *arguments: str, **environment: str) -> str:
    """What make would run."""
    return make(checkout, "-n", STAMP, *arguments, **environment).stdout


def test_an_environment_that_was_not_finished_is_made_again(checkout: Path) -> None:
    broken = checkout / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("interrupted")
    made = make(checkout, STAMP, f"PYTHON={sys.executable}")
    assert made.returncode == 0, made.stderr
    run = [str(broken), "-c", "import pip, sys; print(sys.prefix)"]
    assert subprocess.run(run, capture_output=True, text=True).stdout.strip() == str(checkout / ".venv")
    assert "is up to date" in make(checkout, STAMP).stdout


@pytest.fixture
def finished(checkout: Path) -> Path:
    """A checkout whose .venv is of this Python."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for stamp in (".venv/.demo", STAMP):
        (checkout / stamp).touch()
    return checkout


def test_a_python_that_is_asked_for_gets_the_environment(finished: Path) -> None:
    other = finished / "python3.99"
    other.write_text("#!/bin/sh\necho Python 3.99.0\n")
    other.chmod(0o755)
    assert "is up to date" in recipe(finished)
    assert "is up to date" in recipe(finished, f"PYTHON={sys.executable}")
    for asked in ({"PYTHON": "./python3.99"}, {}):
        arguments = [] if asked else ["PYTHON=./python3.99"]
        assert "./python3.99 -m venv --clear .venv" in recipe(finished, *arguments, **asked)


def test_other_pins_are_installed_into_the_same_environment(finished: Path) -> None:
    os.utime(finished / STAMP, (0, 0))
    run = recipe(finished)
    assert "pip install" in run and "--clear" not in run


def test_a_python_that_is_too_old_is_refused(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"\n')
    old.chmod(0o755)
    refused = make(checkout, STAMP, "PYTHON=./python3.9")
    assert refused.returncode and "expected Python >= 3.10" in refused.stderr and "PYTHON=python3.12" in refused.stderr
    assert not (checkout / ".venv").exists()


def test_a_checkout_may_be_moved() -> None:
    """Scripts that pip makes name the Python of the place where .venv was made."""
    started = set(re.findall(r"\$\(VENV\)/bin/([\w-]+)", (ROOT / "Makefile").read_text()))
    assert started == {"python", "zizmor"}  # a link and a program
    zizmor = ROOT / ".venv" / "bin" / "zizmor"
    assert not zizmor.exists() or not zizmor.read_bytes().startswith(b"#!")


def test_clean_leaves_the_environment_and_measurements(finished: Path) -> None:
    names = {"*.egg-info/": "perceptual_ops.egg-info", "*.so": "perceptual_ops/_C.so"}
    made = [names.get(line, line.rstrip("/")) for line in (ROOT / ".gitignore").read_text().splitlines()]
    for name in made:
        (finished / name).mkdir(parents=True, exist_ok=True)
    (finished / "perceptual_ops" / "engine" / "__pycache__").mkdir(parents=True)
    (finished / ".venv" / "__pycache__").mkdir()
    assert make(finished, "clean").returncode == 0
    left = {name for name in made if (finished / name).exists()}
    assert left == {".venv", "bench/results/gpu", ".DS_Store"}
    assert (finished / ".venv" / "__pycache__").exists()
    assert not (finished / "perceptual_ops" / "engine" / "__pycache__").exists()


def test_the_suite_in_plain_pytorch_has_what_computes(checkout: Path) -> None:
    """Each pattern leaves out some file, and none a file of a loss's numbers."""
    globs = re.findall(r'--ignore-glob="tests/(.*?)"', make(checkout, "-n", "test-plain").stdout)
    files = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    found = {glob: set(fnmatch.filter(files, glob)) for glob in globs}
    assert [glob for glob, names in found.items() if not names] == []
    kept = {name.removeprefix("test_").removesuffix(".py") for name in files - set().union(*found.values())}
    drop_ins = {f"compat_{library}" for library in ("basicsr", "lpips", "piq", "torchmetrics")}
    assert {"chunked", "cosine", "input_size", "module_trunk", "operators", "plain", *drop_ins} <= kept
