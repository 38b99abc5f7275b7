"""Training in two processes, by torchrun and gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import losses, run, write_pictures

from perceptual_ops.recipes import (
    TrainingOptions,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


PROGRAM = """
import sys
import zipfile
from pathlib import Path
import torch
from tiny_training import Tiny, run
from perceptual_ops.recipes import TrainingOptions

Tiny.forward = lambda self, images: images + self.convolution(images)  # dropout differs by process
out, pictures, steps = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir()), int(sys.argv[3])
model = run(pictures, out, TrainingOptions(steps=steps, batch=4, size=32, save_every=1))
torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, out.with_suffix(".pt"))
"""


def torchrun(tmp_path, out, pictures, steps, processes):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    command = [sys.executable, *launcher, str(tmp_path / "program.py"), str(out), str(pictures[0].parent), str(steps)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_two_processes_make_the_gradient_of_one(pictures, tmp_path):
    """The gradients of the third step with torchrun and gloo, a batch of 4 as 2 + 2, and the log."""
    for processes in (0, 2):
        done = torchrun(tmp_path, tmp_path / f"{processes}.safetensors", pictures, 3, processes)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{processes}.pt") for processes in (0, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-8)
    assert losses(tmp_path / "2.safetensors") == pytest.approx(losses(tmp_path / "0.safetensors"), rel=1e-5)


def test_errors_on_two_processes_end_them(pictures, tmp_path):
    """A checkpoint of another run is refused by both, and neither waits for the other."""
    run(pictures, tmp_path / "model.safetensors", TrainingOptions(steps=1, batch=4, size=32, save_every=1))
    done = torchrun(tmp_path, tmp_path / "model.safetensors", pictures, 2, 2)
    assert done.returncode != 0
    assert "its steps is 1, not 2" in done.stderr
