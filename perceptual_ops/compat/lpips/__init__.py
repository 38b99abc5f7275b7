"""The package lpips (0.1.4): its LPIPS, and the helpers that scripts use.

Left out are its baselines L2 and DSSIM, its trainer, and the conversions to Lab: importing one says what to use.
"""

from typing import TYPE_CHECKING

from .._missing import missing_names
from . import lpips
from .helpers import (
    dssim,
    im2tensor,
    l2,
    load_image,
    normalize_tensor,
    np2tensor,
    psnr,
    spatial_average,
    tensor2im,
    tensor2np,
    tensor2vec,
    upsample,
)  # fmt: skip
from .lpips import LPIPS

_LAB = "use skimage.color.rgb2lab and lab2rgb, which convert arrays"
_MISSING = {
    **lpips.MISSING,
    "Trainer": lpips.TRAINED,
    "trainer": lpips.TRAINED,
    "pretrained_networks": lpips.MISSING["pn"],
    "rgb2lab": _LAB,
    "tensor2tensorlab": _LAB,
    "tensorlab2tensor": _LAB,
}
if not TYPE_CHECKING:  # which refuses such names itself
    __getattr__ = missing_names(__name__, _MISSING)

__all__ = [
    "LPIPS",
    "dssim",
    "im2tensor",
    "l2",
    "load_image",
    "lpips",
    "normalize_tensor",
    "np2tensor",
    "psnr",
    "spatial_average",
    "tensor2im",
    "tensor2np",
    "tensor2vec",
    "upsample",
]
