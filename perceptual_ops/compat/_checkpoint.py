"""Checkpoints of a project written while its modules held the peer's loss."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

logger = logging.getLogger(__name__)


class DropsPeerState(nn.Module):
    """A module without state of its own that loads, strictly too, where its peer's parameters and buffers stood.

    Attributes:
        peer_keys: Matches the keys of the peer's state dict, whole. Others are unexpected as ever.
    """

    peer_keys: ClassVar[re.Pattern[str]]

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {key: key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        held = {key: name for key, name in own.items() if self.peer_keys.fullmatch(name)}
        if held:
            try:
                self._take_peer_state({name: state_dict[key] for key, name in held.items()}, prefix.rstrip("."))
            except ValueError as error:
                error_msgs.append(str(error))
        rest = {key: value for key, value in state_dict.items() if key not in held}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _take_peer_state(self, state: Mapping[str, Tensor], place: str) -> None:
        """What becomes of the peer's tensors, by their keys there: nothing, where they are what we have anyway.

        `place` is where in the checkpoint they stood, empty for a state dict of the peer alone.
        """
        logger.debug(
            "%s: %d tensors of the loss that it stands in for are dropped (%s ...)",
            place or type(self).__name__, len(state), min(state),
        )  # fmt: skip
