"""DTensors as shards of images, and a loss as a DTensor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .ranks import Ranks

if TYPE_CHECKING:
    from typing import TypeGuard

    from torch.distributed.tensor import DTensor


DIM = 2  # the rows of images (N, C, H, W), and the frames of clips (N, C, T, H, W)


def is_dtensor(x: object) -> TypeGuard[DTensor]:
    """Whether it is one, without importing the module, which takes a second."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def part_of(name: str, images: DTensor, ranks: Ranks) -> Tensor:
    """The local shard of a DTensor; its gradient is a DTensor again."""
    from torch.distributed.tensor import Shard

    mesh, placements = images.device_mesh, images.placements
    along = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
    if len(along) != 1 or type(placements[along[0]]) is not Shard or not placements[along[0]].is_shard(DIM):
        raise ValueError(
            f"{name}: expected a DTensor of placement Shard({DIM}), by rows of images or frames of clips, which is "
            f"replicated along other dimensions of its mesh; got {placements}; redistribute it"
        )
    place = mesh.get_coordinate()
    line = tuple(slice(None) if i == along[0] or place is None else place[i] for i in range(mesh.ndim))
    if mesh.mesh[line].tolist() != ranks.members():  # in that order, without which DTensors do not come back whole
        raise ValueError(
            f"{name}: expected a DTensor that is sharded over the ranks {ranks.members()} of the group in their order, "
            f"got one over {mesh}; pass group=mesh.get_group(...) of that dimension to sharded()"
        )
    return images.to_local()


def replicated(loss: Tensor, like: DTensor) -> DTensor:
    """A loss that is equal on all ranks, as a replicated DTensor on the mesh of `like`."""
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(loss, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
