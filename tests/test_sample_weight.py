"""Weights of samples: w times the value of each; those of weight 0 do not run, whatever is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import perceptual
import pytest
import torch
from metrics import make as make_metric
from placement import placed
from test_clips import clips, gradients, make, refused
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.profiler import ProfilerActivity, profile

import perceptual_ops as po
from perceptual_ops.losses.base import FrozenLoss

pytestmark = pytest.mark.usefixtures("on_device")

engines = pytest.mark.parametrize("engine", ["lean", "autograd"])
WEIGHT = [0.0, 2.0, -0.5, 0.0, 1.25, 0.0]
RUN = [1, 2, 4]


def images(seed: int = 0, batch: int = 6) -> Tensor:
    return placed(perceptual.images(batch, 32, seed))


def losses(engine: str = "lean", **settings: object) -> Iterator[Callable[..., Tensor]]:
    """In fp32."""
    loss = make(engine, **settings).float()
    loss.set_style(images(7, 1))
    yield loss
    yield make_metric("alex", engine=engine, **settings)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples every call of a network takes."""
    found: list[int] = []
    for kind in (po.PerceptualLoss, po.LPIPS):
        whole = kind._of_images

        def spy(loss, images, *rest, whole=whole, **keywords):
            found.append(images[0].shape[0])
            return whole(loss, images, *rest, **keywords)

        monkeypatch.setattr(kind, "_of_images", spy)
    return found


def as_given(kind: str) -> list[float] | Tensor:
    return {"list": WEIGHT, "cpu": torch.tensor(WEIGHT), "device": placed(torch.tensor(WEIGHT, dtype=torch.float64))}[
        kind
    ]


@engines
@pytest.mark.parametrize("kind", ["list", "device"])
def test_the_rest_is_bit_equal_to_a_batch_without_those_of_weight_0(kind: str, engine: str, batches: list[int]) -> None:
    for reduction in ("none", "sum"):
        for loss in losses(engine, reduction=reduction):
            x, y = (images(seed) for seed in (0, 1))
            x[0], x[3], y[3], y[5] = torch.nan, torch.inf, torch.nan, torch.inf
            few = [z[RUN].requires_grad_() for z in (x, y)]
            all_of_them = [z.requires_grad_() for z in (x, y)]
            batches.clear()
            found = loss(*all_of_them, sample_weight=as_given(kind))
            assert batches == [3]
            wanted = placed(torch.tensor([WEIGHT[i] for i in RUN])) * loss_without(loss, reduction, *few)
            if reduction == "sum":
                wanted = wanted.sum()
                torch.testing.assert_close(found, wanted)
            else:
                assert torch.equal(found[RUN], wanted) and not found[[0, 3, 5]].any()
            by_all = torch.autograd.grad(found.sum(), all_of_them)
            for a, b in zip(by_all, torch.autograd.grad(wanted.sum(), few), strict=True):
                assert torch.equal(a[RUN], b) and b.any()
                assert not a[[0, 3, 5]].any()


def loss_without(loss: FrozenLoss, reduction: str, *pair: Tensor) -> Tensor:
    loss.reduction = "none"
    found = loss(*pair)
    loss.reduction = reduction
    return found


@engines
def test_the_formula(engine: str) -> None:
    """(1 / N) sum of w_n times value_n, over all N, in fp64."""
    x, y, weight = clips(6, 1)[:, :, 0], clips(6, 1, 1)[:, :, 0], placed(torch.tensor(WEIGHT, dtype=torch.float64))
    loss, single = make(engine, reduction="mean"), make(engine)
    for one in (loss, single):
        one.set_style(clips(1, 1, 2)[:, :, 0])
    x.requires_grad_()
    found, terms = loss(x, y, return_terms=True, sample_weight=WEIGHT)
    values, parts = single(x, y, return_terms=True)
    wanted = (weight * values).sum() / 6
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0.0)
    (a,), (b,) = (gradients(value, x) for value in (found, wanted))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * b.abs().max().item())
    for name, value in terms.items():
        torch.testing.assert_close(value, (weight * parts[name]).mean())


