"""`import perceptual_ops` costs little beside `import torch`, and says nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import perceptual_ops as po


def test_the_import_brings_nothing_but_itself() -> None:
    """Not torch._dynamo, which takes as long as torch, nor numpy, whose absence torch would warn of."""
    script = """
        import sys, torch
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
