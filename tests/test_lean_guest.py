"""The lean engine as a guest: what it keeps, what it refuses, compiled, captured and called again and again."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from perceptual import images, make
from test_module_trunk import Residual
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import perceptual_ops as po
from perceptual_ops.engine.batching import default_chunk_size
from perceptual_ops.engine.convolution import FrozenConv
from perceptual_ops.engine.stages import Forward, Saved, Stage
from perceptual_ops.engine.terms import Part, Terms

pytestmark = pytest.mark.usefixtures("library")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_batch(dtype: torch.dtype, reduction: str) -> None:
    x = images(0).requires_grad_()
    criterion = make(compute_dtype=dtype, reduction=reduction, tv_weight=0.1)
    loss = criterion(x, images(0), images(1))
    assert loss.shape == ((0,) if reduction == "none" else ()) and not loss.sum()
    assert torch.autograd.grad(loss.sum(), x)[0].shape == x.shape


GROWTH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from perceptual import images, make
from pathlib import Path

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

criterion = make(chunk_size=4)
criterion.set_style(images(1, 64))
x, y, found = images(4, 64), images(4, 64, seed=1), []
for call in range(50):
    criterion(x.detach().requires_grad_(), y).backward()
    if call in (9, 49):
        found.append(resident())
print(found[1] - found[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system keeps no account of a process in /proc")
def test_a_process_does_not_grow() -> None:
    """What one call leaves behind, the next finds its place in: 160 MB of growth where tap gradients outlived maps."""
    result = subprocess.run(
        [sys.executable, "-c", GROWTH, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 60


@pytest.mark.parametrize("dynamic", [None, True])
def test_two_compilations_serve_every_size(dynamic: bool | None) -> None:
    criterion = make(tv_weight=0.1)
    criterion.set_style(images(1))
    body = torch.nn.Conv2d(3, 3, 3, padding=1)
    counter = CompileCounterWithBackend("aot_eager")  # Inductor compiles a convolution for each size, whatever the loss

    def step(x: Tensor) -> Tensor:
        return criterion(body(x), x)

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=counter)
    for batch, size in ((2, 24), (3, 30), (4, 24), (2, 41), (5, 33)):
        x = images(batch, size)
        results = [(loss, *torch.autograd.grad(loss, list(body.parameters()))) for loss in (step(x), compiled(x))]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2


CAPTURED: dict[str, Callable[[], torch.nn.Module]] = {
    "chain": lambda: make(tv_weight=0.1),
    "chain in fp16": lambda: make(compute_dtype=torch.float16),
    "LPIPS": lambda: po.LPIPS("alex", weights="random", reduction="mean", input_range=(0, 1)),
    "LPIPS in fp16": lambda: po.LPIPS("alex", weights="random", reduction="mean", compute_dtype=torch.float16),
    "module": lambda: po.PerceptualLoss(Residual().eval(), content_layers=["mix", "output"], style_layers=["norm"]),
}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("kind", CAPTURED)
def test_in_a_cuda_graph(kind: str) -> None:
    criterion = CAPTURED[kind]().cuda()
    if isinstance(criterion, po.PerceptualLoss):
        criterion.set_style(images(1, 40, device="cuda"))
    x, y = images(2, 40, device="cuda").requires_grad_(), images(2, 40, seed=1, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # weights are derived in the first call
        torch.autograd.grad(criterion(x, y), x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (gradient,) = torch.autograd.grad(criterion(x, y), x)
    x.data.copy_(images(2, 40, seed=2))
    graph.replay()
    assert torch.equal(gradient, torch.autograd.grad(criterion(x, y), x)[0])


def test_default_chunk_size() -> None:
    def size(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", has_small_maps: bool = False) -> int:
        return default_chunk_size(*shape, dtype, device, has_small_maps)

    assert [size(256, 256), size(128, 128), size(1024, 1024), size(256, 256, device="cuda")] == [1, 4, 1, 32]
    assert [size(256, 256, dtype=torch.bfloat16), size(128, 128, dtype=torch.float64)] == [2, 2]
    assert [size(224, 224, has_small_maps=True), size(512, 512, has_small_maps=True)] == [4, 1]
    assert size(256, 256, device="cuda", has_small_maps=True) == 32


@pytest.mark.parametrize(
    ("network", "expected"), [("vgg16", 4), ("alex", 12), ("squeeze", 12)], ids=["VGG", "AlexNet", "a module"]
)
def test_default_chunk_size_of_a_network(network: str, expected: int) -> None:
    images = torch.empty(1, 3, 1, 1).expand(32, 3, 128, 128)
    loss = po.LPIPS(network, weights="random")
    assert loss.trunk_input(images).samples_at_a_time(images) == expected


def test_nothing_but_the_image_gradient_is_kept() -> None:
    sizes: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        sizes.append(saved.untyped_storage().nbytes())
        return saved

    x = images(3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss = make()(x, images(3, seed=1), images(1, seed=2))
    assert sum(sizes) == x.numel() * 4
    loss.backward()


def test_no_backward_work_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a backward nobody asked for")

    monkeypatch.setattr("perceptual_ops.engine.trunk.Trunk.backward", refuse)
    criterion = make(tv_weight=0.1)
    arguments = images(2), images(2, seed=1), images(1, seed=2)
    loss = criterion(*arguments)
    assert not loss.requires_grad
    with torch.no_grad():
        assert torch.equal(criterion(images(2).requires_grad_(), *arguments[1:]), loss)
    with pytest.raises(AssertionError, match="nobody asked for"):
        criterion(images(2).requires_grad_(), *arguments[1:])


def test_target_passes_stop_at_their_deepest_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, bool]] = []
    genuine = Forward.run_stage

    def spy(self: Forward, stage: Stage, frozen: FrozenConv | None) -> Saved:
        ran.append((stage.conv.name, self._keep))
        return genuine(self, stage, frozen)

    monkeypatch.setattr(Forward, "run_stage", spy)
    criterion = make(content_layers=["relu1_1"], style_layers=["relu2_1"])
    criterion.set_style(images(1))
    assert ran == [("conv1_1", False), ("conv2_1", False)]
    ran.clear()
    criterion(images(2).requires_grad_(), images(2, seed=1))
    assert ran == [("conv1_1", False), ("conv1_1", True), ("conv2_1", True)]
    criterion.set_content(images(2, seed=1))
    ran.clear()
    criterion(images(2).requires_grad_())
    assert ran == [("conv1_1", True), ("conv2_1", True)]


def test_backward_twice_and_never_in_place() -> None:
    x = images(2).requires_grad_()
    loss = make(reduction="none")(x, images(2, seed=1), images(1, seed=2))
    (first,) = torch.autograd.grad(loss, x, torch.ones(2), retain_graph=True)
    kept = first.clone()
    (tripled,) = torch.autograd.grad(loss, x, torch.tensor([3.0, 0.0]), retain_graph=True)
    (again,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(again, kept) and torch.equal(first, kept)
    torch.testing.assert_close(tripled[0], 3 * kept[0])
    assert not tripled[1].any()


def test_adaptive_weight_from_gradients_of_a_last_layer() -> None:
    """As VQGAN balances its losses: gradients by the last layer before the backward."""
    last = torch.nn.Conv2d(3, 3, 1)
    output = last(images(2))
    loss, other = make(style_layers=None)(output, images(2, seed=1)), output.square().mean()
    weights = [torch.autograd.grad(part, last.weight, retain_graph=True)[0].norm() for part in (loss, other)]
    (loss + weights[0] / weights[1] * other).backward()
    assert last.weight.grad is not None and last.weight.grad.isfinite().all()


def test_second_derivative_and_forward_mode_are_refused() -> None:
    criterion = make(style_layers=None)
    x, y = images(1).requires_grad_(), images(1, seed=1)
    with pytest.raises(RuntimeError, match=r'made in its forward.*engine="autograd"'):
        torch.autograd.grad(criterion(x, y), x, create_graph=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(images(1), torch.ones(1, 3, 24, 27))
        for arguments, name in (((dual, y), "output"), ((y, dual), "target")):
            with pytest.raises(RuntimeError, match=rf'{name}: expected no forward-mode tangent.*engine="autograd"'):
                criterion(*arguments)
        with pytest.raises(RuntimeError, match="expected no forward-mode tangent"):
            criterion.set_content(dual)


def test_settings_are_read_at_each_call() -> None:
    criterion = make(style_layers=None)
    before = criterion(images(1), images(1, seed=1))
    criterion.content_weights = [2 * weight for weight in criterion.content_weights]
    torch.testing.assert_close(criterion(images(1), images(1, seed=1)), 2 * before)


def test_derived_weights_follow_the_network() -> None:
    criterion = make(style_layers=None)
    x, y = images(1), images(1, seed=1)
    before = criterion(x, y)
    moved = copy.deepcopy(criterion).to(torch.float64)
    assert moved(x.double(), y.double()).dtype == torch.float64
    assert torch.equal(criterion(x, y), before)
    assert moved._trunk.key != criterion._trunk.key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_keep_their_contract(dtype: torch.dtype) -> None:
    criterion = make(tv_weight=0.1, reduction="none")
    recorded: list[tuple[object, ...]] = []
    for x in (images(2).requires_grad_(), images(2, 17)[:, :1].expand(-1, 3, -1, -1)):
        common = replace(criterion.trunk_input(x), dtype=dtype).encoded()
        torch.library.opcheck(torch.ops.perceptual_ops.trunk_features, (x.detach(), *common, "relu1_1\nconv2_1"))
        grams = [torch.rand(1, 64, 64), torch.rand(2, 128, 128)]
        content = Part(("pool1", "conv2_1"), (0.5, 2.0), "mse", 0.0)
        settings = Terms(content, Part(("relu1_1", "relu2_1"), (3.0, 1.5), "l1", 0.0), "chw", 0.1).encoded()
        mask = torch.rand(2, 1, *x.shape[2:])
        for masks in ((None, []), (mask, [mask])):
            own = images(2, x.shape[2], seed=1), [], grams, *masks, *common, *settings
            recorded.append((x, *own, x.requires_grad, False))
    for arguments in recorded:
        torch.library.opcheck(torch.ops.perceptual_ops.perceptual_loss, arguments)
