"""Losses as programs (torch.export, torch.jit.trace, AOTInductor) and in other processes: with their own weights."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from perceptual import images, make
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine import registry
from perceptual_ops.engine.registry import trunk_by_key

# What opens the programs: torch alone, and not the process that made them.
RUN = """
import sys, torch
program, x, y = torch.load(sys.argv[1] + "/inputs.pt").values()
found = {}
for name in program:
    for kind in ("export", "trace"):
        path = f"{sys.argv[1]}/{name}." + ("pt2" if kind == "export" else "trace")
        loss = torch.export.load(path).module() if kind == "export" else torch.jit.load(path)
        output = x.clone().requires_grad_()
        value = loss(output, y)
        value.sum().backward()
        found[f"{name} {kind}"] = value.detach(), output.grad
assert not any(name.startswith("perceptual_ops") for name in sys.modules)
torch.save(found, sys.argv[1] + "/found.pt")
"""


def losses() -> dict[str, nn.Module]:
    """Of AlexNet and VGG with weights that no other loss of the suite has."""
    criterion = make(tv_weight=0.1)
    criterion.set_style(images(1, 30, seed=3))
    weights = po.load_network("alexnet", "random", seed=7).state_dict()
    return {"perceptual": criterion, "lpips": po.LPIPS("alex", weights=weights)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_programs_hold_their_weights(tmp_path: Path) -> None:
    """Value and gradient where this library is not imported, for another batch than they were made with.

    Of DISTS, and of metrics on other sizes, speaks test_compat_programs.
    """
    made = losses()
    example, other = (images(2, 40), images(2, 40, seed=1)), (images(3, 40, seed=4), images(3, 40, seed=5))
    sides = {0: torch.export.Dim.DYNAMIC}
    for name, loss in made.items():
        program = torch.export.export(loss, example, dynamic_shapes=(sides, sides))
        torch.export.save(program, tmp_path / f"{name}.pt2")
        torch.jit.trace(loss, example, check_trace=False).save(str(tmp_path / f"{name}.trace"))
    torch.save({"names": list(made), "x": other[0], "y": other[1]}, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=True, cwd=tmp_path)
    for name, (value, gradient) in torch.load(tmp_path / "found.pt").items():
        output = other[0].clone().requires_grad_()
        expected = made[name.split()[0]](output, other[1])
        torch.testing.assert_close(value, expected.detach(), msg=name)
        (expected_gradient,) = torch.autograd.grad(expected.sum(), output)
        assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm(), name


def test_ahead_of_time_inductor(tmp_path: Path) -> None:
    criterion = po.PerceptualLoss("vgg11", weights="random", content_layers=["relu1_1"])
    x, y = images(2), images(2, seed=1)
    with torch.no_grad():
        program = torch.export.export(criterion, (x, y))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "loss.pt2"))
        torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x, y), criterion(x, y))


def test_a_strict_export_is_refused() -> None:
    with pytest.raises(Exception, match=r"torch\.export: expected strict=False"):
        torch.export.export(make(), (images(2), images(2), images(1)), strict=True)


def test_export_leaves_the_engine_alone() -> None:
    """The program and the loss that it was made of, side by side, and the loss compiled after its export."""
    criterion, x, y, style = make(), images(2), images(2, seed=1), images(1, seed=2)
    program = torch.export.export(criterion, (x, y, style)).module()
    torch.testing.assert_close(program(x, y, style), criterion(x, y, style))
    torch.testing.assert_close(torch.compile(criterion, backend="eager")(x, y, style), criterion(x, y, style))


def _value(pipe: multiprocessing.connection.Connection, criterion: nn.Module, x: Tensor, y: Tensor) -> None:
    pipe.send(criterion(x, y).item())


def test_a_spawned_process_and_a_pickled_compiled_loss() -> None:
    criterion = make(style_layers=None)
    x, y = images(2), images(2, seed=1)
    compiled = torch.compile(criterion, backend="eager")
    expected = compiled(x, y).item()
    assert pickle.loads(pickle.dumps(compiled))(x, y).item() == expected
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_value, args=(sender, criterion, x, y))
    process.start()
    assert receiver.poll(600)  # a guard against a child that died
    assert receiver.recv() == pytest.approx(expected, rel=1e-6)  # it may use another number of threads
    process.join()


def test_a_key_names_the_weights() -> None:
    """A graph that was kept by a compiler holds the key: elsewhere it finds the same weights, or a sentence."""
    first, same = make()._trunk, make()._trunk
    other = po.PerceptualLoss("vgg11", weights="random", content_layers=["relu1_1"])._trunk
    assert first.key != same.key and trunk_by_key(first.key) is first and trunk_by_key(same.key) is same
    content = first.key.rpartition("/")[0]
    assert trunk_by_key(f"{content}/of another process").key.startswith(f"{content}/")
    assert content != other.key.rpartition("/")[0]
    with pytest.raises(RuntimeError, match="expected a loss over vgg11 on cpu whose weights hash to 0123, this proc"):
        trunk_by_key("vgg11/cpu/0123/0")


def of_module() -> po.PerceptualLoss:
    return po.PerceptualLoss(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), content_layers=["1"])


def test_only_a_call_hashes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a while for a large network: a move does not."""
    hashed = []
    genuine = registry.content_hash
    monkeypatch.setattr(registry, "content_hash", lambda network: hashed.append(network) or genuine(network))
    for criterion in (make(style_layers=None), of_module()):
        hashed.clear()
        criterion.double().float()
        criterion.replace_network_weights(criterion.frozen_network.state_dict())
        copy.deepcopy(criterion)
        assert not hashed
        for _ in range(2):
            criterion(images(1), images(1, seed=1))
            assert len(hashed) == 1
        criterion.double()(images(1), images(1, seed=1))
        assert len(hashed) == 2


