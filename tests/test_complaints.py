"""What users of other libraries report, as tests that those libraries fail and ours passes (docs/complaints.md).

Each test is a check of a behaviour: it must hold for ours, and where the peer is installed it must not hold for the
peer, or the complaint is settled there and the test says so by failing.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from peers import features, peer, state, torchvision_gives
from torch import Tensor, nn

import perceptual_ops as po
from bench.peers import import_torchvision
from perceptual_ops.compat import lpips as drop_in_lpips

Check = Callable[[Any], None]


def drop_in_torchmetrics() -> ModuleType:
    """Ours; torchmetrics, whose class it extends, wants torchvision first."""
    with contextlib.suppress(ModuleNotFoundError):  # without it, ours is tested as what it then is
        import_torchvision()
    return importlib.import_module("perceptual_ops.compat.torchmetrics")


def only_ours(check: Check, ours: Any, theirs: Callable[[], Any]) -> None:
    """The check passes on ours and fails on the peer, which is made last, since it may not be installed."""
    check(ours)
    rival = theirs()
    with pytest.raises(AssertionError):
        check(rival)


def images(batch: int = 1, size: int = 40, seed: int = 0) -> Tensor:  # in [-1, 1]
    return 2 * torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(seed)) - 1


def ours() -> nn.Module:
    return drop_in_lpips.LPIPS(net="alex", weights=state("alexnet"))


def theirs(**settings: Any) -> nn.Module:
    lpips = peer("lpips")
    with torchvision_gives(alexnet=features("alexnet")):
        return lpips.LPIPS(net="alex", verbose=False, **settings)


def unit_distance(x: Tensor, y: Tensor) -> Tensor:
    """Ours of maps as the package lpips compares them."""
    return po.lpips_distance([x], [y], [torch.ones(x.shape[1])]).sum()


def their_unit_distance() -> Callable[[Tensor, Tensor], Tensor]:
    lpips = peer("lpips")
    return lambda x, y: (lpips.normalize_tensor(x) - lpips.normalize_tensor(y)).square().sum(1).mean()


def zero_pixel(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Maps before their ReLU, one pixel of which has no features at all."""
    x, y = (torch.randn((1, 8, 4, 4), generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2))
    x[:, :, 1, 2] = 0
    return x.requires_grad_(), y


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_no_nan_at_zero_features() -> None:
    """1 to 6: richzhang/PerceptualSimilarity#69, #121, and what others report of its copies elsewhere."""

    def check(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        x, y = zero_pixel()
        try:
            with torch.autograd.set_detect_anomaly(True):
                distance(x, y).backward()
        except RuntimeError as error:
            raise AssertionError from error
        assert x.grad is not None and x.grad.isfinite().all() and not x.grad[:, :, 1, 2].any()

    only_ours(check, unit_distance, their_unit_distance)


def test_no_nan_in_fp16() -> None:
    """The same in fp16, where 1e-10 is 0, and where 512 channels of 12 have a square of lengths beyond its range."""

    def check(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        for x, y in (zero_pixel(torch.float16), [torch.full((1, 512, 2, 2), 12.0, dtype=torch.float16)] * 2):
            assert distance(x, y).isfinite()

    only_ours(check, unit_distance, their_unit_distance)


def test_no_negative_distance_after_training() -> None:
    """7: richzhang#72, torchmetrics#2315: an optimizer of a model that holds the loss trained its linear weights."""

    def check(loss: nn.Module) -> None:
        x = nn.Parameter(images())
        optimizer = torch.optim.SGD([x, *loss.parameters()], lr=100.0)
        loss(x, images(seed=1)).sum().backward()
        optimizer.step()
        assert loss(images(), images(seed=1)).item() >= 0

    only_ours(check, ours(), theirs)


def test_memory_of_a_training_step(library: None) -> None:
    """8 to 13: richzhang#87, #128, nerfstudio#507: activations of a frozen network, kept as if it were trained."""

    def check(loss: nn.Module) -> None:
        kept: dict[int, int] = {}

        def pack(saved: Tensor) -> Tensor:
            kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        x = images(2).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            loss(x, images(2, seed=1))
        assert sum(kept.values()) <= 2 * x.numel() * x.element_size()

    only_ours(check, ours(), theirs)


def test_states_do_not_grow() -> None:
    """14: torchmetrics#3267: a metric used as a loss got slower with every step. Settled in torchmetrics since."""
    metric = drop_in_torchmetrics().LearnedPerceptualImagePatchSimilarity("alex", weights=state("alexnet"))
    for seed in range(3):
        x = images(seed=seed).clamp(-1, 1).requires_grad_()
        metric(x, images(seed=9)).backward()
        assert x.grad is not None and x.grad.any()
        assert metric.sum_scores.numel() == 1 and metric.sum_scores.grad_fn is None


def test_targets_are_kept() -> None:
    """19: turicreate#681, texture-networks#5: style Grams made again at every step."""
    loss = po.PerceptualLoss("vgg11", weights="random", content_layers=None, style_layers=["relu1_1", "relu2_1"])
    style = (images(seed=1) + 1) / 2
    expected = loss((images() + 1) / 2, style=style)
    loss.set_style(style)
    assert torch.equal(loss((images() + 1) / 2), expected)


def test_grams_do_not_overflow() -> None:
    """20, 21: neural-style-pt#97, neural-style#425: products of fp16 maps beyond its range, before they are divided."""

    def check(gram: Callable[[Tensor], Tensor]) -> None:
        found = gram(torch.full((1, 8, 256, 256), 1.1, dtype=torch.float16))
        torch.testing.assert_close(found.float(), torch.full((1, 8, 8), 1.21 / 8), rtol=2e-3, atol=0)

    def plain() -> Callable[[Tensor], Tensor]:
        return lambda x: x.flatten(2) @ x.flatten(2).mT / (8 * 256 * 256)

    only_ours(check, po.gram_matrix, plain)


def test_bfloat16() -> None:
    """22: elatentlpips#4: bf16 refused."""
    loss = po.LPIPS("alex", weights=state("alexnet"))
    exact = loss(images(), images(seed=1))
    found = loss.bfloat16()(images().bfloat16(), images(seed=1).bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)


def test_an_output_may_overshoot() -> None:
    """25: nerfstudio#2192, instruct-nerf2nerf#90: a range error in the middle of a training."""

    def check(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        try:
            assert loss(images() - 1e-3, images(seed=1)).isfinite().all()
        except ValueError as error:
            raise AssertionError from error

    settings = {"weights": state("alexnet")}
    check(po.LPIPS("alex", **settings))
    drop_in = drop_in_torchmetrics().LearnedPerceptualImagePatchSimilarity
    check(drop_in("alex", check_range=False, **settings))
    with pytest.raises(AssertionError):  # as there, unless asked not to
        check(drop_in("alex", **settings))


def test_no_warnings() -> None:
    """28: richzhang#108, PR#114, PR#146, torchmetrics#1546: deprecated arguments, files unpickled unsafely."""

    def check(make: Callable[[], nn.Module]) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make()(images(), images(seed=1))
        assert not caught

    def real() -> Callable[[], nn.Module]:
        lpips = peer("lpips")
        return lambda: lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)

    only_ours(check, ours, real)


def test_the_same_module_twice() -> None:
    """31: richzhang PR#143: use_dropout=False silently left the linear weights random."""

    def check(make: Callable[..., nn.Module]) -> None:
        first, second = (make(use_dropout=False)(images(), images(seed=1)) for _ in range(2))
        assert torch.equal(first, second)

    settings = {"net": "alex", "weights": state("alexnet")}
    only_ours(check, lambda **more: drop_in_lpips.LPIPS(**settings, **more), lambda: theirs)


def test_a_module_in_train_mode() -> None:
    """31: richzhang#93: dropout comes back with the parent's .train()."""

    def check(loss: nn.Module) -> None:
        parent = nn.ModuleList([loss]).train()
        assert torch.equal(parent[0](images(), images(seed=1)), parent[0](images(), images(seed=1)))

    only_ours(check, ours(), theirs)


def test_functions_follow_the_images() -> None:
    """34: torchmetrics#2232: the function's network stayed in its own dtype."""
    score = drop_in_torchmetrics().learned_perceptual_image_patch_similarity
    pair = [images().double(), images(seed=1).double()]
    found = score(*pair, net_type="alex", weights=state("alexnet"))
    assert found.dtype == torch.float64


@pytest.mark.parametrize("layout", ["permuted", "cropped", "expanded"])
def test_images_of_any_strides(layout: str) -> None:
    """35: fused-ssim PR#44, optimized-fused-ssim#1: wrong results and gradients for maps that are not contiguous."""
    loss, y = po.LPIPS("alex", weights=state("alexnet")), images(2, seed=1)
    view = {
        "permuted": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "cropped": lambda x: nn.functional.pad(x, (3, 2, 1, 4), value=9.0)[:, :, 1:-4, 3:-2],
        "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    }[layout]
    results = []
    for dense in (True, False):
        leaf = images(2).requires_grad_()
        x = view(leaf)
        value = loss(x.contiguous() if dense else x, y)
        results.append((value, *torch.autograd.grad(value.sum(), leaf)))
    torch.testing.assert_close(*results)
