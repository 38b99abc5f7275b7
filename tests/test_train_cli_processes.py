"""Training by the command in processes of its own: killed, and several at once."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from train_commands import QUICK, ROOT, train_sr, write_folder

from perceptual_ops import cli
from perceptual_ops.recipes import load_model
from perceptual_ops.recipes.training_log import read_log


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The command, whose process ends between two checkpoints as by a SIGKILL from outside.
KILLED = """
import os, signal, sys
from perceptual_ops import cli
from perceptual_ops.recipes import Training

update = Training.update

def update_and_die(training, *arguments):
    update(training, *arguments)
    if training.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Training.update = update_and_die
cli.main(sys.argv[1:])
"""


def test_a_killed_command_goes_on_with_the_same_curve(folder, one_thread, monkeypatch):
    """SIGKILL in the middle; the same command again, in another process; and once without interruption."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = ["train-sr", "--data", "data", "--scale", "2", "--steps", "6", "--save-every", "2", *QUICK, "-o"]
    command = [sys.executable, "-c", KILLED, *arguments, "killed.safetensors"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / "killed.checkpoint").exists() and not (folder / "killed.safetensors").exists()
    monkeypatch.chdir(folder)
    for name in ("killed", "whole"):
        assert cli.main([*arguments, f"{name}.safetensors"]) == 0
    assert not (folder / "killed.checkpoint").exists() and (folder / "killed.safetensors").exists()
    curves = [[row["loss"] for row in read_log(folder / f"{name}.log.csv")] for name in ("whole", "killed")]
    assert len(curves[0]) == 6
    assert curves[0] == curves[1]


def test_two_processes_train_by_the_command(folder):
    """As README says: one of them speaks, and the model can be used. A damaged picture is said once."""
    (folder / "data" / "aa.png").write_bytes((folder / "data" / "a.png").read_bytes()[:-40])
    (folder / "data" / "zz.png").write_text("no picture")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    apart = ["--log-dir", "logs", "--redirects", "3"]  # a file for what each process says
    command = ["-m", "perceptual_ops", "train-sr", "--data", "data", "--scale", "2", "--steps", "2", *QUICK]
    command += ["--progress", "-o"]
    done = subprocess.run(
        [*launcher, *apart, *command, "sr.safetensors"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [
        [next((folder / "logs").glob(f"*/*/{rank}/{stream}.log")).read_text() for stream in ("stdout", "stderr")]
        for rank in (0, 1)
    ]
    assert said[0][0].split() == ["sr.safetensors"] and "2/2" in said[0][1]
    assert said[1][0] == "" and "/2" not in said[1][1]
    assert load_model(folder / "sr.safetensors").scale == 2
    for sentence in ("aa.png: expected a picture", "zz.png: expected a picture", "2 pictures could not be read"):
        assert [stderr.count(sentence) for _, stderr in said] == [1, 0], said


def test_a_batch_that_two_processes_cannot_share(folder, capsys, monkeypatch):
    monkeypatch.setattr("perceptual_ops.recipes.training.joined", lambda device: (device, 0, 2, False))
    assert train_sr(folder, "--loss", "pixel", "--batch", "3") == 2
    assert "batch: expected a multiple of the 2 processes, got 3" in capsys.readouterr().err