@engines
def test_the_gradient_of_a_weight_is_the_value(engine: str, batches: list[int]) -> None:
    """All samples run then, but for evaluation."""
    for loss in losses(engine, reduction="sum"):
        x, y = images(), images(1)
        weight = placed(torch.tensor(WEIGHT)).requires_grad_()
        batches.clear()
        (gradient,) = torch.autograd.grad(loss(x, y, sample_weight=weight), weight)
        assert batches == [6]
        torch.testing.assert_close(gradient, loss_without(loss, "sum", x, y))
        with torch.no_grad():
            loss(x, y, sample_weight=weight)
        assert batches[-1] == 3


@engines
def test_nothing_runs_where_all_weigh_nothing(engine: str, batches: list[int]) -> None:
    for loss in losses(engine):
        for weight, x, y in (
            ([0] * 6, images(), images(1)),
            ([0] * 6, images(), images(1, 1)),
            ([False], images(0, 1), images(1, 1)),
        ):
            x, y = (torch.full_like(z, torch.nan).requires_grad_() for z in (x, y))
            batches.clear()
            found = loss(x, y, sample_weight=weight)
            assert batches == [0] and found.shape == (len(weight),) and not found.any()
            assert all(not gradient.any() for gradient in torch.autograd.grad(found.sum(), (x, y)))


@engines
@pytest.mark.parametrize("samples", ["images", "clips", "clips of one Gram"])
def test_targets_and_styles_go_with_their_samples(engine: str, samples: str) -> None:
    x, y, styles = (clips(6, 2, seed, size=16) for seed in range(3))
    if samples == "images":
        x, y, styles = (z[:, :, 0] for z in (x, y, styles))
    loss = make(engine, gram_over="clip" if samples == "clips of one Gram" else "frame")
    loss.set_style(styles)
    wanted = placed(torch.tensor(WEIGHT, dtype=torch.float64)) * loss(x, y)
    torch.testing.assert_close(loss(x, y, sample_weight=WEIGHT), wanted)
    loss.set_content(y)
    torch.testing.assert_close(loss(x, sample_weight=WEIGHT), wanted)
    one_for_all = loss(x, y[:1]) * placed(torch.tensor(WEIGHT, dtype=torch.float64))
    torch.testing.assert_close(loss(x, y[:1], sample_weight=WEIGHT), one_for_all)


@engines
def test_weights_of_clips_and_lists(engine: str, batches: list[int]) -> None:
    loss, weight = make(engine, style_layers=None), placed(torch.tensor(WEIGHT, dtype=torch.float64))
    x, y = clips(6, 2), clips(6, 2, 1)
    wanted = weight.view(-1, 1) * loss(x, y, frames=True)
    x[[0, 3, 5]] = torch.nan
    batches.clear()
    torch.testing.assert_close(loss(x, y, sample_weight=WEIGHT), wanted.mean(1))
    torch.testing.assert_close(loss(x, y, frames=True, sample_weight=WEIGHT), wanted)
    assert batches == [6, 6]

    sizes = (24, 20, 28, 24, 32, 32)  # of the first, no image weighs anything
    x, y = ([placed(perceptual.images(1, n, seed + i).double()) for i, n in enumerate(sizes)] for seed in (0, 10))
    wanted = weight * loss(x, y)
    for i in (0, 3, 5):
        x[i] = torch.full_like(x[i], torch.nan)
    x = [z.requires_grad_() for z in x]
    batches.clear()
    found = loss(x, y, sample_weight=WEIGHT)
    assert batches == [0, 1, 1, 1]
    torch.testing.assert_close(found, wanted)
    by_image = torch.autograd.grad(found.sum(), x)
    assert [bool(gradient.any()) for gradient in by_image] == [w != 0 for w in WEIGHT]