def test_a_graph_finds_the_weights_that_a_loss_has_now() -> None:
    weights = po.load_network("vgg11", "random", layers=["relu1_1"], seed=11).state_dict()
    criterion = po.PerceptualLoss("vgg11", weights=weights, content_layers=["relu1_1"])
    content = criterion._trunk.content()
    assert trunk_by_key(f"{content}/of another process") is criterion._trunk
    criterion.replace_network_weights({name: 2 * weight for name, weight in weights.items()})
    with pytest.raises(RuntimeError, match="this process holds none"):
        trunk_by_key(f"{content}/of another process")
    never_called = po.PerceptualLoss("vgg11", weights=weights, content_layers=["relu1_1"])
    assert trunk_by_key(f"{content}/of another process") is never_called._trunk


def test_a_compiled_function_tells_losses_apart() -> None:
    """That were not called before: the key is made while Dynamo traces."""
    losses = [
        po.PerceptualLoss("vgg11", weights=weights, content_layers=["relu1_1"])
        for weights in (
            po.load_network("vgg11", "random", layers=["relu1_1"], seed=seed).state_dict() for seed in (5, 6)
        )
    ]
    x, y = images(2), images(2, seed=1)
    compiled = torch.compile(lambda loss, x, y: loss(x, y), fullgraph=True, backend="aot_eager")
    both = torch.compile(lambda x, y: losses[0](x, y) + losses[1](x, y), fullgraph=True, backend="aot_eager")
    found = [compiled(loss, x, y) for loss in losses]
    expected = [loss(x, y) for loss in losses]
    assert found == expected and found[0] != found[1] and both(x, y) == sum(expected)
    losses[0].double()
    torch.testing.assert_close(compiled(losses[0], x.double(), y.double()), expected[0].double())


def test_a_key_changes_with_the_weights() -> None:
    network = po.load_network("vgg11", "random", layers=["relu1_1"])
    before = po.PerceptualLoss(network, content_layers=["relu1_1"])._trunk.key.split("/")[2]
    with torch.no_grad():
        network.conv1_1.bias[3] = 0.5
    assert po.PerceptualLoss(network, content_layers=["relu1_1"])._trunk.key.split("/")[2] != before


@pytest.mark.parametrize("loss", ["perceptual", "lpips"])
def test_a_program_of_a_loss_with_chunks_takes_any_batch(loss: str) -> None:
    made, x, y = losses()[loss], images(4, 52), images(4, 52, seed=1)
    made.chunk_size = 1
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(made, (x, y), dynamic_shapes=(batch, batch)).module()
    torch.testing.assert_close(program(x[:3], y[:3]), made(x[:3], y[:3]))
