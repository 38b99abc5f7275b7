"""Any loss of one number per sample, a chunk of samples at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import _checks as checks
from .. import ops
from .._autocast import autocast_dtype
from ..engine.chunked_op import PerSample, check_values
from ..engine.chunked_op import chunked as chunked_op


class Chunked:
    """A function of samples as a loss; see `chunked`, which makes it.

    It is not a module: what fn holds is not moved, saved or trained with a model that has the loss as an attribute, and
    keeps its training mode. Copies and pickles hold a copy of fn.
    """

    def __init__(self, fn: Callable[..., Tensor], chunk_size: int) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError("chunked: expected to be made before torch.compile is at work; make it once and keep it")
        self._per_sample = PerSample(fn)
        self._key = self._per_sample.key
        self._fn, self._chunk_size = fn, chunk_size

    @property
    def fn(self) -> Callable[..., Tensor]:
        """The function, as given."""
        return self._fn

    @property
    def chunk_size(self) -> int:
        """Samples that go through fn at a time."""
        return self._chunk_size

    def __reduce__(self) -> tuple[type[Chunked], tuple[Callable[..., Tensor], int]]:
        return Chunked, (self._fn, self._chunk_size)  # a copy has a key of its own

    def __repr__(self) -> str:
        name = type(self._fn).__name__ if isinstance(self._fn, nn.Module) else getattr(self._fn, "__qualname__", None)
        return f"chunked({name or repr(self._fn)}, chunk_size={self._chunk_size})"

    def __call__(self, output: Tensor, *others: Tensor) -> Tensor:
        """The values of a batch.

        Args:
            output: (N, ...) of any shape, fp32, fp16, bf16 or fp64: images, latents, tokens. The gradient flows to it.
            others: What else fn takes of each sample, (N, ...), or (1, ...) for all samples, of any dtype. No gradient
                flows to them.

        Returns:
            (N,), fp32 (fp64 for an output in fp64).

        Raises:
            TypeError, ValueError: Invalid argument or result of fn, or fn reaches tensors that require grad or
                normalises over the batch; the message names it.
            RuntimeError: Within a transform of torch.func, or for a forward-mode tangent.
        """
        _check_samples(output, others)
        if ops.makes_program():
            return check_values(self._fn(output, *others), output).to(checks.accumulator_dtype(output))
        if not torch.compiler.is_compiling():
            _refuse_transforms(output, others)
        grad_enabled, device = torch.is_grad_enabled(), output.device.type
        if grad_enabled:
            for i, other in enumerate(others):
                checks.refuse_gradient(f"others[{i}]", other)
        wanted = grad_enabled and output.requires_grad
        loss: Tensor
        loss, _ = chunked_op(
            output, list(others), self._key, self._chunk_size, autocast_dtype(device), grad_enabled, wanted
        )
        return loss


def chunked(fn: Callable[..., Tensor], *, chunk_size: int) -> Chunked:
    """A loss of your own with one chunk's memory, and without a second backward.

    The loss gives fn a chunk of samples at a time, makes the gradient with respect to output in the forward, and frees
    the chunk's graph before the next. The backward multiplies by each sample's upstream gradient: with retain_graph or
    torch.autograd.grad for adaptive weights it costs next to nothing each time. liger_kernel.chunked_loss does this for
    language models. For rewards (CLIP, aesthetics), perceptual losses of latents through a decoder, and a discriminator
    in the generator's step::

        adversarial = po.chunked(lambda images: -discriminator(images).mean((1, 2, 3)), chunk_size=4)

        discriminator.requires_grad_(False)  # the generator's step; its own is an ordinary one, with True
        loss = adversarial(generator(noise)).mean()
        loss.backward()

    Pass what varies from sample to sample as an argument; fn may hold the rest::

        reward = po.chunked(lambda images, text: -(clip(resize(images)) * text).sum(1), chunk_size=2)
        loss = reward(images, text_embeddings).mean()

    It is the wrong tool where a number depends on more than its own sample: contrastive losses and statistics over the
    batch, batch normalisation in training mode, a minibatch discriminator. Such a function would see the samples of its
    chunk alone. Of these only batch normalisation is noticed: in fn that is a module, else where a gradient is made.
    It is wrong too where fn is to be trained (the discriminator's own step) and where the gradient is differentiated
    (a gradient penalty outside of fn; within fn it works).

    Make it once and call it often, under torch.compile outside of the compiled function. Evaluation belongs under
    torch.no_grad(), or it pays for a gradient that nobody uses. It follows the caller's autocast. A gradient through
    fp16 is scaled as it is made, and does not vanish before a GradScaler sees it. Random numbers within fn, as of
    dropout, are drawn chunk by chunk, and are others than for the whole batch. An empty batch gives no numbers and does
    not call fn. torch.export and torch.jit.trace write fn itself, for the whole batch.

    Args:
        fn: ``(output, *others) -> (n,)``: takes a chunk (n, ...) of each, and gives one floating-point number per
            sample. A function, or a module in eval mode. What it holds is frozen, and stays with you: you move it and
            switch its modes.
        chunk_size: Samples that go through fn at a time, at least 1. The results are the same but for rounding.

    Returns:
        A `Chunked`, to be called with ``(output, *others)`` for a loss (N,).

    Raises:
        TypeError, ValueError: fn is not callable, or chunk_size no number above 0.
    """
    if not callable(fn):
        raise TypeError(f"fn: expected a function or module, got {type(fn).__name__}")
    return Chunked(fn, checks.check_whole("chunk_size", chunk_size, 1))


def _check_samples(output: object, others: tuple[object, ...]) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(f"output: expected a tensor, got {type(output).__name__}")
    if output.dtype not in checks.DTYPES:
        raise TypeError(f"output: expected dtype float32, float16, bfloat16 or float64, got {output.dtype}")
    if output.layout != torch.strided:
        raise TypeError(f"output: expected a dense tensor, got {output.layout}; pass output.to_dense()")
    if output.dim() < 1:
        raise ValueError("output: expected a batch of samples, shape (N, ...), got a scalar")
    for i, other in enumerate(others):
        if not isinstance(other, Tensor):
            raise TypeError(
                f"others[{i}]: expected a tensor with a row per sample, got {type(other).__name__}; let fn hold what "
                "is the same for all, as by functools.partial"
            )
        if other.dim() < 1 or (other.shape[0] != output.shape[0] and other.shape[0] != 1):
            raise ValueError(
                f"others[{i}]: expected a batch of {output.shape[0]}, as output has, or of 1; got shape "
                f"{tuple(other.shape)}; let fn hold what is the same for all"
            )


def _refuse_transforms(output: Tensor, others: tuple[Tensor, ...]) -> None:
    if torch._C._functorch.maybe_current_level() is not None:
        raise RuntimeError(
            "torch.func: expected no transform around chunked, which makes its gradient in its forward; transform fn "
            "itself"
        )
    for name, tensor in (("output", output), *((f"others[{i}]", other) for i, other in enumerate(others))):
        if ops.has_tangent(tensor):
            raise RuntimeError(
                f"{name}: expected no forward-mode tangent, since chunked makes its gradient in its forward; call fn "
                "itself"
            )
