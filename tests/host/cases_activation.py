"""The launches of a trunk's activations; see cases.py. Oracle: activation_reference.py."""

from __future__ import annotations

import numpy as np
import torch
from maps import assert_accurate, random_map
from torch import Tensor

from host.cases import Check
from host.memory import OUTSIDE, accumulator, assert_untouched_outside, element, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import activation_reference as oracle
from perceptual_ops.activation_reference import code_bits, packed, pooled, pooled_backward

Shape = tuple[int, int, int, int]
Window = tuple[str, int, int]  # kind, kernel, stride
View = tuple[np.ndarray, int, tuple[int, ...]]  # memory, offset, strides


def nhwc(values: Tensor, before: int = 0) -> Tensor:
    """The same numbers in channels_last, `before` elements into memory that is not to be touched."""
    batch, channels, height, width = values.shape
    memory = torch.full((before + values.numel() + 3,), OUTSIDE, dtype=values.dtype)
    view = memory[before : before + values.numel()].view(batch, height, width, channels).permute(0, 3, 1, 2)
    return view.copy_(values)


def coarse(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Multiples of a quarter: many are equal or zero, and their sums are exact in every dtype."""
    return (random_map(shape, torch.float64, "cpu", seed) * 4).round().div(4).to(dtype)


def _view(x: Tensor) -> View:
    return memory_of(x), x.storage_offset(), x.stride()


def _maybe(x: Tensor | None) -> np.ndarray | None:
    return None if x is None else memory_of(x)


def _bias(dtype: torch.dtype, channels: int, kind: str | None) -> tuple[Tensor | None, dict[str, np.ndarray | None]]:
    """A bias in the dtype of the maps ("narrow"), of sums ("wide"), or none, and the arguments that say so.

    "infinite": that in the dtype of the maps, of the first channel an infinity.
    """
    if kind == "infinite":
        bias, arguments = _bias(dtype, channels, "narrow")
        bias[0] = torch.inf
        return bias, {**arguments, "narrow": memory_of(bias)}
    if kind == "wide" and dtype == accumulator(dtype):
        kind = "narrow"
    bias = coarse((channels,), dtype if kind == "narrow" else accumulator(dtype), 7) if kind else None
    return bias, {name: _maybe(bias) if name == kind else None for name in ("narrow", "wide")}


def assert_accurate_but_for_nan(ours: Tensor, naive: Tensor, exact: Tensor) -> None:
    assert torch.equal(ours.isnan(), exact.isnan()), "NaN elsewhere"
    assert_accurate(*(torch.where(exact.isnan(), 0, x) for x in (ours, naive, exact)))


def normalize(image_dtype: torch.dtype, dtype: torch.dtype, images: Tensor) -> tuple[Launch, Check]:
    images = images if images.dtype == image_dtype else images.to(image_dtype)
    wide = torch.float64 if torch.float64 in (image_dtype, dtype) else torch.float32
    scale, shift = (random_map(images.shape[1:2], wide, "cpu", seed) for seed in (5, 6))
    arguments = {
        "image_element": element(image_dtype),
        "element": element(dtype),
        "shape": tuple(images.shape),
        "images": _view(images),
        "scale": memory_of(scale),
        "shift": memory_of(shift),
    }

    def check(outputs: Outputs) -> None:
        ours = like_view(outputs[0], torch.empty(images.shape).contiguous(memory_format=torch.channels_last).to(dtype))
        naive = oracle.affine(images.to(wide), scale, shift).to(dtype)
        assert_accurate(ours, naive, oracle.affine(images.double(), scale.double(), shift.double()))

    return Launch("activation", "normalize", arguments), check


def normalize_backward(
    dtype: torch.dtype, result: Tensor, add: Tensor | None, with_factor: bool
) -> tuple[Launch, Check]:
    """`result`: the view that is written."""
    shape, wide = tuple(result.shape), accumulator(dtype)
    grad = nhwc(random_map(shape, dtype, "cpu", 1))
    scale, factor = random_map(shape[1:2], wide, "cpu", 5), random_map(shape[:1], wide, "cpu", 3)
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "grad": memory_of(grad),
        "scale": memory_of(scale),
        "factor": memory_of(factor) if with_factor else None,
        "add": None if add is None else _view(add),
        "result": _view(result),
    }

    def expected(type_: torch.dtype) -> Tensor:
        upstream = factor.to(type_).view(-1, 1, 1, 1) if with_factor else 1
        value = upstream * scale.to(type_).view(-1, 1, 1) * grad.to(type_)
        return value if add is None else value + add.to(type_)

    def check(outputs: Outputs) -> None:
        assert_accurate(like_view(outputs[0], result), expected(wide), expected(torch.float64))
        assert_untouched_outside(outputs[0], result)

    return Launch("activation", "normalize_backward", arguments), check


def bias_relu(
    dtype: torch.dtype, shape: Shape, before: int, bias_kind: str | None, with_signs: bool
) -> tuple[Launch, Check]:
    values = coarse(shape, dtype, 1)
    values.view(-1)[5 :: values[0].numel() // 2 + 1] = torch.nan
    x, (bias, biases) = nhwc(values, before), _bias(dtype, shape[1], bias_kind)
    arguments = {"element": element(dtype), "shape": shape, "x": memory_of(x), "before": before, **biases}

    def check(outputs: Outputs) -> None:
        exact = oracle.biased(values.double(), None if bias is None else bias.double())
        ours = like_view(outputs[0], x)
        result = torch.where(oracle.passes(exact), exact, 0)
        assert_accurate_but_for_nan(ours, result.to(dtype), result)
        assert_untouched_outside(outputs[0], x)
        if with_signs:
            signs = torch.from_numpy(outputs[1]).view(shape[0], -1)
            assert torch.equal(signs, packed(oracle.passes(exact), 1)), "signs"

    return Launch("activation", "bias_relu", {**arguments, "signs": with_signs}), check


class Terms:
    """What a backward pass makes of a gradient, by letters: s(igns), t(ap), b(elow), f(actor), m(axima).

    What the signs hold back is NaN or an infinity in the tap.
    """

    def __init__(self, dtype: torch.dtype, shape: Shape, which: str, before: int = 0) -> None:
        self.dtype, self.which, self.wide = dtype, which, accumulator(dtype)
        self.signs = random_map(shape, torch.float64, "cpu", 11) > 0
        spoilt = torch.where(self.signs, random_map(shape, dtype, "cpu", 12), torch.tensor(torch.nan, dtype=dtype))
        self.tap = nhwc(spoilt if "s" in which else random_map(shape, dtype, "cpu", 12), before)
        self.below = nhwc(random_map(shape, dtype, "cpu", 13)) if "b" in which else None
        self.factor = random_map(shape[:1], self.wide, "cpu", 14) if "f" in which else None

    def arguments(self) -> dict[str, np.ndarray | None]:
        zeros = torch.zeros(self.tap.shape[0], dtype=self.wide)
        return {
            "signs": memory_of(packed(self.signs, 1)) if "s" in self.which else None,
            "below": _maybe(self.below),
            "factor": _maybe(self.factor),
            "maxima": zeros.numpy() if "m" in self.which else None,
        }

    def of(self, gradient: Tensor) -> Tensor:
        """In the dtype of the gradient."""
        type_ = gradient.dtype
        value = gradient if self.factor is None else gradient * self.factor.to(type_).view(-1, 1, 1, 1)
        value = value + self.tap.to(type_) if "t" in self.which else value
        value = torch.where(self.signs, value, 0) if "s" in self.which else value
        return value if self.below is None else value + self.below.to(type_)

    def check(self, outputs: Outputs, view: Tensor, naive: Tensor, exact: Tensor) -> None:
        """Of the map that was written, a view, and of its maxima."""
        ours = like_view(outputs[0], view)
        assert_accurate(ours, self.of(naive).to(self.dtype), self.of(exact))
        assert_untouched_outside(outputs[0], view)
        if "m" in self.which:
            assert torch.equal(torch.from_numpy(outputs[1]), ours.abs().flatten(1).amax(1).to(self.wide)), "maxima"


def bias_relu_backward(dtype: torch.dtype, shape: Shape, before: int, which: str) -> tuple[Launch, Check]:
    terms = Terms(dtype, shape, "s" + which)
    values = torch.where(terms.signs, random_map(shape, dtype, "cpu", 1), torch.tensor(torch.inf, dtype=dtype))
    grad = nhwc(values, before)
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "grad": memory_of(grad),
        "before": before,
        "tap": memory_of(terms.tap) if "t" in which else None,
        **terms.arguments(),
    }

    def check(outputs: Outputs) -> None:
        terms.check(outputs, grad, values.to(terms.wide), values.double())

    return Launch("activation", "bias_relu_backward", arguments), check


def nan_maximum(dtype: torch.dtype) -> tuple[Launch, Check]:
    """NaN that passes is a sample's maximum, in whichever block it lies; the other samples keep theirs."""
    launch, _ = bias_relu_backward(dtype, (2, 8, 40, 40), 0, "m")
    memory = torch.from_numpy(launch.arguments["grad"]).view(dtype)
    memory[: 2 * 8 * 1600] = 1
    memory[37] = torch.nan
    launch.arguments["signs"][:] = 255

    def check(outputs: Outputs) -> None:
        assert str(outputs[1].tolist()) == "[nan, 1.0]"

    return launch, check


def bias_relu_pool(
    dtype: torch.dtype, window: Window, shape: Shape, before: int, bias_kind: str | None, relu: bool, with_codes: bool
) -> tuple[Launch, Check]:
    kind, kernel, stride = window
    values = coarse(shape, dtype, 1)
    values.view(-1)[5 :: values[0].numel() // 2 + 1] = torch.nan
    if bias_kind == "infinite":
        values[:, 0, ::2, ::2] = -torch.inf  # in every window one: with the bias it is NaN
    x, (bias, biases) = nhwc(values, before), _bias(dtype, shape[1], bias_kind)
    with_codes = with_codes and kind != "average"
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "window": window,
        "x": memory_of(x),
        "before": before,
        "relu": relu,
        "codes": with_codes,
        **biases,
    }

    def expected(type_: torch.dtype) -> tuple[Tensor, Tensor]:
        biased = oracle.biased(values.to(type_), None if bias is None else bias.to(type_))
        return pooled(biased, kind, kernel, stride, relu)

    def check(outputs: Outputs) -> None:
        naive, (exact, codes) = expected(accumulator(dtype))[0].to(dtype), expected(torch.float64)
        ours = like_view(outputs[0], nhwc(exact.to(dtype)))
        assert_accurate_but_for_nan(ours, naive, exact)
        if with_codes:
            mine = torch.from_numpy(outputs[1]).view(shape[0], -1)
            assert torch.equal(mine, packed(codes, code_bits(kernel))), "codes"

    return Launch("activation", "bias_relu_pool", arguments), check


def bias_relu_pool_in_place(
    dtype: torch.dtype, window: Window, shape: Shape, before: int, bias_kind: str | None, kept: tuple[bool, bool]
) -> tuple[Launch, Check]:
    """`kept`: whether signs are, and codes. The map is rounded before it is pooled, which makes elements equal."""
    kind, kernel, stride = window
    values = random_map(shape, dtype, "cpu", 1)
    values.view(-1)[5 :: values[0].numel() // 2 + 1] = torch.nan
    x, (bias, biases) = nhwc(values, before), _bias(dtype, shape[1], bias_kind)
    with_signs, with_codes = kept[0], kept[1] and kind != "average"
    arguments = {"element": element(dtype), "shape": shape, "window": window, "x": memory_of(x), "before": before}
    kept_arguments = {"signs": with_signs, "codes": with_codes}

    def check(outputs: Outputs) -> None:
        exact = oracle.biased(values.to(accumulator(dtype)), None if bias is None else bias.to(accumulator(dtype)))
        passes = oracle.passes(exact)
        expected = torch.where(passes, exact, 0).to(dtype)
        map_, pooled_map, *bits = outputs
        assert torch.equal(like_view(map_, x).nan_to_num(7), expected.nan_to_num(7)), "map"
        assert_untouched_outside(map_, x)
        result, codes = pooled(expected.double(), kind, kernel, stride, False)
        naive = pooled(expected, kind, kernel, stride, False)[0]
        assert_accurate_but_for_nan(like_view(pooled_map, nhwc(naive)), naive, result)
        expected_bits = [packed(passes, 1)] * with_signs + [packed(codes, code_bits(kernel))] * with_codes
        for mine, theirs in zip(bits, expected_bits, strict=True):
            assert torch.equal(torch.from_numpy(mine).view(shape[0], -1), theirs), "signs or codes"

    return Launch("activation", "bias_relu_pool_in_place", {**arguments, **biases, **kept_arguments}), check


def bias_relu_pool_backward(
    dtype: torch.dtype, window: Window, shape: Shape, before: int, which: str
) -> tuple[Launch, Check]:
    kind, kernel, stride = window
    terms = Terms(dtype, shape, which, before)
    x = terms.tap if "t" in which else nhwc(torch.full(shape, torch.nan, dtype=dtype), before)
    result, codes = pooled(coarse(shape, torch.float64, 1), kind, kernel, stride, relu=True)
    grad = nhwc(random_map(tuple(result.shape), dtype, "cpu", 2))
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "window": window,
        "x": memory_of(x),
        "before": before,
        "grad": memory_of(grad),
        "codes": None if kind == "average" else memory_of(packed(codes, code_bits(kernel))),
        "tap": "t" in which,
        **terms.arguments(),
    }

    def expected(type_: torch.dtype) -> Tensor:
        return pooled_backward(grad.to(type_), codes, shape[2:], kind, kernel, stride)

    def check(outputs: Outputs) -> None:
        terms.check(outputs, x, expected(terms.wide), expected(torch.float64))

    return Launch("activation", "bias_relu_pool_backward", arguments), check
