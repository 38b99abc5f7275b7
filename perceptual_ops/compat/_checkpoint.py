"""Checkpoints of a project written while its modules held the peer's loss."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

logger = logging.getLogger(__name__)


class DropsPeerState(nn.Module):
    """A module without state of its own that loads, strictly too, where its peer's parameters and buffers stood.

    Attributes:
        peer_keys: Matches the keys of the peer's state dict, whole. Others are unexpected as ever.
    """

    peer_keys: ClassVar[re.Pattern[str]]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, torch.Tensor], prefix: str, *settings: Any, **more: Any
    ) -> None:
        dropped = {
            key for key in state_dict if key.startswith(prefix) and self.peer_keys.fullmatch(key.removeprefix(prefix))
        }
        if dropped:
            logger.debug(
                "%s: %d tensors of the loss that it stands in for are dropped (%s ...)",
                prefix.rstrip(".") or type(self).__name__, len(dropped), min(dropped),
            )  # fmt: skip
        rest = {key: value for key, value in state_dict.items() if key not in dropped}
        super()._load_from_state_dict(rest, prefix, *settings, **more)
