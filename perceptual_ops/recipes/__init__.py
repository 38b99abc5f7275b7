"""Complete uses of the losses: style transfer, inversion, and training of networks."""

from .exported import export_model
from .feed_forward import train_style
from .inversion import invert
from .models import Model, load_model, save_model
from .optimization import DivergenceError, Optimized
from .style_transfer import style_transfer_loss, stylize, stylize_coarse_to_fine
from .super_resolution import train_super_resolution
from .training import Training, TrainingOptions
from .transform_net import StyleNet, SuperResolutionNet

__all__ = [
    "DivergenceError",
    "Model",
    "Optimized",
    "StyleNet",
    "SuperResolutionNet",
    "Training",
    "TrainingOptions",
    "export_model",
    "invert",
    "load_model",
    "save_model",
    "style_transfer_loss",
    "stylize",
    "stylize_coarse_to_fine",
    "train_style",
    "train_super_resolution",
]
