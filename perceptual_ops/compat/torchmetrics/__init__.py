"""torchmetrics' metrics (torchmetrics/image/lpip.py, dists.py and tv.py, 1.9.0), classes and functions.

A class is a `torchmetrics.Metric` where torchmetrics can be imported, else a module with update, compute, reset and
forward, not synchronised between processes. scores.py is what they share.
"""

from .dists import DeepImageStructureAndTextureSimilarity, deep_image_structure_and_texture_similarity
from .lpips import LearnedPerceptualImagePatchSimilarity, learned_perceptual_image_patch_similarity
from .variation import TotalVariation, total_variation

__all__ = [
    "DeepImageStructureAndTextureSimilarity",
    "LearnedPerceptualImagePatchSimilarity",
    "TotalVariation",
    "deep_image_structure_and_texture_similarity",
    "learned_perceptual_image_patch_similarity",
    "total_variation",
]
