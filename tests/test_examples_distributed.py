"""The examples on several processes: gradients are those of one with the whole batch, and the loss is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_group import on_processes, process_group
from sharded_cases import tiny
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import perceptual_ops as po
from examples import ddp, fsdp2

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {"ddp": DistributedDataParallel, "fsdp2": fsdp2.sharded}
CPU = torch.device("cpu")
ABORTED_AT_EXIT = "terminate called without an active exception"


class WithLoss(nn.Module):
    """A network that has its loss as a part."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ddp.SuperResolution()
        self.criterion = po.PerceptualLoss(tiny(), content_layers=["4"]).float()

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        return self.criterion(self.network(small), large)


def trained(rank: int, name: str, steps: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of the last step, and the weights after it."""
    criterion = po.PerceptualLoss(tiny(), content_layers=["4"]).float()
    before = {key: (x.data_ptr(), x.clone()) for key, x in criterion.frozen_network.named_parameters()}
    model = ddp.train(criterion, CPU, steps, batch=4, size=32, spread=EXAMPLES[name])
    for key, x in criterion.frozen_network.named_parameters():
        assert type(x) is nn.Parameter and x.data_ptr() == before[key][0] and torch.equal(x, before[key][1])
    assert not list(criterion.parameters()) and not list(criterion.buffers())
    found = {key.removeprefix("module."): x for key, x in model.named_parameters()}
    assert set(found) == {key for key, _ in ddp.SuperResolution().named_parameters()}
    return {key: whole(x.grad) for key, x in found.items()}, {key: whole(x.detach()) for key, x in found.items()}


def whole(x: Tensor | None) -> Tensor:
    assert x is not None
    return x.full_tensor() if isinstance(x, DTensor) else x


@pytest.mark.parametrize("name", EXAMPLES)
def test_two_processes_make_the_gradient_of_one(name: str, tmp_path: Path) -> None:
    with process_group(tmp_path / "one"):
        one = trained(0, name)
    two = on_processes(2, tmp_path / "two", trained, name)
    for expected, found in zip(one, two, strict=True):
        for key, x in expected.items():
            assert x.abs().max() > 0
            torch.testing.assert_close(found[key], x, rtol=1e-4, atol=1e-6 * x.abs().max().item())


def wrapped(rank: int) -> None:
    """A loss that differs on rank 1 is no less another after its model was wrapped, and trains it with all others."""
    for name in EXAMPLES:
        torch.manual_seed(0)
        model = WithLoss()
        frozen = model.criterion.frozen_network
        own = {key: (1 + rank) * x for key, x in frozen.state_dict().items()}
        model.criterion.replace_network_weights(own)
        names = [key for key, _ in model.named_parameters()]
        assert all(key.startswith("network.") for key in names)
        wrapper = DistributedDataParallel(model) if name == "ddp" else fully_shard(model)
        assert len(list(wrapper.parameters())) == len(names)
        wrapper(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)).backward()
        assert all(type(x) is Tensor and torch.equal(x, own[key]) for key, x in frozen.state_dict().items())


def test_a_loss_that_is_part_of_the_model_is_left_alone(tmp_path: Path) -> None:
    on_processes(2, tmp_path / "store", wrapped)


def losses_of(printed: str) -> list[float]:
    return [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step")]


def test_torchrun() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(ROOT / "examples/ddp.py"), "--weights", "random", "--steps", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    # Threads of gloo outlive the group of a DistributedDataParallel (torch 2.13), and may abort a process that is over.
    assert done.returncode == 0 or ABORTED_AT_EXIT in done.stderr, done.stderr
    first, second = losses_of(done.stdout)
    assert first > 0 < second != first


def test_one_process_of_torchrun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    ddp.main(["--weights", "random", "--steps", "2"], spread=fsdp2.sharded)
    first, second = losses_of(capsys.readouterr().out)
    assert first > 0 < second != first
