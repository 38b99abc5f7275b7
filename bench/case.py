"""What is timed: rival ways to the same numbers, and whether they agree."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from perceptual_ops.engine.batching import default_chunk_size

from . import peers
from .roofline import Cost
from .timing import MIN_ROUNDS, Call

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
SHORT = {FP32: "fp32", FP16: "fp16", BF16: "bf16"}
NHWC = torch.channels_last

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """A way to the numbers of a case.

    Attributes:
        who: Such as "ours", "lpips" or "compiled"; with the dtype it is the variant's name, "ours bf16".
        build: The case's arguments -> a module (output, target) -> loss.
        dtype: Of the arithmetic, like with like; what is none of ours gets 16 bits by autocast.
        layout: Memory format of the images it is given.
        compiled: Whether torch.compile makes it one graph.
        chunk: What ours are given as their chunk_size; 0 for others, which know no chunks.
        package: Whose it is, where that must be installed.
        graphs: Whether it runs as CUDA graphs.
        tiles: Whether large images go in tiles through all layers.
        is_same: Whether it makes the case's numbers; a training step without the loss does not.
    """

    who: str
    build: Callable[..., Any]
    dtype: torch.dtype = FP32
    layout: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    chunk: int | None = 0
    package: str = ""
    graphs: bool = False
    tiles: bool = False
    is_same: bool = True

    @property
    def name(self) -> str:
        return f"{self.who} {SHORT[self.dtype]}"

    @property
    def is_ours(self) -> bool:
        return self.who.startswith("ours")

    def applied(self, loss: Loss) -> Loss:
        """The loss under autocast and torch.compile, where the variant wants them."""
        if self.dtype != FP32 and not self.is_ours:
            loss = autocast(loss, self.dtype)
        return torch.compile(loss, fullgraph=True, dynamic=False) if self.compiled else loss


def named(*variants: Variant) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants}


def autocast(loss: Loss, dtype: torch.dtype) -> Loss:
    def under_autocast(output: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(output.device.type, dtype):
            return loss(output, target).float()

    return under_autocast


@dataclass(frozen=True)
class Agreement:
    """How far a variant's results are from the reference's.

    Attributes:
        error: The largest, relative; None where it made none.
        wrong: What is wrong; empty where nothing is.
    """

    error: float | None = None
    wrong: str = ""


@dataclass(frozen=True)
class Case(ABC):
    """A row of a suite, at one size.

    Attributes:
        names: Of the variants; the first that can be had is the reference of the others.
        rounds: How often each is timed at least; 0: only its memory is wanted.
        quick: Whether a run of quick size has it.
        fresh: Whether memory is measured in a fresh process for each variant, with the process's own.
        cost: Bytes and products that the case cannot do without, where that is known.
    """

    names: tuple[str, ...] = ()
    rounds: int = field(default=MIN_ROUNDS, kw_only=True)
    quick: bool = field(default=False, kw_only=True)

    variants: ClassVar[Mapping[str, Variant]]
    # Largest errors of the results in turn, such as the loss and its gradient; the last holds for all that follow.
    tolerance: ClassVar[Mapping[torch.dtype, tuple[float, ...]]]
    fresh: ClassVar[bool] = True
    cost: ClassVar[Cost | None] = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Such as "4x256x256"."""

    @abstractmethod
    def call(self, name: str, device: torch.device) -> Call:
        """() -> tensors, such as (loss, image gradient)."""

    def warm_up(self, name: str, device: torch.device) -> Call | None:
        """A shorter call of the same module, after which it is as it is after `call`; None: `call` itself."""
        return None

    def variant(self, name: str) -> Variant:
        return self.variants[name]

    def chunk(self, name: str, device_type: str) -> int | None:
        """How many samples a variant sends through the network at a time; None where that is not asked."""
        return None

    def available(self, device_type: str) -> tuple[str, ...]:
        """The names without packages that are not installed."""
        return tuple(name for name in self.names if not peers.missing(self.variant(name).package))

    def versus(self, name: str) -> str:
        """The variant that one is compared with: ours, in the same dtype."""
        return f"ours {SHORT[self.variant(name).dtype]}"

    def disagreement(self, name: str, actual: Tensor, expected: Tensor) -> float:
        """How far a result of a variant is off, as its tolerance means it."""
        return error(actual, expected)

    def allowed(self, name: str, expected: Sequence[Tensor]) -> Iterator[float]:
        """The tolerance of each result."""
        first = self.tolerance[self.variant(name).dtype]
        return chain(first, repeat(first[-1]))


