"""The options of the engine as attributes of a drop-in, whose loss holds them."""

from __future__ import annotations

from .._settings import ModuleWithSettings, passed_on


class HasEngineOptions(ModuleWithSettings):
    """A module over a loss, `_loss`, of whose options each may be set; see `perceptual_ops.losses.EngineOptions`."""

    compute_dtype, chunk_size = passed_on("compute_dtype"), passed_on("chunk_size")
    tile_size = passed_on("tile_size")
    engine, backend = passed_on("engine"), passed_on("backend")
    cuda_graphs = passed_on("cuda_graphs")
