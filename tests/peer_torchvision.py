"""torchvision as a peer to compare with."""

from __future__ import annotations

from types import ModuleType

import pytest

from bench import peers


def import_torchvision() -> ModuleType:
    """The torchvision package; skips the calling test or test file where it is not installed."""
    try:
        return peers.import_torchvision()
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed (pip install --no-deps torchvision)", allow_module_level=True)
