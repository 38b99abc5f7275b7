"""The processes that torchrun starts, of which this is one."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def is_first() -> bool:
    """Whether this is the only process, or the one of several that speaks to the user."""
    return os.environ.get("RANK", "0") == "0"


def joined(device: torch.device) -> tuple[torch.device, int, int, bool]:
    """The device, number and count of the processes of which this is one, and whether their group was joined here."""
    if dist.is_initialized():
        return device, dist.get_rank(), dist.get_world_size(), False
    if not dist.is_torchelastic_launched():
        return device, 0, 1, False
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device, dist.get_rank(), dist.get_world_size(), True
