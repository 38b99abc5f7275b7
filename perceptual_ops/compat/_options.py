"""The options of the engine as attributes of a drop-in, whose loss holds them."""

from __future__ import annotations

import torch

from .._settings import Converted, ModuleWithSettings, passed_on
from ..names import Backend, ComputeDtype, Engine, TileSize


class HasEngineOptions(ModuleWithSettings):
    """A module over a loss, `_loss`, of whose options each may be set; see `perceptual_ops.losses.EngineOptions`."""

    compute_dtype: Converted[torch.dtype | None, torch.dtype | ComputeDtype | None] = passed_on("compute_dtype")
    chunk_size: int | None = passed_on("chunk_size")
    tile_size: TileSize | None = passed_on("tile_size")
    engine: Engine = passed_on("engine")
    backend: Backend = passed_on("backend")
    cuda_graphs: bool = passed_on("cuda_graphs")