def test_numbers_of_numpy_and_tensors_of_one_number() -> None:
    metric, x, y = make_metric("alex"), images(), images(1)
    wanted = metric(x, y, sample_weight=WEIGHT)
    of_numpy = np.array(WEIGHT)
    backwards = np.array(WEIGHT[::-1], dtype="float32")[::-1]
    for weight in (of_numpy, backwards, list(of_numpy), list(placed(torch.tensor(WEIGHT)))):
        assert torch.equal(metric(x, y, sample_weight=weight), wanted)
    trained = [placed(torch.tensor(w)).requires_grad_() for w in WEIGHT]
    by_weight = torch.autograd.grad(metric(x, y, sample_weight=trained).sum(), trained)
    torch.testing.assert_close(torch.stack(by_weight), metric(x, y))


def test_maps_are_weighted_too() -> None:
    metric, x, y = make_metric("alex", spatial=True), images(), images(1)
    wanted = metric(x, y) * placed(torch.tensor(WEIGHT)).view(-1, 1, 1, 1)
    torch.testing.assert_close(metric(x, y, sample_weight=WEIGHT), wanted)


@pytest.mark.parametrize("kind", ["list", "cpu"])
def test_numbers_that_the_host_has_cost_no_wait(kind: str, device: str) -> None:
    metric, x, y = make_metric("alex").to(device), images().to(device), images(1).to(device)
    x.requires_grad_()
    metric(x, y, sample_weight=as_given(kind)).sum().backward()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            metric(x, y, sample_weight=as_given(kind)).sum().backward()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    names = {event.name for event in profiler.events()}
    assert any("convolution" in name for name in names)
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"}


def test_compiled_code_multiplies_by_a_tensor_and_leaves_out_by_a_list(library: None) -> None:
    metric, body, counter = make_metric("alex"), placed(nn.Conv2d(3, 3, 1)), CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, weight: Tensor | list[float]) -> Tensor:
        return metric(body(x), x, sample_weight=weight).sum()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    x = images()
    for weight in (placed(torch.tensor(WEIGHT)), placed(torch.tensor(WEIGHT).flip(0)), WEIGHT):
        results = [
            (loss, *torch.autograd.grad(loss, list(body.parameters())))
            for loss in (step(x, weight), compiled(x, weight))
        ]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count == 2
    x[0] = torch.nan
    assert compiled(x, placed(torch.tensor(WEIGHT))).isnan()  # all of them run
    assert compiled(x, WEIGHT).isfinite()


def test_programs_multiply() -> None:
    metric, x, y = make_metric("alex"), images(), images(1)
    batch, weight = torch.export.Dim("batch", min=2), placed(torch.tensor(WEIGHT))
    program = torch.export.export(
        metric, (x, y), {"sample_weight": weight},
        dynamic_shapes={"output": {0: batch}, "target": {0: batch}, "sample_weight": {0: batch}},
    ).module()  # fmt: skip
    x, y, weight = x[:4], y[:4], weight.flip(0)[:4]
    torch.testing.assert_close(
        program(x, y, sample_weight=weight), metric(x, y, sample_weight=weight), rtol=1e-4, atol=1e-6
    )


def test_weights_that_are_refused() -> None:
    metric, x = make_metric("alex"), images(0, 2)
    for weight, sentence in (
        ([1.0], "sample_weight: expected 2 numbers, one for each sample of output; got 1"),
        (torch.ones(3), "sample_weight: expected 2 numbers, one for each sample of output; got 3"),
        (torch.ones(2, 1), "sample_weight: expected shape (2,), got (2, 1)"),
        (0.5, "sample_weight: expected a list or tensor of numbers, one for each sample; got float"),
        (torch.ones(2, dtype=torch.complex64), "sample_weight: expected a list or tensor of numbers"),
        ([1.0, "0"], "sample_weight[1]: expected a number"),
        (np.ones((2, 1)), "sample_weight: expected shape (2,), got (2, 1)"),
        (np.array(["0", "1"]), "sample_weight: expected a list or tensor of numbers, one for each sample; got ndarray"),
        ([torch.ones(1), torch.ones(1)], "sample_weight[0]: expected a number"),
        ([1.0, float("nan")], "sample_weight[1]: expected a finite number"),
        (torch.tensor([torch.inf, 1.0]), "sample_weight[0]: expected a finite number"),
        (torch.ones(2, device="meta"), "sample_weight: expected it on"),
    ):
        assert sentence in refused(lambda weight=weight: metric(x, x, sample_weight=weight))
