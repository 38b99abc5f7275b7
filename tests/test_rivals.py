"""README's table against other libraries: what it says of those that are installed is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import features, peer, state, torchvision_gives
from torch import Tensor, nn
from torch.profiler import profile

import perceptual_ops as po
from bench.memory import allocated_peak

README = Path(__file__).resolve().parent.parent / "README.md"
HEADING = "## Compared with other libraries"
ANSWERS = {"✓": True, "✗": False}

Loss = Callable[[Tensor, Tensor], Tensor]


def images(batch: int = 1, size: int = 40, seed: int = 0) -> Tensor:  # (batch, 3, size, size) in [0, 1]
    return torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(seed))


# ---- the libraries, each as people train with it ----


def ours() -> nn.Module:
    return po.LPIPS("alex", weights=state("alexnet"), input_range=(0, 1), reduction="mean", chunk_size=1)


def lpips() -> nn.Module:
    with torchvision_gives(alexnet=features("alexnet")):
        return peer("lpips").LPIPS(net="alex", verbose=False)


def torchmetrics() -> nn.Module:
    with torchvision_gives(alexnet=features("alexnet")):
        return peer("torchmetrics.image.lpip").LearnedPerceptualImagePatchSimilarity("alex")


def piq() -> nn.Module:
    with torchvision_gives(vgg16=features("vgg16")):
        return peer("piq").ContentLoss(layers=("relu2_2",))


def dists_pytorch() -> nn.Module:
    class WithGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torchvision_gives(vgg16=features("vgg16")):
                self.dists = peer("DISTS_pytorch").DISTS(load_weights=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.dists(x, y, require_grad=True)

    return WithGradient()


LIBRARIES: dict[str, Callable[[], nn.Module]] = {
    "perceptual_ops": ours,
    "lpips": lpips,
    "piq": piq,
    "torchmetrics": torchmetrics,
    "DISTS_pytorch": dists_pytorch,
}


# ---- the questions ----


def keeps_the_gradient_alone(loss: Loss) -> bool:
    x, kept = images(2).requires_grad_(), dict[int, int]()

    def pack(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss(x, images(2, seed=1))
    return sum(kept.values()) <= 2 * x.numel() * x.element_size()


def takes_a_chunk_at_a_time(loss: Loss) -> bool:
    def peak(batch: int) -> int:
        x, y = images(batch).requires_grad_(), images(batch, seed=1)
        return allocated_peak(lambda: loss(x, y).sum().backward())

    peak(1)  # makes what is kept: weights as the convolutions read them
    return peak(4) - peak(1) < 8 * images(3).nbytes


def runs_the_network_once(loss: Loss) -> bool:
    """Adaptive weights: `autograd.grad(..., retain_graph=True)`, then `backward`."""
    x = images().requires_grad_()
    value = loss(x, images(seed=1)).sum()
    torch.autograd.grad(value, x, retain_graph=True)
    with profile() as profiler:
        value.backward()
    return not any("conv" in event.key for event in profiler.key_averages())


def compiles_as_one_graph(loss: Loss) -> bool:
    torch.compiler.reset()
    try:
        torch.compile(loss, backend="aot_eager", fullgraph=True)(images().requires_grad_(), images(seed=1))
    except torch._dynamo.exc.TorchDynamoException:
        return False
    return True


def has_gradients_in_fp16(loss: nn.Module) -> bool:
    x = images().half().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.half()(x, images(seed=1).half()).sum(), x)
    return bool(gradient.isfinite().all())


def takes_clips(loss: Loss) -> bool:
    try:
        loss(images(2).movedim(0, 1)[None], images(2, seed=1).movedim(0, 1)[None])
    except (AssertionError, RuntimeError, ValueError) as error:
        said = ("dim", "4D", "size of tensor", "expected input", "same shape", "(N, 3, H, W)", "[N, 3, H, W]")
        assert any(words in str(error) for words in said), error
        return False
    return True


def trains_nothing(loss: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in loss.parameters())


def adds_nothing_to_a_checkpoint(loss: nn.Module) -> bool:
    return not nn.ModuleList([loss]).state_dict()


def is_the_same_in_train_mode(loss: nn.Module) -> bool:
    """The `.train()` of a model that holds the loss reaches it, too."""
    expected = loss.eval()(images(), images(seed=1))
    return torch.equal(loss.train()(images(), images(seed=1)), expected)


def has_the_same_bits_again(loss: Loss) -> bool:
    def call() -> list[Tensor]:
        x = images(3).requires_grad_()
        value = loss(x, images(3, seed=1))
        return [value.detach(), *torch.autograd.grad(value.sum(), x)]

    return all(map(torch.equal, call(), call()))


def takes_masks(loss: Any) -> bool:
    """By any name of an argument; a mask of nothing gives 0."""
    arguments = loss.update if hasattr(loss, "update") else loss.forward  # torchmetrics' forward names none
    names = [name for name in inspect.signature(arguments).parameters if "mask" in name]
    return bool(names) and bool((loss(images(), images(seed=1), **{names[0]: torch.zeros(1, 1, 40, 40)}) == 0).all())


def has_second_derivatives(loss: Loss) -> bool:
    x = images().requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(loss(x, images(seed=1)).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
    except RuntimeError:
        return False
    return bool(second.any())


QUESTIONS: dict[str, Callable[[Any], bool]] = {
    "no activations kept for backward": keeps_the_gradient_alone,
    "memory of one chunk, whatever the batch": takes_a_chunk_at_a_time,
    "a second backward runs no network": runs_the_network_once,
    "`torch.compile(fullgraph=True)`": compiles_as_one_graph,
    "finite gradients in fp16": has_gradients_in_fp16,
    "clips (N, 3, T, H, W)": takes_clips,
    "no trainable parameters": trains_nothing,
    "nothing in your checkpoint": adds_nothing_to_a_checkpoint,
    "the same number in `.train()`": is_the_same_in_train_mode,
    "masks": takes_masks,
    "the same bits in every run, on a CPU": has_the_same_bits_again,
    "second derivatives by default": has_second_derivatives,
}


def table() -> dict[str, dict[str, str]]:
    """README's answers, by row and library."""
    section = README.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    libraries = [name.strip("`") for name in rows[0][1:]]
    return {name: dict(zip(libraries, answers, strict=True)) for name, *answers in rows[2:]}


def test_the_table_asks_what_is_run_here() -> None:
    assert set(list(table())[: len(QUESTIONS)]) == set(QUESTIONS), "the rows that are run come first"
    assert len(table()) == len(QUESTIONS) + 4, "README says how many are read from sources"
    assert all(set(LIBRARIES) <= set(answers) for answers in table().values())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_the_table_says(question: str, library: str) -> None:
    loss = LIBRARIES[library]()
    assert loss(images(), images(seed=1)).isfinite().all(), "the question would be another one"
    assert QUESTIONS[question](loss) is ANSWERS[table()[question][library]]
