"""The perceptual loss: content, style and total variation over a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn
from typing_extensions import Unpack

from .. import _checks as checks
from ..engine.autograd import graph_loss
from ..engine.perceptual_op import perceptual_loss
from ..names import (
    Distance,
    FeatureDistance,
    FeatureNormalization,
    GramNormalization,
    GramSpan,
    NetworkName,
    Preset,
    Reduction,
    ResizeMode,
    StyleStatistics,
)
from ..networks.weights import WeightSource
from .arguments import LayerWeights, content_or_default, network_of, wanted_layers
from .mask import guides_of, masks_of
from .options import EngineOptions, takes_engine_options
from .perceptual_settings import PerceptualArguments, PerceptualSettings
from .presets import PRESETS
from .sample_weight import Numbers
from .samples import CallOptions, Images, as_batch, first_of, values_of


class PerceptualLoss(PerceptualSettings):
    """Feature, style and total-variation loss of Johnson, Alahi and Fei-Fei 2016, for training and for optimisation.

    For each sample, content_weight * feature_loss + style_weight * style_loss + tv_weight * total_variation, each as in
    `perceptual_ops.ops`; a part whose weight is 0 or whose layers are empty is not computed. Total variation is
    "l2_squared" on the image in [0, 1].

    Arguments are attributes too: a new value holds from the next call on; network, weights, mean, std and drop_tokens
    are fixed. New layers drop the cached target of their part; a new gram_normalize, gram_over, style_statistics or
    normalize_features drops that of style; a new input_size or resize_mode drops both. Under torch.compile every
    new value is compiled again, up to torch's limit (eight): anneal a weight outside of the compiled function.
    torch.export and torch.jit.trace write programs that hold the weights and do not need this library.

    Args:
        network: "vgg11", "vgg13", "vgg16", "vgg19", "alexnet", "squeezenet1_1" or their short names (see
            `load_network`); "convnext_small", "resnet50" or "dinov2_base" (see `networks.published`); or any module: a
            network of `load_network`, or your own, whose features are taken by submodule name (see
            `networks.ModuleFeatures`). A module is copied and frozen; NaN in it is refused, and infinity in its
            parameters. Your own takes images of any number of channels, or of as many as `mean` and `std` have numbers,
            or clips (N, C, D, H, W); grey is repeated for three. Its features may be maps, tokens (N, T, C), whose T
            are the pixels, or vectors (N, C), which are one. Sequences of convolutions, ReLUs and poolings, such as
            torchvision's `vgg16().features`, run like VGG by name (`networks/recognition.py`).
        weights: For a network by name: "imagenet", "stlpips", "random", a path or a state dict (see `load_network`);
            "lvd142m" for "dinov2_base".
        content_layers, style_layers: Layer name -> weight, or a list of names, each with weight 1. None: no such part.
            "default" for content: "relu3_3" of VGG16 and VGG19, "relu3_2" of VGG11 and VGG13, "relu3" of AlexNet,
            "fire5" of SqueezeNet, the logits of ConvNeXt and ResNet, the last tokens of DINOv2; required for a network
            of your own.
        content_weight, style_weight, tv_weight: Weights of the parts.
        content_distance, style_distance: "mse", "l1", "charbonnier", "huber" or "sse" (see `style_loss`); of content
            also "cosine" (see `feature_loss`).
        gram_normalize: "none", "hw" or "chw" (see `gram_matrix`).
        gram_over: What a Gram of clips (N, 3, T, H, W) is summed over. "frame": each frame has its own. "clip": over T,
            H and W, with T * H * W in place of H * W in gram_normalize, as in NVIDIA's Cosmos tokenizer; a clip longer
            than `chunk_size` then goes through the network twice, and a style that is a clip has one Gram too, of any
            length. Content and total variation are means over frames in both. Images are not affected.
        style_statistics: What styles are compared by: "gram" (Gatys et al.); "mean_std", a layer's distance being that
            of the means of its channels plus that of their standard deviations (Li et al. 2017; see
            `channel_statistics`); "both", the sum of the two (Galerne et al. 2022). gram_over applies to all of them. A
            `mask`, or masks of styles, need "gram".
        normalize_features: "channel": the channels of each pixel, or of each token, are divided by their length before
            both parts, as LPIPS does; "none".
        input_range: Values of black and white in the images, (0, 1), (-1, 1) or (0, 255) as a rule. Not checked: an
            output in training may overshoot.
        input_size: The size to which all images are brought before the network, a number of pixels or (height, width).
            None: as they come. Total variation is of the images as they come.
        resize_mode: How they are brought to it: "bilinear" or "bicubic", antialiased, or "center_crop" or
            "random_crop". A crop is the same for the whole batch of output and target, and drawn at each call from
            torch's generator of the CPU.
        drop_tokens: How many tokens, class and registers, are dropped from the front of features (N, T, C) of your own
            module.
        reduction: "mean" or "sum" over the batch, or "none".
        mean, std: Normalisation of an image in [0, 1], a number for each channel or one for all. None: the network's
            own; ImageNet's for a network by name, none for your own module.
        eps, delta: Parameters of "charbonnier" and "huber" (see `style_loss`).
        options: Options of the engine, see `losses.EngineOptions`.

    Raises:
        TypeError, ValueError: Invalid argument; the message names it.
        OSError, ModuleNotFoundError: Weights are not available; the message says where to put them.
    """

    @takes_engine_options
    def __init__(
        self,
        network: NetworkName | nn.Module = "vgg16",
        *,
        weights: WeightSource = "imagenet",
        content_layers: LayerWeights | Literal["default"] | None = "default",
        style_layers: LayerWeights | None = None,
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        tv_weight: float = 0.0,
        content_distance: FeatureDistance = "mse",
        style_distance: Distance = "mse",
        gram_normalize: GramNormalization = "chw",
        gram_over: GramSpan = "frame",
        style_statistics: StyleStatistics = "gram",
        normalize_features: FeatureNormalization = "none",
        input_size: int | tuple[int, int] | None = None,
        resize_mode: ResizeMode = "bilinear",
        drop_tokens: int = 0,
        input_range: tuple[float, float] = (0.0, 1.0),
        reduction: Reduction = "mean",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        eps: float = 1e-6,
        delta: float = 1.0,
        **options: Unpack[EngineOptions],
    ) -> None:
        content = wanted_layers("content", content_or_default(content_layers, network), content_weight)
        style = wanted_layers("style", style_layers, style_weight)
        if not content and not style:
            raise ValueError(
                "content_layers, style_layers: expected at least one layer whose part has a weight, got none"
            )
        frozen = network_of(network, weights, {"content_layers": content, "style_layers": style}, drop_tokens)
        super().__init__(
            frozen,
            frozen.mean if mean is None else mean,
            frozen.std if std is None else std,
            input_range,
            **options,
        )
        settings = {  # of the types that PerceptualSettings says
            "content_layers": content, "content_weight": content_weight,
            "style_layers": style, "style_weight": style_weight,
            "tv_weight": tv_weight,
            "eps": eps, "delta": delta,
            "content_distance": content_distance, "style_distance": style_distance,
            "gram_normalize": gram_normalize, "gram_over": gram_over,
            "style_statistics": style_statistics, "normalize_features": normalize_features,
            "input_size": input_size, "resize_mode": resize_mode,
            "reduction": reduction,
        }  # fmt: skip
        for name, value in settings.items():
            setattr(self, name, value)

    @classmethod
    def preset(cls, name: Preset, **overrides: Unpack[PerceptualArguments]) -> PerceptualLoss:
        """The loss of a published system; any argument of the constructor may be overridden.

        Args:
            name: "johnson-style": pytorch/examples' fast neural style. "johnson-sr": Johnson et al. 2016's
                super-resolution. "gatys": L. Gatys' PyTorch implementation. "srgan": Ledig et al. 2017, VGG19 conv5_4.
                "esrgan": Real-ESRGAN's five layers, L1. "pix2pixhd": NVIDIA/pix2pixHD, images in [-1, 1]. "titok":
                logits of ConvNeXt-S. "maskbit": logits of ResNet-50. "dino-perceptual": tokens of all blocks of
                DINOv2-B, images in [-1, 1]. "pixelgen": last tokens of DINOv2-B, cosine, images in [-1, 1]. The numbers
                and their sources are in `losses/presets.py`.
            overrides: Arguments of `PerceptualLoss`.

        Raises:
            ValueError: Unknown name.
        """
        checks.check_choice("name", name, tuple(PRESETS))
        arguments: PerceptualArguments = {**PRESETS[name], **overrides}
        return cls(**arguments)

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, output: Images, target: Images | None = None, style: Images | None = None, *,
            return_terms: Literal[False] = False, **others: Unpack[CallOptions],
        ) -> Tensor: ...  # fmt: skip

        @overload
        def __call__(
            self, output: Images, target: Images | None = None, style: Images | None = None, *,
            return_terms: Literal[True], **others: Unpack[CallOptions],
        ) -> tuple[Tensor, dict[str, Tensor]]: ...  # fmt: skip

        @overload
        def __call__(
            self, output: Images, target: Images | None = None, style: Images | None = None, *,
            return_terms: bool = False, **others: Unpack[CallOptions],
        ) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...  # fmt: skip

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """The loss of a batch of images, of a list of them, or of clips; `forward` says more.

            Args:
                output: Images (N, 3 or 1, H, W) in input_range, clips (N, 3 or 1, T, H, W), or a list of N of either,
                    of any sizes; the gradient flows to them.
                target: Content images, shaped like the output or with a batch of 1. Default: those of `set_content`.
                style: Style images. Default: those of `set_style`.
                return_terms: Whether to return the terms too.
                frames: Whether to return the numbers of each frame instead of their mean; for reduction="none".
                sample_weight: (N,) numbers by which the values of the samples are multiplied.
                mask: (N or 1, 1, H, W) in [0, 1], which pixels are compared; (N or 1, 1, T or 1, H, W) of clips.

            Returns:
                A scalar, or (N,) for reduction="none", (N, T) with frames; fp32 (fp64 for a network in fp64). With
                return_terms also a dict of detached values.
            """

    def forward(
        self,
        output: Images,
        target: Images | None = None,
        style: Images | None = None,
        *,
        return_terms: bool = False,
        frames: bool = False,
        sample_weight: Numbers | None = None,
        mask: Images | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of images, of a list of them, or of clips.

        A network of images (by name, or a sequence of plain layers) sees a clip frame by frame, `chunk_size` frames at
        a time, and the value of a clip is the mean over its frames, total variation included, but for the style of
        gram_over="clip". `input_size` is that of a frame; a random crop is the same for all. A single clip is not
        copied; a batch of clips is copied once, unless its frames are contiguous in memory, as in `frames.transpose(1,
        2)` of (N, T, C, H, W). A module of your own is given clips as they are: to one of images pass
        `clip.transpose(1, 2).flatten(0, 1)`.

        Args:
            output: Images (N, 3, H, W), or (N, 1, H, W) for grey, in input_range; the gradient flows to them. Or clips
                (N, 3, T, H, W), or (N, 1, T, H, W). Or a list of N images (3, H, W) or (1, 3, H, W), or of clips
                (1, 3, T, H, W), of any sizes: those of one size run as a batch (and have a random crop in common).
                Compiled code is compiled anew for other sizes.
            target: Content images, shaped like the output or with a batch of 1; a list for a list. Default: those of
                `set_content`. The gradient flows to them if they require it.
            style: Style images as in `set_style`. Default: those of `set_style`. No gradient flows to them.
            return_terms: Whether to return the terms too.
            frames: Whether to return the numbers of each frame instead of their mean; for reduction="none", and where
                no Gram is over clips.
            sample_weight: (N,) numbers w, a list, a NumPy array or a tensor, by which the values of the samples and
                their terms are multiplied before the reduction: "mean" gives (w_1 loss_1 + ... + w_N loss_N) / N.
                Samples of weight 0 do not run: their gradient is 0, whatever they hold, and the others' are those of a
                batch without them. This takes numbers that the host knows: a list or a tensor of the CPU costs nothing,
                for a CUDA tensor the host waits for the device once. In compiled code, programs and CUDA graphs that
                you capture the numbers of a tensor are not known, so all samples run; those of a list are constants,
                compiled anew for others. All run, too, for weights that require grad, whose gradient is the values.
            mask: Which pixels are compared: (N or 1, 1, H, W) in [0, 1], of the output's size, floating point or bool;
                of clips (N or 1, 1, T or 1, H, W), one of each frame; a list for a list. No gradient flows to it. It
                comes to the map of each layer by area averages (`adaptive_avg_pool2d`); by `input_size` it is averaged,
                or cropped, first. Content is the mean over the pixels with the mask as their weight ("sse" their sum).
                Style has guided Grams (Gatys et al. 2017), those of features times the mask, whose number of pixels is
                the sum of the mask's squares. So a mask that is the same everywhere changes nothing, but for "sse" and
                gram_normalize="none". Where the mask of a sample is empty a part is 0, and so is its gradient. Total
                variation is of the whole image. Features have to be maps (N, C, H', W') of images. That numbers are in
                [0, 1] is checked on a CPU, outside of compiled code; a NaN makes a NaN.

        Returns:
            A scalar, or (N,) for reduction="none", (N, T) with frames; fp32 (fp64 for a network in fp64). With
            return_terms also a dict of detached values shaped like the loss: "content", "style", "tv" weighted, and
            "content/<layer>", "style/<layer>" unweighted.

        Raises:
            TypeError, ValueError: Images of a wrong type, shape, device or size, or a target that is missing.
        """
        output = self.checked_samples("output", output, self.network_layers)
        target, contents = self._content_targets(output, target)
        grams = self._style_targets(output, style)
        masks = masks_of(self, mask, output)
        counts = len(contents), len(grams)
        of_images = partial(self._of_images, style=style, counts=counts, return_terms=return_terms)
        images = [output] if target is None else [output, target]
        over_clips = self.gram_over == "clip" and bool(self.style_layers) and self.is_clip(first_of(output))
        if over_clips and checks.check_flag("frames", frames):
            raise ValueError(
                'frames: expected False for gram_over="clip", whose style has no value for each frame; got True; set '
                'gram_over="frame"'
            )
        self.check_guides([*masks, *self._regions(style)[0]])
        beside = [*contents, *grams, *masks]
        loss, *terms = values_of(self, of_images, images, beside, frames, sample_weight, takes_clips=over_clips)
        if not return_terms:
            return loss
        return loss, {name: value.detach() for name, value in zip(self.terms().names, terms, strict=True)}

    def _of_images(
        self,
        images: list[Tensor],
        beside: list[Tensor],
        style: object,
        counts: tuple[int, int],
        return_terms: bool,
    ) -> list[Tensor]:
        """An `OfImages`: the loss (M), and its terms, of output and target, or of output and kept targets.

        Or of clips, whose Grams are over all frames. Beside them are features and Grams, by their counts, and the mask,
        if there is one.
        """
        output, target = images if len(images) == 2 else (images[0], None)
        contents, others = beside[: counts[0]], beside[counts[0] :]
        grams, masks = others[: counts[1]], others[counts[1] :]
        size, (regions, shares) = self._size_of_call(output), self._regions(style)
        terms = self.terms(shares, self.is_clip(output))
        if terms.of_clips:
            masks = [as_batch(mask, output.shape[0], output.shape[2]) for mask in masks]  # of all frames
        mask = size.of_mask(masks[0], output) if masks else None
        guides = guides_of(mask, [size.of_mask(region, output) for region in regions])
        if terms.variation and not terms.of_clips and output.dim() != 4:
            raise ValueError(f"tv_weight: expected 0 for clips, which have no total variation; got {self.tv_weight}")
        if self.runs_lean(output=output, target=target):
            trunk_input = self.trunk_input(output, size)
            loss, values = perceptual_loss(output, target, contents, grams, trunk_input, terms, mask, guides)
        else:
            features = partial(self.features, input_size=size)
            settings = self._graph_chunk, self.backend, mask, guides
            loss, values = graph_loss(terms, features, output, target, contents, grams, *settings)
        return [loss, *values.values()] if return_terms else [loss]
