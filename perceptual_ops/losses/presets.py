"""Published settings of PerceptualLoss, by name.

Each reproduces the numbers of its source given the same weights, unless its comment says what differs; see
`PerceptualLoss.preset`.
"""

from __future__ import annotations

from ..names import Preset
from .perceptual_settings import PerceptualArguments

PRESETS: dict[Preset, PerceptualArguments] = {
    # pytorch/examples, fast_neural_style: MSE on relu2_2 and on Grams / (C H W).
    "johnson-style": {
        "network": "vgg16",
        "content_layers": {"relu2_2": 1.0},
        "style_layers": {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0},
        "content_weight": 1e5,
        "style_weight": 1e10,
    },
    # Johnson, Alahi and Fei-Fei 2016, section 4.2: super-resolution with the feature loss at relu2_2.
    "johnson-sr": {"network": "vgg16", "content_layers": {"relu2_2": 1.0}},
    # leongatys/PytorchNeuralStyleTransfer: MSE on relu4_2 and on Grams / (H W), a layer of C channels weighs 1e3 / C^2.
    "gatys": {
        "network": "vgg19",
        "content_layers": {"relu4_2": 1.0},
        "style_layers": {
            "relu1_1": 1e3 / 64**2,
            "relu2_1": 1e3 / 128**2,
            "relu3_1": 1e3 / 256**2,
            "relu4_1": 1e3 / 512**2,
            "relu5_1": 1e3 / 512**2,
        },
        "gram_normalize": "hw",
    },
    # Ledig et al. 2017, VGG5,4: MSE on conv5_4; conv5_4 before its ReLU, as the field uses it.
    "srgan": {"network": "vgg19", "content_layers": {"conv5_4": 1.0}},
    # Real-ESRGAN's training options, in BasicSR's terms; ESRGAN itself (Wang et al. 2018) used conv5_4 alone.
    "esrgan": {
        "network": "vgg19",
        "content_layers": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0},
        "content_distance": "l1",
    },
    # NVIDIA/pix2pixHD: L1; it feeds images in [-1, 1] to the network as they are, without ImageNet's normalisation.
    "pix2pixhd": {
        "network": "vgg19",
        "content_layers": {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0},
        "content_distance": "l1",
        "input_range": (-1.0, 1.0),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    },
    # bytedance/1d-tokenizer, TiTok's second stage: MSE of the logits of ConvNeXt-S at 224 x 224. It weighs 0.1 there,
    # and 0.1 beside LPIPS in TA-TiTok.
    "titok": {"network": "convnext_small", "content_layers": {"output": 1.0}, "input_size": 224},
    # markweberdev/maskbit, MaskBit and VQGAN+: MSE of the logits of ResNet-50 at 224 x 224. It weighs 0.1 there.
    "maskbit": {"network": "resnet50", "content_layers": {"output": 1.0}, "input_size": 224},
    # Na-VAE/dino_perceptual, version="v2": the squared error of all tokens at unit length, of all 12 blocks before the
    # final LayerNorm. It weighs 250 to 1000 beside an L1 loss. Images of more than 512 pixels are first resized there.
    "dino-perceptual": {
        "network": "dinov2_base",
        "weights": "lvd142m",
        "content_layers": {f"hidden_states[{block}]": 1 / 12 for block in range(1, 13)},
        "normalize_features": "channel",
        "input_range": (-1.0, 1.0),
    },
    # Zehong-Ma/PixelGen for images of 256 x 256: 1 - the cosine of the patches' tokens after the final LayerNorm. It
    # weighs 0.01 there. PixelGen resizes without antialiasing, and takes torch.hub's DINOv2, whose positions are
    # interpolated with an offset of 0.1 patches: its numbers are a little different.
    "pixelgen": {
        "network": "dinov2_base",
        "weights": "lvd142m",
        "content_layers": {"last_hidden_state": 1.0},
        "content_distance": "cosine",
        "drop_tokens": 1,
        "input_size": 224,
        "resize_mode": "bicubic",
        "input_range": (-1.0, 1.0),
    },
}
