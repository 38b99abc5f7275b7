"""What `chunked` refuses, and in which words."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from small_losses import patch_gan, rand
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

import perceptual_ops as po

GLOBAL = nn.Linear(4, 1).double()


def images(batch: int = 3) -> Tensor:
    return rand(batch, 3, 16, 16).requires_grad_()


def rows(batch: int = 3) -> Tensor:
    return rand(batch, 4).requires_grad_()


def run(fn: Callable[..., Tensor], x: Tensor, *others: Tensor, compiled: bool = False) -> Tensor:
    loss = po.chunked(fn, chunk_size=2)
    return (torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss)(x, *others)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, "2"])
def test_chunk_size(size: object) -> None:
    with pytest.raises(ValueError, match="chunk_size: expected a whole number of at least 1, got"):
        po.chunked(patch_gan(), chunk_size=size)


def test_fn_is_callable() -> None:
    with pytest.raises(TypeError, match="fn: expected a function or module, got Tensor"):
        po.chunked(rand(3), chunk_size=1)


def total(x: Tensor, *others: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, "output: expected a tensor, got NoneType"),
        ((torch.arange(3),), TypeError, "output: expected dtype float32, .* or float64, got torch.int64"),
        ((torch.rand(3, dtype=torch.complex64),), TypeError, "output: expected dtype .* got torch.complex64"),
        ((torch.rand(()),), ValueError, r"output: expected a batch of samples, shape \(N, ...\), got a scalar"),
        ((torch.rand(3, 4).to_sparse(),), TypeError, r"output: expected a dense tensor.*output.to_dense\(\)"),
        ((rows(), rand(3), 0.5), TypeError, r"others\[1\]: expected a tensor with a row per sample, got float; let fn"),
        ((rows(), rand(4)), ValueError, r"others\[0\]: expected a batch of 3, .* or of 1; got shape \(4,\)"),
        ((rows(), rand(3, 4).sum()), ValueError, r"others\[0\]: expected a batch of 3, .* got shape \(\)"),
        ((rows(), rand(3), rows()), ValueError, r"others\[1\]: expected no requires_grad.*others\[1\].detach\(\)"),
    ],
)  # fmt: skip
def test_arguments(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(total, *arguments)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda x: x.sum(), ValueError, r"fn: expected one number per sample, shape \(2,\) .* \(2, 4\); got \(\)"),
        (lambda x: x, ValueError, r"fn: .* got \(2, 4\); reduce over all dimensions but the first"),
        (lambda x: x.sum(1, keepdim=True), ValueError, r"fn: .* got \(2, 1\)"),
        (lambda x: [x.sum(1)], TypeError, "fn: expected a tensor of one number per sample, got list"),
        (lambda x: 1.0, TypeError, "fn: expected a tensor of one number per sample, got float"),
        (lambda x: x.sum(1).long(), TypeError, "fn: expected a floating-point tensor, got torch.int64"),
        (lambda x: x.sum(1).to(torch.complex64), TypeError, "fn: .* floating-point tensor, got torch.complex64"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("grad", [True, False])
def test_results(fn: Callable, error: type[Exception], message: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(error, match=message):
        run(fn, rows())


@pytest.mark.parametrize("fn", [lambda x: x.detach().sum(1), lambda x: torch.ones_like(x[:, 0])])
def test_values_that_do_not_depend_on_output(fn: Callable) -> None:
    with pytest.raises(ValueError, match=r"fn: expected values that depend on output.*torch.no_grad\(\)"):
        run(fn, rows())
    assert run(fn, rows().detach()).shape == (3,)


class Scorer:
    """Not a module, and holds one."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x).mean((1, 2, 3))

    def score(self, x: Tensor) -> Tensor:
        return self(x)


class Scores(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).mean((1, 2, 3))


def mean_of(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).mean((1, 2, 3))


