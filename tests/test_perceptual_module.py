"""PerceptualLoss inside a training program: optimizers, checkpoints, copies, dtypes, autocast, compile, threads."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from process_group import process_group
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import perceptual_ops as po


def images(batch: int = 2, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.rand((batch, 3, 20, 22), generator=torch.Generator().manual_seed(seed)).to(device)


def make(device: str = "cpu", **settings: object) -> po.PerceptualLoss:
    criterion = po.PerceptualLoss(
        "vgg11", weights="random", content_layers=["relu2_1"], style_layers=["relu1_1"], **settings
    )
    criterion = criterion.to(device)
    criterion.set_content(images(2, 1, device))
    criterion.set_style(images(1, 2, device))
    return criterion


class Model(nn.Module):
    """A model that keeps its loss as an attribute, as Lightning modules do."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)
        self.criterion = make(device)
        self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        return self.criterion(torch.sigmoid(self.body(x)))


def test_a_parent_sees_no_tensor_of_it() -> None:
    model = Model()
    assert {name for name, _ in model.named_parameters()} == {"body.weight", "body.bias"}
    assert not list(model.criterion.parameters())
    assert not list(model.buffers())
    assert set(model.state_dict()) == {"body.weight", "body.bias"}
    assert [name for name, _ in model.criterion.named_modules()] == [""]
    groups = torch.optim.SGD(model.parameters(), lr=0.1).param_groups[0]["params"]
    assert sum(parameter.numel() for parameter in groups) == 3 * 3 * 9 + 3
    model.load_state_dict(model.state_dict(), strict=True)
    model.requires_grad_(True)
    model(images()).backward()
    assert all(parameter.grad is None for parameter in model.criterion._network.parameters())


def test_training_lowers_it(device: str) -> None:
    torch.manual_seed(0)
    model = Model(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(images(device=device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "torch.save"])
def test_copies_give_the_same_bits(duplicate: str, device: str) -> None:
    criterion, x = make(device), images(device=device)
    if duplicate == "deepcopy":
        other = copy.deepcopy(criterion)
    elif duplicate == "pickle":
        other = pickle.loads(pickle.dumps(criterion))
    else:
        file = io.BytesIO()
        torch.save(criterion, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(other(x), criterion(x))
    other.to(torch.float64)
    assert criterion._network.dtype == torch.float32
    assert other._network.dtype == torch.float64


def test_train_and_eval_change_nothing() -> None:
    criterion, x = make(), images()
    expected = criterion(x)
    assert torch.equal(criterion.train()(x), expected)
    assert not any(module.training for module in criterion._network.modules())
    assert torch.equal(criterion.eval()(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_to_dtype_casts_the_trunk_only(dtype: torch.dtype, device: str) -> None:
    criterion, x = make(device), images(device=device).requires_grad_()
    expected = criterion(x)
    criterion.to(dtype)
    assert criterion._network.dtype == dtype
    for name, tensors in criterion._kept.items():  # the normalisation is as exact as what is computed with it
        exact = dtype == torch.float64 and name == "input"
        assert all(kept.dtype == (torch.float64 if exact else torch.float32) for kept in tensors)
    loss = criterion(x)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.float(), expected, rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.dtype == x.dtype
    assert gradient.isfinite().all()
    half = criterion(x.detach().to(torch.bfloat16))  # images may come in any dtype
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0)


def features_dtype(criterion: po.PerceptualLoss, x: Tensor) -> torch.dtype:
    return criterion.features(x, ["relu2_1"])[0].dtype


def test_compute_dtype_and_autocast(device: str) -> None:
    x = images(device=device).requires_grad_()
    expected = make(device)(x)
    for settings, autocast, dtype in (
        ({}, True, torch.bfloat16),
        ({"compute_dtype": torch.bfloat16}, False, torch.bfloat16),
        ({"compute_dtype": torch.float16}, True, torch.float16),
        ({"compute_dtype": torch.float32}, True, torch.float32),
        ({}, False, torch.float32),
    ):
        criterion = make(device, **settings)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            assert features_dtype(criterion, x) == dtype
            loss = criterion(x)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("dynamic", "autocast", "compiler"),
    [(False, False, "aot_eager"), (False, True, "inductor"), (True, False, "inductor"), (True, True, "aot_eager")],
)
def test_compiled_training_step(dynamic: bool, autocast: bool, compiler: str, device: str) -> None:
    """A whole step in one graph; its value and gradients are eager's."""
    torch.manual_seed(0)
    model = Model(device)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=compiler)
    for batch in (2, 2) if not dynamic else (2, 4):
        x = images(batch, device=device)
        model.criterion.set_content(images(batch, 1, device))
        results = []
        for run in (model, compiled):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
                loss = run(x)
            results.append((loss.detach(), *torch.autograd.grad(loss, list(model.body.parameters()))))
        torch.testing.assert_close(
            results[1], results[0], rtol=0.1 if autocast else 1e-4, atol=1e-3 if autocast else 1e-6
        )


def test_fp16_under_a_scaled_loss_has_the_gradient_of_fp32() -> None:
    """With the factor that a GradScaler gives, and without one."""
    x = images().requires_grad_()
    (expected,) = torch.autograd.grad(make()(x), x)
    for factor in (1.0, 2.0**16):
        (gradient,) = torch.autograd.grad(factor * make(compute_dtype=torch.float16)(x), x)
        assert (gradient / factor - expected).norm() < 0.05 * expected.norm()


def test_compute_dtype_beside_a_moved_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"compute_dtype: expected None or torch.bfloat16.*got torch.float32"):
        make(compute_dtype=torch.float32).to(torch.bfloat16)(images())


