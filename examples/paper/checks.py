"""A run that is killed and resumed, and one on two processes: how far each is from an uninterrupted run of one.

`python -m examples.paper.checks OUT` is that run: a few steps of super-resolution, and the first step's gradient.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from perceptual_ops.recipes import TrainingOptions, train_super_resolution
from perceptual_ops.recipes.training_log import read_log

from .common import DEVICE, PHOTOGRAPHS, ROOT, WEIGHTS, publish, training_pictures

OPTIONS = TrainingOptions(steps=20, batch=4, size=96, lr=2e-4, save_every=5)
PATIENCE = 300  # seconds that a run may take to its first checkpoint


def run(out: Path) -> None:
    """The run that is compared. It saves its first gradient, averaged over processes, beside `out`."""

    def note(optimizer: Optimizer, *_: Any) -> None:
        file, first = out.with_suffix(".gradient"), not dist.is_initialized() or dist.get_rank() == 0
        if first and not file.exists():
            torch.save([parameter.grad for parameter in optimizer.param_groups[0]["params"]], file)

    hook = register_optimizer_step_pre_hook(note)
    train_super_resolution(
        training_pictures(PHOTOGRAPHS), out, loss="combined", weights=WEIGHTS, options=OPTIONS, device=DEVICE
    )
    hook.remove()


def command(out: Path, *launcher: str) -> list[str]:
    return [sys.executable, "-m", *launcher, "examples.paper.checks", str(out)]


def environment() -> dict[str, str]:
    """One thread per process, so that runs differ in nothing else."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(arguments: Sequence[str]) -> None:
    subprocess.run(arguments, cwd=ROOT, env=environment(), check=True)


def start_and_kill(out: Path) -> None:
    """Kills the run soon after its first checkpoint."""
    process = subprocess.Popen(command(out), cwd=ROOT, env=environment())
    end = time.monotonic() + PATIENCE
    while not out.with_suffix(".checkpoint").exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"the run to be killed left no checkpoint (exit status {process.wait()})")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run to be killed ended before")


def curve(out: Path) -> Tensor:  # (steps,)
    return torch.tensor([row["loss"] for row in read_log(out.with_suffix(".log.csv"))], dtype=torch.float64)


def weights(out: Path) -> Tensor:
    """All parameters of a model as one vector."""
    return _row([*load_file(out).values()])


def gradient(out: Path) -> Tensor:
    return _row(torch.load(out.with_suffix(".gradient"), weights_only=True))


def _row(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def differences(folder: Path) -> dict[str, float]:
    """Of a killed run and of one that two processes shared, against an uninterrupted one of one process."""
    whole, killed, shared = (folder / f"{name}.safetensors" for name in ("whole", "killed", "shared"))
    start(command(whole))
    start_and_kill(killed)
    start(command(killed))
    start(command(shared, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"))
    return {
        "killed and resumed: largest difference of the losses": (curve(killed) - curve(whole)).abs().max().item(),
        "killed and resumed: largest difference of the weights": (weights(killed) - weights(whole)).abs().max().item(),
        "two processes: relative difference of the first gradient (norm)": _relative(gradient(shared), gradient(whole)),
        "two processes: relative difference of the losses (norm)": _relative(curve(shared), curve(whole)),
    }


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = differences(Path(folder))
    for name, value in found.items():
        print(f"{name}: {value:.3g}")
    publish("checks", {"steps": OPTIONS.steps, "differences": found}, PHOTOGRAPHS)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
