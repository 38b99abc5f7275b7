"""torchvision as a peer to compare with, even where its compiled operators do not fit the installed torch."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

_operators: list[torch.library.Library] = []  # a Library takes its definitions along when it is collected


def import_torchvision() -> ModuleType:
    """The torchvision package; skips the calling test or test file where it is not installed.

    Its usual wheel is built for a CUDA torch: beside a CPU one it cannot load its operators, and the import fails on
    the first it mentions. With two of them defined by name it imports; none of them is ever called.
    """
    try:
        import torchvision
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed (pip install --no-deps torchvision)", allow_module_level=True)
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(library)
        import torchvision
    return torchvision
