"""How a loss runs its frozen network: options that every loss and drop-in takes by keyword, and reads at each call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ParamSpec, TypedDict, cast, get_args, get_type_hints

import torch
from typing_extensions import Unpack

from .. import _checks as checks
from .._settings import Converted, ModuleWithSettings, setting
from ..names import Backend, ComputeDtype, Engine, TileSize

P = ParamSpec("P")

ENGINES: tuple[Engine, ...] = get_args(Engine)
COMPUTE_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(ComputeDtype)}


class EngineOptions(TypedDict, total=False):
    """Keyword arguments that every loss over a network takes besides its own; attributes, too, that may be set later.

    Args:
        compute_dtype: dtype of the arithmetic of a network in fp32: torch.float32, bfloat16 or float16, or its name.
            None: autocast's where it is on, else the network's own. Grams, sums and losses are fp32 at least. In fp16
            the lean engine scales its gradient by powers of two (loss scaling): however small the loss, it does not
            vanish. The convolutions of fp32 are torch's: a GPU rounds what they multiply to TF32 (10 bits), as in any
            other module, unless torch.backends.cudnn.allow_tf32 is False.
        chunk_size: Samples that go through the network at a time. Smaller chunks take less memory; the result is the
            same but for rounding. None: as `engine.batching.default_chunk_size` says for size, dtype and device type;
            the whole batch for "autograd".
        tile_size: Images go through a chain in tiles of about so many pixels on a side, at least four strides of the
            deepest layer, so that any image takes the memory of one tile; value and gradient are the same but for
            rounding. A tile brings along what its windows reach, and where sums over all pixels are compared (style,
            DISTS) tiles go through the network twice, so more time is taken. "auto": as `batching.auto_tile_side` says
            for dtype and device type, twice as large for LPIPS, whose first layers go in tiles of their own. None:
            "auto" for images above 4 megapixels in fp32, 8 in 16 bits; the first layers of LPIPS go in tiles from
            images above two chunks on. It is refused where the whole image is needed: engine="autograd", networks that
            are no chains, spatial maps, values by layer.
        engine: "lean" makes the gradient with respect to the images in the forward, keeps nothing else, and multiplies
            it by the upstream gradient in the backward. So evaluation belongs under torch.no_grad(), or it pays for a
            gradient that nobody uses, and there is no second derivative. "autograd" runs the network through ordinary
            autograd, with the memory that takes, and has derivatives of every order; backend="reference" always takes
            that way. VGG, AlexNet and plain sequences of such layers are
            chains, run by hand, other networks run as the modules that they are, under autograd within the forward, a
            chunk at a time; `print(loss)` says which. A module is never given an empty batch.
        backend: "auto", "native" or "reference" operators (see `perceptual_ops.ops`).
        cuda_graphs: Whether the lean engine on a GPU runs as CUDA graphs, a single launch a call, so that the GPU does
            not wait for the host, as it does on small images. The first call with other shapes, dtypes or settings
            captures one, which takes as long as tens of calls; the last four are kept, and the memory that they share
            with them, beside what torch has in its cache. Images and targets are copied in, results out. A loss that
            cannot be captured, since its network waits for the GPU as `.item()` does, or that is captured again and
            again, since settings change with every call, goes on without graphs and warns once. Setting the option
            again frees the graphs. It changes nothing on a CPU, for "autograd", in compiled code, where
            torch.compile's mode "reduce-overhead" does the same, while another CUDA graph is captured, or under a
            TorchDispatchMode or a transform of torch.func.
    """

    compute_dtype: torch.dtype | ComputeDtype | None
    chunk_size: int | None
    tile_size: TileSize | None
    engine: Engine
    backend: Backend
    cuda_graphs: bool


DEFAULTS: EngineOptions = {
    "compute_dtype": None, "chunk_size": None, "tile_size": None, "engine": "lean", "backend": "auto",
    "cuda_graphs": False,
}  # fmt: skip


def _checked_dtype(name: str, dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = COMPUTE_DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if found is None or (isinstance(found, torch.dtype) and found in COMPUTE_DTYPES.values()):
        return found
    raise ValueError(f"{name}: expected None, torch.float32, float16 or bfloat16, got {dtype!r}")


def _checked_chunk_size(name: str, size: int | None) -> int | None:
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"{name}: expected None or a whole number above 0, got {size!r}")
    return size


def _checked_tile_size(name: str, size: TileSize | None) -> TileSize | None:
    if size is not None and size != "auto" and (type(size) is not int or size < 1):
        raise ValueError(f'{name}: expected None, "auto" or a whole number of pixels above 0, got {size!r}')
    return size


class EngineSettings(ModuleWithSettings):
    """A module that holds the options of the engine."""

    compute_dtype: Converted[torch.dtype | None, torch.dtype | ComputeDtype | None] = setting(
        "compute_dtype", _checked_dtype
    )
    chunk_size: int | None = setting("chunk_size", _checked_chunk_size)
    tile_size: TileSize | None = setting("tile_size", _checked_tile_size)
    engine: Engine = setting("engine", partial(checks.check_choice, choices=ENGINES))
    backend: Backend = setting("backend", partial(checks.check_choice, choices=checks.BACKENDS))
    cuda_graphs: bool = setting("cuda_graphs", checks.check_flag, changed=lambda loss: loss._trunk.drop_graphs())

    def __init__(self, **options: Unpack[EngineOptions]) -> None:
        super().__init__()
        for name, value in {**DEFAULTS, **options}.items():
            setattr(self, name, value)


def takes_engine_options(init: Callable[P, None], **defaults: object) -> Callable[P, None]:
    """A constructor that takes the options of the engine: it refuses other names, and its help says which there are.

    Args:
        init: With `**options: Unpack[EngineOptions]`. Under another name than `options` they are not refused, for they
            may be another library's.
        defaults: Of this constructor's options where they are other than `DEFAULTS`.
    """
    signature = inspect.signature(init)
    *own, rest = signature.parameters.values()
    types, made = get_type_hints(EngineOptions), {**DEFAULTS, **defaults}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=made[name], annotation=types[name])
        for name in DEFAULTS
    ]
    is_open = rest.name != "options"
    names = [parameter.name for parameter in own]
    owner = init.__qualname__.split(".")[0]

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if not is_open and name not in names and name not in DEFAULTS:
                raise TypeError(
                    f"{name}: expected an argument of {owner} ({', '.join(names[1:])}) or an option of its engine "
                    f"({', '.join(DEFAULTS)}), got an unknown name"
                )
        init(*args, **kwargs)

    checked.__doc__ = EngineOptions.__doc__
    shown = signature.replace(parameters=[*own, *options, *([rest] if is_open else [])])
    checked.__signature__ = shown  # type: ignore[attr-defined]
    return checked


def split_options(keywords: Mapping[str, Any]) -> tuple[EngineOptions, dict[str, Any]]:
    """The options of the engine among keywords, and the rest of these."""
    options = {name: value for name, value in keywords.items() if name in DEFAULTS}
    return cast(EngineOptions, options), {name: value for name, value in keywords.items() if name not in DEFAULTS}
