"""Imports: that of the package costs little and says nothing, and every module imports with every torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import perceptual_ops as po


def test_the_import_brings_nothing_but_itself() -> None:
    """Not torch._dynamo, which takes as long as torch, nor numpy, whose absence torch would warn of."""
    script = """
        import concurrent.futures.thread, sys, torch  # torch 2.4 does not import the first
        sys.modules["numpy"] = None
        before = set(sys.modules)
        import perceptual_ops
        print(*(name for name in set(sys.modules) - before if name.partition(".")[0] != "perceptual_ops"))
        assert "perceptual_ops.ops" in sys.modules and "perceptual_ops.losses" not in sys.modules
        print(len([name for name in sys.modules if name.startswith("perceptual_ops")]))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    root = Path(po.__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    others, own = run.stdout.splitlines()
    assert others == "" and int(own) < 30, "what is made at import is 3 % of torch's, with losses it is 15 %"


def test_what_is_not_imported_is_there_when_asked_for() -> None:
    script = """
        import torch, perceptual_ops as po
        assert set(po.__all__) | {"losses", "networks"} <= set(dir(po))
        for name in dir(po):
            getattr(po, name)
        assert po.LPIPS is po.losses.LPIPS and "LPIPS" in vars(po)
        try:
            po.Lpips
        except AttributeError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    root = Path(po.__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "module 'perceptual_ops' has no attribute 'Lpips'\n"), run.stderr


@pytest.mark.parametrize("switch", ["0", ""])
@pytest.mark.parametrize("again", ["reload", "removal"])
def test_a_second_import_in_one_process(switch: str, again: str) -> None:
    """The new copy's operators take the place of those of the copy before, plain or compiled."""
    script = """
        import importlib, sys, torch
        import perceptual_ops as po
        for _ in range(2):
            if sys.argv[1] == "reload":
                importlib.reload(po.ops)
            else:
                for name in [name for name in sys.modules if name.partition(".")[0] == "perceptual_ops"]:
                    del sys.modules[name]
                import perceptual_ops as po
        x = torch.rand(1, 3, 32, 32, requires_grad=True)
        loss = po.LPIPS("squeeze", weights="random")(x, torch.rand(1, 3, 32, 32)).sum() + po.gram_matrix(x).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.isfinite().all() and gradient.any()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), again]
    root = Path(po.__file__).parents[1]
    environment = {**os.environ, "PERCEPTUAL_OPS_NATIVE": switch}
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


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
