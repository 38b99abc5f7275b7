"""Training in two processes, by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
from process_group import on_processes
from tiny_training import Tiny, losses, run, write_pictures

from perceptual_ops.recipes import TrainingOptions

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


class Plain(Tiny):
    """Without dropout, which differs by process."""

    def forward(self, images):
        return images + self.convolution(images)


def train(rank, pictures, out):
    """The gradients of the third step."""
    tiny_training.Tiny = Plain
    model = run(pictures, out, TrainingOptions(steps=3, batch=4, size=32, save_every=1))
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.usefixtures("without_plots")
def test_two_processes_make_the_gradient_of_one(pictures, tmp_path, monkeypatch):
    """A batch of 4 as 2 + 2; and the log."""
    monkeypatch.setattr(tiny_training, "Tiny", Plain)
    one = train(0, pictures, tmp_path / "1.safetensors")
    two = on_processes(2, tmp_path / "store", train, pictures, tmp_path / "2.safetensors")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-8)
    assert losses(tmp_path / "2.safetensors") == pytest.approx(losses(tmp_path / "1.safetensors"), rel=1e-5)


PROGRAM = """
import sys
from pathlib import Path
from tiny_training import run
from perceptual_ops.recipes import TrainingOptions

out, pictures = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
run(pictures, out, TrainingOptions(steps=2, batch=4, size=32, save_every=1))
"""


def test_errors_on_two_processes_end_them(pictures, tmp_path):
    """A checkpoint of another run is refused by both that torchrun starts, and neither waits for the other."""
    run(pictures, tmp_path / "model.safetensors", TrainingOptions(steps=1, batch=4, size=32, save_every=1))
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(tmp_path / "program.py"), str(tmp_path / "model.safetensors"), str(pictures[0].parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "its steps is 1, not 2" in done.stderr
