"""Losses of images and clips that lie in parts on several processes, by torch.distributed."""

from .sharded import Sharded, sharded

__all__ = ["Sharded", "sharded"]
