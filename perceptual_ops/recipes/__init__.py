"""Complete uses of the losses: what a user would otherwise write around them."""

from .style_transfer import StyleTransferResult, style_transfer_loss, stylize

__all__ = ["StyleTransferResult", "style_transfer_loss", "stylize"]
