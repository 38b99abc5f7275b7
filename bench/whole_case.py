"""What the benches of whole losses share: a batch of images, and rival ways to a value and its image gradient."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from perceptual_ops.engine.batching import default_chunk_size

from .timing import MIN_ROUNDS, Call

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
NHWC = torch.channels_last

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """A way to a loss.

    Attributes:
        build: The case's arguments -> a module (output, target) -> loss.
        dtype: Of the trunk's arithmetic.
        layout: Memory format of the images it is given.
        compiled: Whether torch.compile makes it one graph, under autocast to `dtype`.
        chunk: What ours are given as their chunk_size; 0 for others, which know no chunks.
        package: Whose it is, where that must be installed.
        graphs: Whether it runs as CUDA graphs.
    """

    build: Callable[..., Any]
    dtype: torch.dtype = FP32
    layout: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    chunk: int | None = 0
    package: str = ""
    graphs: bool = False


@dataclass(frozen=True)
class Case(ABC):
    """A batch of images.

    Attributes:
        names: Of the variants; the first is the reference of the others.
        rounds: How often each is timed; 0: only its memory is wanted.
        variants: By name.
        tolerance: Largest error of the loss and of the image gradient, by the dtype of the trunk; see `error`.
    """

    batch: int
    height: int
    width: int
    names: tuple[str, ...] = ()
    rounds: int = MIN_ROUNDS

    variants: ClassVar[Mapping[str, Variant]]
    tolerance: ClassVar[Mapping[torch.dtype, tuple[float, float]]]

    @property
    @abstractmethod
    def name(self) -> str:
        """Such as "loss 4x256x256"."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The variant whose memory that of others is a share of."""

    @abstractmethod
    def call(self, name: str, device: torch.device) -> Call:
        """() -> (loss,) or (loss, image gradient)."""

    @property
    def size(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"

    @property
    def megapixels(self) -> float:
        return self.batch * self.height * self.width / 1e6

    def is_rival(self, name: str) -> bool:
        """Whether figures of ours hold without a variant: it is neither one of ours nor the reference."""
        return name != self.names[0] and not name.startswith("ours")

    def chunk(self, name: str, device_type: str) -> int:
        """How many samples a variant sends through the trunk at a time."""
        variant = self.variants[name]
        if variant.chunk == 0:
            return self.batch
        default = default_chunk_size(self.height, self.width, variant.dtype, device_type)
        return min(variant.chunk or default, self.batch)

    def distinct(self, device_type: str) -> tuple[str, ...]:
        """The variants without those that are another's call under a second name: chunk 1 where that is the default."""
        first: dict[tuple[object, ...], str] = {}
        for name in self.names:
            variant = self.variants[name]
            same = (name,) if variant.chunk == 0 else (variant.dtype, self.chunk(name, device_type), variant.graphs)
            first.setdefault(same, name)
        return tuple(first.values())

    def images(self, batches: Sequence[int], layout: torch.memory_format, device: torch.device) -> list[Tensor]:
        """Random images in [0, 1], (n, 3, H, W) for each n of `batches`."""
        generator = torch.Generator(device).manual_seed(0)
        shapes = [(batch, 3, self.height, self.width) for batch in batches]
        found = [torch.rand(shape, device=device, generator=generator) for shape in shapes]
        return [images.contiguous(memory_format=layout) for images in found]


def value_and_gradient(loss: Loss, output: Tensor, target: Tensor) -> Call:  # (N, 3, H, W) each
    """() -> (loss, gradient by the output)."""
    output.requires_grad_()

    def call() -> tuple[Tensor, Tensor]:
        value = loss(output, target)
        return value.detach(), *torch.autograd.grad(value, output)

    return call


def compiled(loss: Loss, dtype: torch.dtype) -> Loss:
    """One graph, under autocast."""

    def under_autocast(output: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(output.device.type, dtype):
            return loss(output, target)

    return torch.compile(under_autocast, fullgraph=True, dynamic=False)


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


def verify(case: Case, calls: Mapping[str, Call]) -> dict[str, str]:
    """What is wrong with results, measured against the first variant's, by the name of the variant."""
    expected: Any = None
    wrong: dict[str, str] = {}
    for name, call in calls.items():
        try:
            found: Any = call()
        except RuntimeError as failure:  # torch.compile's errors and out-of-memory are RuntimeErrors too
            wrong[name] = f"{name} raised {type(failure).__name__}: {str(failure).splitlines()[0]}"
            if expected is None:
                break
            continue
        expected = expected or found
        tolerance = case.tolerance[case.variants[name].dtype]
        for what, own, wanted, allowed in zip(("loss", "gradient"), found, expected, tolerance, strict=False):
            share = error(own, wanted)
            if not share <= allowed:
                wrong[name] = f"{name}: {what} is {share:.1e} off the reference, {allowed:.1e} is allowed"
                break
    return wrong
