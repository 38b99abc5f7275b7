"""Communication within a group, in an order that depends on ranks alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


class Ranks:
    """The processes of a group, of which this is one.

    Args:
        group: None: torch.distributed's default group.

    Attributes:
        rank, count: Of this process in the group, and how many there are.

    Raises:
        RuntimeError: There is no group.
        ValueError: This process is not in it.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "group: expected a process group of torch.distributed, got none; start the processes with torchrun and "
                "call torch.distributed.init_process_group() before"
            )
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.count: int = dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError(
                f"group: expected one that this process is in, got one without global rank {dist.get_rank()}; call the "
                "loss on the ranks of its group alone"
            )

    def members(self) -> list[int]:
        """Their global ranks."""
        return dist.get_process_group_ranks(self._group)

    def check_device(self, device: torch.device) -> None:
        """Refuses tensors that the group's backend does not send."""
        self._wire(device)

    def told(self, words: T) -> list[T]:
        """All-gather of a picklable object, by rank."""
        gathered: list[Any] = [None] * self.count
        with self._answers():
            dist.all_gather_object(gathered, words, group=self._group)
        return gathered

    def gathered(self, x: Tensor) -> list[Tensor]:
        """All-gather of a tensor with equal shape and dtype on every rank."""
        sent = x.to(self._wire(x.device)).contiguous()
        received = [torch.empty_like(sent) for _ in range(self.count)]
        with self._answers():
            dist.all_gather(received, sent, group=self._group)
        return [y.to(x.device) for y in received]

    def exchanged(
        self, given: Mapping[int, Tensor], shapes: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        """Exchanges tensors point to point; returns those for this process, by sender.

        Args:
            given: Tensors to send, by receiver.
            shapes: Shapes to receive, by sender.
            like: A tensor with the dtype and device of all of them.
        """
        wire = self._wire(like.device)
        received = {rank: torch.empty(*shape, dtype=like.dtype, device=wire) for rank, shape in shapes.items()}
        sent = {rank: x.to(wire).contiguous() for rank, x in given.items()}
        operations = [dist.P2POp(dist.isend, x, group=self._group, group_peer=rank) for rank, x in sent.items()]
        operations += [dist.P2POp(dist.irecv, x, group=self._group, group_peer=rank) for rank, x in received.items()]
        if operations:
            with self._answers():
                for work in dist.batch_isend_irecv(operations):
                    work.wait()
        return {rank: x.to(like.device) for rank, x in received.items()}

    def _wire(self, device: torch.device) -> torch.device:
        """The device to send from: gloo's point-to-point messages are on the CPU."""
        backends = dict(pair.split(":") for pair in dist.get_backend_config(self._group).split(","))
        backend = backends.get(device.type)
        if backend is None:
            raise ValueError(
                f"group: expected one that sends tensors of {device.type}, where the loss is, got one of "
                f"{dist.get_backend_config(self._group)}; move the loss and its images, or initialise another group"
            )
        return torch.device("cpu") if backend == "gloo" else device

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"group: expected an answer of every one of its {self.count} ranks within its timeout, but one of them "
                f"has ended or does not call the loss (this is rank {self.rank}): {error}"
            ) from error
