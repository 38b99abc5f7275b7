"""Losses of images and clips sharded over processes, by torch.distributed."""

from .sharded import Sharded, sharded

__all__ = ["Sharded", "sharded"]
