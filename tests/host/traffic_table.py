"""What each launcher may move and multiply (tests/host/traffic.py says what the fields of a row are)."""

from __future__ import annotations

from math import prod
from types import ModuleType

import torch
from maps import LAYOUTS, random_map

from host import (
    cases_activation,
    cases_gram,
    cases_loss_scale,
    cases_pointwise,
    traffic_channel_statistics,
    traffic_dists,
    traffic_lpips,
)
from host.cases_activation import Window
from host.memory import element
from host.traffic import HEAD, Bytes, Row, Shapes
from host.worker import Launch

DTYPES = (torch.bfloat16, torch.float32)
BOTH = ("nchw", "nhwc")
ON_TENSOR_CORES = {torch.bfloat16: 1, torch.float32: 3}
FP32 = 4  # bytes of an accumulator
# Small maps that fill a device are cut into many partial sums, which the L2 holds.
STREAM_K = 1.15


def maps(shapes: Shapes, size: int) -> int:
    """Bytes of the features of every layer."""
    return size * sum(map(prod, shapes))


def matrices(shapes: Shapes) -> int:
    """Bytes of a Gram matrix for every layer and sample."""
    return FP32 * sum(shape[0] * shape[1] ** 2 for shape in shapes)


def numbers(shapes: Shapes, *names: str) -> Bytes:
    """One number a sample."""
    return {name: shapes[0][0] * FP32 for name in names}