@dataclass(frozen=True)
class ImageCase(Case):
    """A batch of images, and pairs of them."""

    batch: int = field(kw_only=True)
    height: int = field(kw_only=True)
    width: int = field(kw_only=True)

    @property
    def size(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"

    @property
    def name(self) -> str:
        return self.size

    @property
    def has_small_maps(self) -> bool:
        """Of the network, see `engine.registry.FrozenTrunk`."""
        return False

    def chunk(self, name: str, device_type: str) -> int | None:
        variant = self.variant(name)
        if variant.chunk == 0:
            return self.batch
        default = default_chunk_size(self.height, self.width, variant.dtype, device_type, self.has_small_maps)
        return min(variant.chunk or default, self.batch)

    def available(self, device_type: str) -> tuple[str, ...]:
        """Also without those that are another's call under a second name: chunk 1 where that is the default."""
        first: dict[tuple[object, ...], str] = {}
        for name in super().available(device_type):
            variant = self.variant(name)
            settings = (variant.dtype, self.chunk(name, device_type), variant.graphs, variant.tiles)
            first.setdefault((name,) if variant.chunk == 0 else settings, name)
        return tuple(first.values())

    def images(self, batches: Sequence[int], layout: torch.memory_format, device: torch.device) -> list[Tensor]:
        """Random images in [0, 1], (n, 3, H, W) for each n of `batches`."""
        generator = torch.Generator(device).manual_seed(0)
        shapes = [(batch, 3, self.height, self.width) for batch in batches]
        found = [torch.rand(shape, device=device, generator=generator) for shape in shapes]
        return [images.contiguous(memory_format=layout) for images in found]


def of_size(text: str) -> dict[str, int]:
    """The fields of an `ImageCase`, of "4x256x256"."""
    return dict(zip(("batch", "height", "width"), map(int, text.split("x")), strict=True))


def value_and_gradient(loss: Loss, output: Tensor, target: Tensor) -> Call:  # (N, 3, H, W) each
    """() -> (loss, gradient with respect to the output)."""
    output.requires_grad_()

    def call() -> tuple[Tensor, Tensor]:
        value = loss(output, target)
        return value.detach(), *torch.autograd.grad(value, output)

    return call


def value_alone(loss: Loss, output: Tensor, target: Tensor) -> Call:  # (N, 3, H, W) each
    """() -> (loss,)."""

    def call() -> tuple[Tensor]:
        with torch.no_grad():
            return (loss(output, target),)

    return call


def error(actual: Tensor, expected: Tensor) -> float:
    """The 2-norm of the difference over that of the expected; infinite for another shape or dtype."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    return (torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected)).item()


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions in fp32 are that on a GPU too, so that rivals in other layouts agree."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def verify(case: Case, calls: Mapping[str, Call]) -> dict[str, Agreement]:
    """How far each variant is from the first one, which alone is looked at where it fails."""
    expected: Any = None
    found: dict[str, Agreement] = {}
    for name, call in calls.items():
        try:
            results: Any = call()
        except RuntimeError as failure:  # torch.compile's errors and out-of-memory are RuntimeErrors too
            found[name] = Agreement(wrong=f"raised {type(failure).__name__}: {str(failure).splitlines()[0]}")
            if expected is None:
                break
            continue
        expected = expected or results
        found[name] = agreement(case, name, results, expected) if case.variant(name).is_same else Agreement()
    return found


def agreement(case: Case, name: str, results: Sequence[Tensor], expected: Sequence[Tensor]) -> Agreement:
    errors = [case.disagreement(name, own, wanted) for own, wanted in zip(results, expected, strict=True)]
    for index, (found, allowed) in enumerate(zip(errors, case.allowed(name, expected), strict=False)):
        if not found <= allowed:
            return Agreement(found, f"result {index} is {found:.1e} off the reference, {allowed:.1e} is allowed")
    return Agreement(max(errors))
