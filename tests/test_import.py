"""Imports: that of the package costs little and says nothing, and every module imports with every torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import perceptual_ops as po


def test_the_import_brings_nothing_but_itself() -> None:
    """Not torch._dynamo, which takes as long as torch, nor numpy, whose absence torch would warn of."""
    script = """
        import concurrent.futures.thread, sys, torch  # torch 2.4 does not import the first
        sys.modules["numpy"] = None
        before = set(sys.modules)
        import perceptual_ops
        print(*(name for name in set(sys.modules) - before if name.partition(".")[0] != "perceptual_ops"))
        assert "perceptual_ops.losses" in sys.modules and "perceptual_ops.compat" not in sys.modules
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    root = Path(po.__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "\n", "")


def test_every_module_imports() -> None:
    """In a new process: what a test imported before does not hide what a module lacks."""
    root = Path(po.__file__).parents[1]
    files = [file.relative_to(root).with_suffix("") for file in sorted(Path(po.__file__).parent.rglob("*.py"))]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__"]
    assert {"perceptual_ops.compat.torchmetrics", "perceptual_ops.cli.doctor_checks"} <= set(names)
    script = """
        import importlib, sys
        for name in sys.argv[1:]:
            try:
                importlib.import_module(name)
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), *names]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
