"""Trains the small network of ddp.py with its parameters sharded over processes by FSDP2.

    torchrun --nproc-per-node 2 -m examples.fsdp2   # a GPU for each process, or the CPU

The part to copy is `sharded`, in place of DistributedDataParallel. The loss is frozen and whole on every process: it
has no parameters, so nothing of it is sharded or gathered, whether it is beside the model or part of it.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from .ddp import main


def sharded(model: nn.Module) -> nn.Module:
    """The model with its parameters sharded over all processes."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for part in (*model.children(), model):  # each is gathered when it runs, the root last
        fully_shard(part, mesh=mesh)
    return model


if __name__ == "__main__":
    main(spread=sharded)