def closure(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: network(x).mean((1, 2, 3))


def doubled(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: 2 * inner(x)


HOLDERS: dict[str, tuple[Callable[[nn.Module], Callable], str]] = {
    "module": (Scores, "network."),
    "closure": (closure, "network."),
    "closure of a closure": (lambda network: doubled(closure(network)), "inner.network."),
    "partial": (lambda network: functools.partial(mean_of, network), r"args\[0\]."),
    "bound method": (lambda network: Scorer(network).score, "self.network."),
    "module's bound method": (lambda network: Scores(network).forward, "self.network."),
    "object": (Scorer, "network."),
    "default": (lambda network: lambda x, net=network: mean_of(net, x), "net."),
    "list": (lambda network: (lambda nets: lambda x: mean_of(nets[0], x))([network]), r"nets.\[0\]."),
}  # fmt: skip


@pytest.mark.parametrize(("holder", "compiled"), [*((holder, False) for holder in HOLDERS), ("closure", True)])
def test_parameters_by_name(holder: str, compiled: bool) -> None:
    network, (hold, prefix) = patch_gan(), HOLDERS[holder]
    network[5].bias.requires_grad_()
    message = rf"fn: expected frozen networks.* such: {prefix}5.bias; freeze them by requires_grad_\(False\)"
    for x in (images(), images().detach()):
        with pytest.raises(ValueError, match=message):
            run(hold(network), x, compiled=compiled)
    with torch.no_grad():
        assert run(hold(network), images()).shape == (3,)
    network.requires_grad_(False)
    run(hold(network), images()).sum().backward()


def test_parameters_are_counted() -> None:
    network = patch_gan().requires_grad_()
    with pytest.raises(ValueError, match=r"such: network.0.weight, network.0.bias, .* and 5 more; freeze"):
        run(closure(network), images())


def test_parameters_of_globals_and_without_a_name() -> None:
    with pytest.raises(ValueError, match=r"such: GLOBAL.weight, GLOBAL.bias; freeze"):
        run(lambda x: GLOBAL(x)[:, 0], rows())
    with pytest.raises(ValueError, match=r"such: one of shape \(5,\); freeze"):
        run(lambda x: x.sum(1) + torch.ones(5, requires_grad=True).sum(), rows())
    with pytest.raises(ValueError, match=r"such: one of shape \(2,\); freeze"):
        run(lambda x: torch.zeros(2, requires_grad=True), rows(2))


def test_tensors_with_a_history() -> None:
    features = GLOBAL(rand(1, 4))[0]
    with pytest.raises(ValueError, match=r"such: features; freeze .* pass .detach\(\)"):
        run(lambda x: x.sum(1) * features, rows())
    kept = features.detach()
    run(lambda x: x.sum(1) * kept, rows()).sum().backward()


@pytest.mark.parametrize("leaf", [True, False])
def test_output_by_another_way(leaf: bool) -> None:
    output = rows() if leaf else rows() * 2
    with pytest.raises(ValueError, match="such: output; freeze"):
        run(lambda x: x.sum(1) * output.mean(), output)


class Norm(nn.Module):
    """Batch normalisation as a submodule of one that is elsewhere in training."""

    def __init__(self, **settings: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, **settings).double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).square().sum(1)


@pytest.mark.parametrize("grad", [True, False])
def test_batch_norm_of_a_module(grad: bool) -> None:
    fn = Norm()
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=r"in training mode: norm; call .eval\(\)"):
        run(fn, rows())
    run(fn.eval(), rows(4)).sum().backward()


def test_batch_norm_of_a_function() -> None:
    fn = Norm()
    with pytest.raises(ValueError, match=r"by the statistics of a chunk: fn.norm; call .eval\(\)"):
        run(lambda x: fn(x), rows(4))
    with pytest.raises(ValueError, match=r"by the statistics of a chunk: self.norm; call"):
        run(fn.forward, rows(4))
    run(lambda x: fn.eval()(x), rows(4)).sum().backward()
    with pytest.raises(ValueError, match="by the statistics of a chunk: NativeBatchNormBackward0"):
        run(lambda x: functional.batch_norm(x, None, None, training=True).square().sum(1), rows(4))
    without = Norm(affine=False, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="by the statistics of a chunk"):
        run(without, rows(4))


def test_batch_norm_that_fn_does_not_use() -> None:
    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = Norm(), patch_gan()

        def loss(self, x: Tensor) -> Tensor:
            return mean_of(self.discriminator, x)

    run(Trainer().loss, images()).sum().backward()


def test_instance_and_group_norm_are_of_one_sample() -> None:
    network = nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)).double().train().requires_grad_(False)
    run(lambda x: network(x).abs().mean((1, 2, 3)), images()).sum().backward()


def test_second_derivative() -> None:
    x = rows()
    values = run(lambda x: x.pow(3).sum(1), x)
    with pytest.raises(RuntimeError, match=r"made in its forward.*call fn itself.*create_graph=True"):
        torch.autograd.grad(values.sum(), x, create_graph=True)


def test_a_gradient_penalty_within_fn() -> None:
    def penalty(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        return slope.square().sum(1)

    x = rows()
    (gradient,) = torch.autograd.grad(run(penalty, x).sum(), x)
    torch.testing.assert_close(gradient, 36 * x.detach() ** 3)


def test_transforms_and_tangents() -> None:
    loss, x = po.chunked(total, chunk_size=2), rows().detach()
    for transformed in (torch.func.grad(lambda x: loss(x).sum()), torch.vmap(lambda x: loss(x[None]))):
        with pytest.raises(RuntimeError, match=r"torch.func: expected no transform .*transform fn itself"):
            transformed(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for arguments, name in (((dual, x), "output"), ((x, dual), r"others\[0\]")):
            with pytest.raises(RuntimeError, match=f"{name}: expected no forward-mode tangent.*call fn itself"):
                loss(*arguments)


def test_made_while_compiling_and_gone_afterwards() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"expected to be made before torch.compile is at work"):
        torch.compile(lambda x: po.chunked(total, chunk_size=2)(x), fullgraph=True, backend="eager")(rows())
    with pytest.raises(RuntimeError, match=r"expected the chunked.*this process holds it no more, or never did"):
        torch.ops.perceptual_ops.chunked(rows(), [], "another process/0", 2, None, True, True)
