"""Losses that run as CUDA graphs, as their tests make them."""

from __future__ import annotations

from typing import Any

import torch
from perceptual import make
from test_module_trunk import Residual
from torch import nn

import perceptual_ops as po

SIZE = 12


def of_module(module: nn.Module | None = None, **settings: Any) -> po.PerceptualLoss:
    torch.manual_seed(0)
    return po.PerceptualLoss(module or Residual(), **({"content_layers": ["mix"]} | settings))


def small(**settings: Any) -> po.PerceptualLoss:
    return make(**({"content_layers": ["pool1"], "style_layers": None} | settings))


def replays(loss: nn.Module) -> list[int]:
    """Of each graph, the least recently used first."""
    return [captured.replays for captured in loss._trunk.graphs._captured.values()]