def test_defaults_of_the_caller_do_not_reach_it() -> None:
    settings = {"weights": "random", "content_layers": ["relu2_1"]}
    expected = po.PerceptualLoss("vgg11", **settings)(images(), images(seed=1))
    try:
        torch.set_default_dtype(torch.float64)
        criterion = po.PerceptualLoss("vgg11", **settings)
    finally:
        torch.set_default_dtype(torch.float32)
    assert criterion._network.dtype == torch.float32
    assert torch.equal(criterion(images(), images(seed=1)), expected)


def test_fp64_images_do_not_change_the_dtype_of_the_loss() -> None:
    assert make(tv_weight=0.1)(images().double()).dtype == torch.float32


def test_made_and_moved_in_inference_mode_it_trains_later() -> None:
    with torch.inference_mode():
        criterion = make().to(torch.float64).to(torch.float32)
    leaf = images().requires_grad_()
    criterion(leaf).backward()
    torch.testing.assert_close(leaf.grad, torch.autograd.grad(make()(leaf), leaf)[0])


def test_targets_of_a_shallow_copy_are_its_own() -> None:
    criterion = make()
    expected = criterion(images())
    copy.copy(criterion).set_content(images(seed=9))
    assert torch.equal(criterion(images()), expected)


def test_kept_targets_move_with_it(device: str) -> None:
    criterion = make()
    expected = criterion(images())
    criterion.to(device)
    torch.testing.assert_close(criterion(images(device=device)).cpu(), expected)
    meta = copy.deepcopy(criterion).to("meta")
    assert all(kept.is_meta for tensors in meta._kept.values() for kept in tensors)
    with pytest.raises(ValueError, match="output: expected images on meta, where the loss is"):
        meta(images(device=device))


def test_a_module_keeps_its_device() -> None:
    trunk = nn.Conv2d(3, 4, 3, device="meta")
    criterion = po.PerceptualLoss(nn.Sequential(trunk), content_layers=["0"])
    assert criterion.device.type == "meta"


def test_second_backward_and_second_derivative() -> None:
    criterion = make(tv_weight=0.1, engine="autograd").double()
    x = images().double().requires_grad_()
    loss = criterion(x)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(2 * loss, x)
    torch.testing.assert_close(again, 2 * first)
    (gradient,) = torch.autograd.grad(criterion(x), x, create_graph=True)
    (curved,) = torch.autograd.grad((gradient**2).sum(), x)
    reference = make(tv_weight=0.1, backend="reference").double()
    (gradient,) = torch.autograd.grad(reference(x), x, create_graph=True)
    (expected,) = torch.autograd.grad((gradient**2).sum(), x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(curved, expected)


def test_data_parallel_sees_the_body_only(tmp_path: Path) -> None:
    with process_group(tmp_path / "store"):
        torch.manual_seed(0)
        model = Model()
        model(images()).backward()
        expected = model.body.weight.grad.clone()
        model.zero_grad()
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(images()).backward()
        assert torch.equal(model.body.weight.grad, expected)
        assert len(list(parallel.parameters())) == 2
        assert not list(parallel.buffers())
        del parallel  # before the group


def test_no_grad_and_inference_mode(device: str) -> None:
    criterion, x = make(device), images(device=device)
    expected = criterion(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(criterion(x), expected)
            criterion.set_content(images(2, 1, device))  # targets kept here serve in training too
            criterion.set_style(images(1, 2, device))
        leaf = x.clone().requires_grad_()
        criterion(leaf).backward()
        assert leaf.grad is not None


def test_checkpointing_around_it() -> None:
    criterion, x = make(), images().requires_grad_()
    (expected,) = torch.autograd.grad(criterion(x), x)
    (gradient,) = torch.autograd.grad(checkpoint(criterion, x, use_reentrant=False), x)
    assert torch.equal(gradient, expected)


def test_threads_share_it() -> None:
    criterion = make()
    batches = [images(seed=seed) for seed in range(8)]
    expected = [criterion(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(criterion, batches * 4))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 4, strict=True))


def test_prints_and_warns_nothing(capfd: pytest.CaptureFixture[str], native: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = images().requires_grad_()
        make(tv_weight=0.1, backend=native)(x).backward()
    assert capfd.readouterr() == ("", "")


def test_it_prints_what_it_is() -> None:
    assert "vgg11" in repr(make())
    assert "relu2_1" in repr(make())