def gram_workspace(module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    sizes = [(n, c, h * w, c * h * w, h * w, 1) for n, c, h, w in shapes]
    return dict(zip(("partial", "slots", "arrivals"), module.workspace(element(dtype), sizes), strict=True))


def narrow_workspace(module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    """S in 16 bits."""
    rows = sum(shape[0] * shape[1] for shape in shapes)
    return {"narrow": matrices(shapes) // 2, "scale": FP32 * rows} if dtype == torch.bfloat16 else {}


def feature_workspace(module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    batch, size = shapes[0][0], prod(shapes[0][1:])
    return {"partial": FP32 * module.blocks(element(dtype), size, batch), "arrivals": 4 * 2 * batch}


def variation_workspace(module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    batch, channels, height, width = shapes[0]
    rows = (batch, channels, height, width, 1, channels * height * width)
    return {"partial": FP32 * batch * module.slots(rows), "arrivals": 4 * batch}


def feature_loss(wanted: str, dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    batch, size = shapes[0][0], prod(shapes[0][1:])
    return cases_pointwise.feature_loss(dtype, "mse", wanted, batch, [(size, batch, 0, 0)], True)[0]


def variation(wanted: str, dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases_pointwise.total_variation(dtype, "l1", wanted, layout, shapes[0], 0, 0, True)[0]


def relu_bytes(shapes: Shapes, size: int, *names: str) -> Bytes:
    """Maps that are read or written, and the bits of one."""
    return {**{name: maps(shapes, size) for name in names}, "signs": maps(shapes, 1) // 8}


def pool_bytes(shapes: Shapes, size: int, window: Window, covered: bool) -> Bytes:
    """The map, or what of it the windows cover, the pooled map, and four bits a window."""
    kind, kernel, stride = window
    (batch, channels, *sides), step = shapes[0], 1 if kind == "blur" else stride
    windows = [(side - kernel) // step + 1 for side in sides]
    pooled = [(count + 1) // stride + 1 for count in windows] if kind == "blur" else windows
    seen = [(count - 1) * step + kernel for count in windows] if covered else sides
    codes = {} if kind == "average" else {"codes": batch * channels * prod(windows) // 2}
    planes = batch * channels * size
    return {"x": planes * prod(seen), "pooled" if covered else "grad": planes * prod(pooled), **codes}


def normalize(dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases_activation.normalize(
        torch.float32, dtype, LAYOUTS[layout](random_map(shapes[0], torch.float32, "cpu"))
    )[0]


def normalize_backward(dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    images = LAYOUTS[layout](random_map(shapes[0], torch.float32, "cpu"))
    return cases_activation.normalize_backward(dtype, images, images.clone(), True)[0]


# Poolings, and what their gradient adds, as cases_activation.Terms names it.
POOLINGS: list[tuple[Window, str]] = [
    (("max", 2, 2), "s"),
    (("max", 3, 2), "stbfm"),
    (("average", 2, 2), "sb"),
    (("blur", 2, 2), "s"),
]

# Those that go with a map that is kept, in one pass.
ONE_PASS: list[Window] = [("max", 2, 2), ("average", 2, 2)]

ROWS = [
    Row(
        "gram",
        lambda dtype, layout, shapes: cases_gram.gram(dtype, layout, shapes)[0],
        lambda shapes, size: {"x": maps(shapes, size), "gram": matrices(shapes)},
        (HEAD,),
        workspace=gram_workspace,
        dtypes=DTYPES,
        layouts=BOTH,
        traffic=STREAM_K,
        flop=lambda shapes: sum(n * c * (c + 1) * h * w for n, c, h, w in shapes),
        passes=ON_TENSOR_CORES,
    ),
    Row(
        "style",
        lambda dtype, layout, shapes: cases_gram.style(dtype, layout, "mse", shapes, 1)[0],
        lambda shapes, size: {
            "x": maps(shapes, size),
            "target": matrices([(1, *shape[1:]) for shape in shapes]),
            "slopes": matrices(shapes),
            "values": len(shapes) * shapes[0][0] * FP32,
            **numbers(shapes, "loss"),
        },
        (HEAD,),
        workspace=gram_workspace,
        dtypes=DTYPES,
        layouts=BOTH,
        traffic=STREAM_K,
        flop=lambda shapes: sum(n * c * (c + 1) * h * w for n, c, h, w in shapes),
        passes=ON_TENSOR_CORES,
    ),
    *[
        Row(
            "gram_gradient",
            lambda dtype, layout, shapes, added=added: cases_gram.gram_gradient(
                dtype, layout, shapes, True, range(len(shapes)) if added else ()
            )[0],
            lambda shapes, size, added=added: {
                **{name: maps(shapes, size) for name in ("x", "dx", *added)},
                "slopes": matrices(shapes),
                **numbers(shapes, "grad"),
            },
            (HEAD,),
            workspace=narrow_workspace,
            dtypes=DTYPES,
            layouts=BOTH,
            flop=lambda shapes: sum(2 * n * c * c * h * w for n, c, h, w in shapes),
            passes=ON_TENSOR_CORES,
            variant=variant,
        )
        for variant, added in [("", ()), ("added", ("other",))]
    ],
    Row(
        "symmetrise",
        lambda dtype, layout, shapes: cases_gram.symmetrise(dtype, shapes[0][0], shapes[0][1])[0],
        lambda shapes, size: {"slopes": matrices(shapes), "symmetric": matrices(shapes)},
        (("relu1_2",), ("relu4_3",)),
    ),
    *[
        Row(
            "feature_loss",
            lambda dtype, layout, shapes, wanted=wanted: feature_loss(wanted, dtype, layout, shapes),
            lambda shapes, size, buffers=buffers, results=results: {
                **{name: maps(shapes, size) for name in buffers},
                **numbers(shapes, *results),
            },
            (("relu3_3",),),
            workspace=feature_workspace if "values" in results else lambda *_: {},
            dtypes=DTYPES,
            variant=wanted,
        )
        for wanted, buffers, results in [
            ("value", ("x", "y"), ("values", "loss", "grad")),
            ("gradient", ("x", "y", "dx"), ("grad",)),
            ("both", ("x", "y", "dx"), ("values", "loss", "grad")),
        ]
    ],
    *[
        Row(
            "total_variation",
            lambda dtype, layout, shapes, wanted=wanted: variation(wanted, dtype, layout, shapes),
            lambda shapes, size, buffers=buffers, results=results: {
                **{name: maps(shapes, size) for name in buffers},
                **numbers(shapes, *results),
            },
            (("image",),),
            workspace=variation_workspace if "values" in results else lambda *_: {},
            dtypes=DTYPES,
            layouts=BOTH,
            variant=wanted,
        )
        for wanted, buffers, results in [
            ("value", ("x",), ("values", "grad")),
            ("gradient", ("x", "dx"), ("grad",)),
            ("both", ("x", "dx"), ("values", "grad")),
        ]
    ],
    Row(
        "normalize",
        normalize,
        lambda shapes, size: {
            "images": maps(shapes, FP32),
            "result": maps(shapes, size),
            **{name: FP32 * shapes[0][1] for name in ("scale", "shift")},
        },
        (("image",),),
        dtypes=DTYPES,
        layouts=BOTH,
    ),
    Row(
        "normalize_backward",
        normalize_backward,
        lambda shapes, size: {
            "grad": maps(shapes, size),
            **{name: maps(shapes, FP32) for name in ("add", "result")},
            "scale": FP32 * shapes[0][1],
            **numbers(shapes, "factor"),
        },
        (("image",),),
        dtypes=DTYPES,
        layouts=BOTH,
    ),
    Row(
        "bias_relu",
        lambda dtype, layout, shapes: cases_activation.bias_relu(dtype, shapes[0], 0, "narrow", True)[0],
        lambda shapes, size: {**relu_bytes(shapes, size, "x"), "bias": size * shapes[0][1]},
        (("relu1_2",), ("relu4_3",)),
        dtypes=DTYPES,
        layouts=("nhwc",),
    ),
    *[
        Row(
            "bias_relu_backward",
            lambda dtype, layout, shapes, terms=terms: cases_activation.bias_relu_backward(dtype, shapes[0], 0, terms)[
                0
            ],
            lambda shapes, size, buffers=buffers: {
                **relu_bytes(shapes, size, "grad", *buffers),
                **(numbers(shapes, "factor", "maxima") if buffers else {}),
            },
            (("relu1_2",), ("relu4_3",)),
            dtypes=DTYPES,
            layouts=("nhwc",),
            variant=variant,
        )
        for variant, terms, buffers in [("alone", "", ()), ("with_all", "tbfm", ("tap", "below"))]
    ],
    *[
        Row(
            "bias_relu_pool",
            lambda dtype, layout, shapes, window=window: cases_activation.bias_relu_pool(
                dtype, window, shapes[0], 0, "narrow", True, True
            )[0],
            lambda shapes, size, window=window: {
                **pool_bytes(shapes, size, window, covered=True),
                "bias": size * shapes[0][1],
            },
            (("relu1_2",),),
            dtypes=DTYPES,
            layouts=("nhwc",),
            variant="{}{}s{}".format(*window),
        )
        for window, _ in POOLINGS
    ],
    *[
        Row(
            "bias_relu_pool_in_place",
            lambda dtype, layout, shapes, window=window: cases_activation.bias_relu_pool_in_place(
                dtype, window, shapes[0], 0, "narrow", (True, True)
            )[0],
            lambda shapes, size, window=window: {
                **pool_bytes(shapes, size, window, covered=True),
                **relu_bytes(shapes, size, "x"),
                "bias": size * shapes[0][1],
            },
            (("relu1_2",),),
            dtypes=DTYPES,
            layouts=("nhwc",),
            variant="{}{}s{}".format(*window),
        )
        for window in ONE_PASS
    ],
    *[
        Row(
            "bias_relu_pool_backward",
            lambda dtype, layout, shapes, window=window, terms=terms: cases_activation.bias_relu_pool_backward(
                dtype, window, shapes[0], 0, terms
            )[0],
            lambda shapes, size, window=window, terms=terms: {
                **pool_bytes(shapes, size, window, covered=False),
                **relu_bytes(shapes, size, *(["below"] if "b" in terms else [])),
                **(numbers(shapes, "factor", "maxima") if "f" in terms else {}),
            },
            (("relu1_2",),),
            dtypes=DTYPES,
            layouts=("nhwc",),
            variant="{}{}s{}".format(*window),
        )
        for window, terms in POOLINGS
    ],
    Row(
        "loss_scale",
        lambda dtype, layout, shapes: cases_loss_scale.loss_scale(shapes[0][0], "sbgn", 2)[0],
        lambda shapes, size: {
            **numbers(shapes, "scale", "bound"),
            "taps": 2 * FP32 * shapes[0][0],
            "grown": FP32,
            "grows": FP32,
            "result": 4 * FP32 * shapes[0][0],
        },
        (("image",),),
    ),
    *traffic_lpips.ROWS,
    *traffic_dists.ROWS,
    *traffic_channel_statistics.ROWS,
]
