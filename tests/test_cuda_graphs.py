"""cuda_graphs=True: the same numbers, captured once a kind of call. On a CPU with a stub of torch.cuda's graphs."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import metrics
import pytest
import torch
from graphed import SIZE, of_module, replays, small
from perceptual import images, make
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine.cuda_graph import MAX_GRAPHS

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.filterwarnings("error::RuntimeWarning")]

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


def of_pair(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return loss(x, y)


def of_terms(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    total, terms = loss(x, y, y.detach()[:1].flip(2)[..., :9], return_terms=True)
    return total + sum(terms.values())


def of_clips(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x, y = (z.transpose(0, 1).unsqueeze(0) for z in (x, y))
    return loss(x, y, y.detach().flip(3))


def of_masked(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return loss(x, y, y.detach()[:1].flip(2), mask=x.detach()[:, :1])


LOSSES: dict[str, tuple[Callable[..., nn.Module], Call]] = {
    "content": (lambda: make(style_layers=None), of_pair),
    "style of another size": (lambda: make(content_layers=["pool1"], tv_weight=0.1), of_terms),
    "values": (lambda: make(reduction="none", chunk_size=1), of_terms),
    "tiles": (lambda: make(tile_size=8, tv_weight=0.1), of_terms),
    "clips": (small, lambda loss, x, y: loss(*(z.transpose(0, 1).unsqueeze(0) for z in (x, y)))),
    "clips of one Gram": (lambda: make(gram_over="clip", tv_weight=0.1), of_clips),
    "longer clips of one Gram": (lambda: make(gram_over="clip", tv_weight=0.1, chunk_size=1), of_clips),
    "one target": (small, lambda loss, x, y: loss(x, y[:1])),
    "grey": (small, lambda loss, x, y: loss(x[:, :1], y)),
    "16 bits": (lambda: small(compute_dtype="bfloat16"), of_pair),
    "fp16": (lambda: small(compute_dtype="float16"), of_pair),
    "crops": (lambda: small(input_size=8, resize_mode="random_crop"), of_pair),
    "resized": (lambda: small(input_size=8), of_pair),
    "unit features": (lambda: small(normalize_features="channel"), of_pair),
    "module": (of_module, of_pair),
    "LPIPS": (lambda: metrics.make("alex", reduction="mean"), of_pair),
    "DISTS": (lambda: metrics.make("dists", reduction="mean"), of_pair),
    "masked": (lambda: make(reduction="mean"), of_masked),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_same_bits_for_changing_images(kind: str, graph_device: str) -> None:
    """And both gradients, of one graph."""
    made, call = LOSSES[kind]
    loss, size = made().to(graph_device), {"LPIPS": 32, "DISTS": 17}.get(kind, SIZE)
    found = []
    for graphs in (False, True):
        loss.cuda_graphs = graphs
        torch.manual_seed(0)  # of crops
        results = []
        for seed in range(2):
            differentiable = kind != "DISTS"  # whose VGG16 takes its time
            pair = [images(2, size, seed + other, graph_device).requires_grad_(differentiable) for other in (0, 10)]
            value = call(loss, *pair)
            results.append(value.detach())
            if differentiable:
                value.sum().backward()
                results += [x.grad for x in pair]
        found.append(results)
        assert replays(loss) == ([2] if graphs else [])
    assert all(torch.equal(ours, plain) for ours, plain in zip(*found, strict=True))


CHANGES: dict[str, Callable[[nn.Module, pytest.MonkeyPatch], Any]] = {
    "weight": lambda loss, _: setattr(loss, "content_weight", 0.5),
    "distance": lambda loss, _: setattr(loss, "content_distance", "l1"),
    "chunks": lambda loss, _: setattr(loss, "chunk_size", 1),
    "compute dtype": lambda loss, _: setattr(loss, "compute_dtype", torch.bfloat16),
    "TF32": lambda _, patch: patch.setattr(torch.backends.cudnn, "allow_tf32", True),
    "algorithms": lambda _, patch: patch.setattr(torch.backends.cudnn, "benchmark", True),
}
CALLS: dict[str, Call] = {
    "size": lambda loss, x, y: loss(x[..., 1:], y[..., 1:]),
    "batch": lambda loss, x, y: loss(x[:1], y[:1]),
    "layout": lambda loss, x, y: loss(x.contiguous(memory_format=torch.channels_last), y),
    "dtype": lambda loss, x, y: loss(x.double(), y),
    "no gradient": lambda loss, x, y: loss(x.detach(), y),
    "another gradient": lambda loss, x, y: loss(x, y.requires_grad_()),
}


@pytest.mark.parametrize("change", [*CHANGES, *CALLS, "autocast"])
def test_another_kind_of_call_is_another_graph(change: str, graph_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of an ordinary one; the first is still there."""
    ours, plain = (small(cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    x, y = images(2, SIZE, device=graph_device).requires_grad_(), images(2, SIZE, 1, graph_device)
    before = ours(x, y)
    assert torch.equal(before, plain(x, y)) and replays(ours) == [1]
    with monkeypatch.context() as patch, torch.autocast(graph_device, torch.bfloat16, enabled=change == "autocast"):
        for loss in (ours, plain):
            CHANGES.get(change, lambda *_: None)(loss, patch)
        call = CALLS.get(change, of_pair)
        assert torch.equal(call(ours, x, y.clone()), call(plain, x, y.clone()))
    assert replays(ours) == [1, 1]
    for loss in (ours, plain):
        loss.content_weight, loss.content_distance, loss.chunk_size, loss.compute_dtype = 1.0, "mse", None, None
    assert torch.equal(ours(x, y), before) and replays(ours) == [1, 2]


def test_image_overwritten_unseen(graph_device: str) -> None:
    ours, plain = (small(cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    x, y = images(1, SIZE, device=graph_device).requires_grad_(), images(1, SIZE, 1, graph_device)
    for _ in range(2):
        assert torch.equal(ours(x, y), plain(x, y))
        x.data.clamp_(0.2, 0.4)
        y.data.clamp_(0.3, 0.5)


@pytest.mark.parametrize("made", [small, lambda **graphs: metrics.make("alex", reduction="mean", **graphs)])
def test_mask_overwritten_unseen(made: Callable[..., nn.Module], graph_device: str) -> None:
    ours, plain = (made(cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    x, y = images(1, 33, device=graph_device), images(1, 33, 1, graph_device)
    mask = images(1, 33, 2, graph_device)[:, :1].contiguous()
    for _ in range(3):
        assert torch.equal(ours(x, y, mask=mask), plain(x, y, mask=mask))
        mask[:, :, 4:20].mul_(0.3)
    assert sum(replays(ours)) == 3


def test_new_targets_without_another_capture(graph_device: str) -> None:
    """And kept ones are copied once."""
    ours, plain = (make(cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    x = images(1, SIZE, device=graph_device)
    for seed in range(2):
        for loss in (ours, plain):
            loss.set_style(images(1, 14, seed, graph_device))
            loss.set_content(images(1, SIZE, seed + 5, graph_device))
        expected = plain(x)
        assert torch.equal(ours(x), expected) and torch.equal(ours(x), expected)
    assert replays(ours) == [4]
    (captured,) = ours._trunk.graphs._captured.values()
    captured.arguments[3][0].zero_()
    assert not torch.equal(ours(x), expected)


def reload(loss: po.PerceptualLoss) -> None:
    state = loss.frozen_network.state_dict()
    loss.replace_network_weights({name: 0.9 * weight for name, weight in state.items()})


@pytest.mark.parametrize(
    "change",
    [lambda loss: loss.double(), reload, lambda loss: setattr(loss, "cuda_graphs", True)],
    ids=["moved", "other weights", "set again"],
)
@pytest.mark.parametrize("made", [small, of_module], ids=["chain", "module"])
def test_graphs_go(made: Callable[..., nn.Module], change: Callable[[nn.Module], None], graph_device: str) -> None:
    ours, plain = (made(cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    x, y = images(1, SIZE, device=graph_device), images(1, SIZE, 1, graph_device)
    ours(x, y)
    (captured,) = ours._trunk.graphs._captured.values()
    kept = weakref.ref(captured)
    del captured
    change(ours)
    change(plain)
    plain.cuda_graphs = False
    assert not kept() and not replays(ours)
    assert torch.equal(ours(x, y), plain(x, y)) and replays(ours) == [1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_copies_have_no_graphs(copied: Callable[[nn.Module], nn.Module], graph_device: str) -> None:
    loss = small(cuda_graphs=True).to(graph_device)
    x, y = images(1, SIZE, device=graph_device), images(1, SIZE, 1, graph_device)
    value = loss(x, y)
    other = copied(loss)
    assert replays(other) == [] and replays(loss) == [1]
    assert torch.equal(other(x, y), value) and replays(other) == replays(loss) == [1]


def test_the_least_recently_used_graph_goes_first(graph_device: str) -> None:
    loss = small(cuda_graphs=True).to(graph_device)

    def call(batch: int) -> None:
        loss(images(batch, SIZE, device=graph_device), images(batch, SIZE, 1, graph_device))

    for batch in range(1, MAX_GRAPHS + 1):
        for _ in range(batch):
            call(batch)
    call(1)
    assert replays(loss) == [*range(2, MAX_GRAPHS + 1), 2]
    call(MAX_GRAPHS + 1)
    assert replays(loss) == [*range(3, MAX_GRAPHS + 1), 2, 1]


def test_inference_then_training(graph_device: str) -> None:
    loss = small(cuda_graphs=True).to(graph_device)
    x, y = images(1, SIZE, device=graph_device), images(1, SIZE, 1, graph_device)
    with torch.inference_mode():
        within = loss(x.clone(), y.clone())
    assert torch.equal(loss(x, y), within) and replays(loss) == [2]
    with torch.inference_mode():
        assert torch.equal(loss(x.clone(), y), within) and replays(loss) == [3]
