"""The bench of losses over any module: verdicts, files, and packages that are not there; none looks at times."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import engine, memory, peers, timing, whole_bench, whole_report
from bench.engine_cases import (
    CASES,
    CHUNKED,
    EVERY,
    NETWORKS,
    OF_LPIPS,
    SQUEEZE,
    VARIANTS,
    EngineCase,
    Network,
    own_loss,
)
from bench.whole_case import Variant, verify

CPU = torch.device("cpu")
SMALL = EngineCase(4, 32, 32, ("eager", "autograd", "ours, chunk 1", "ours, chunk 4"), rounds=2, network="tiny")

if reason := peers.missing("torchvision"):
    pytest.skip(reason, allow_module_level=True)


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(a, b, 3) for a, b in ((3, 32), (32, 32), (32, 32), (32, 4))]
        return nn.Sequential(*(layer for convolution in convolutions for layer in (convolution, nn.GELU())))


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A network of which a case "tiny" is."""
    monkeypatch.setitem(NETWORKS, "tiny", Network(tiny, "output", "torch"))


@pytest.fixture
def small(monkeypatch):
    """A tiny case, a cache that is quick to evict, and memory measured in this process."""
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    monkeypatch.setattr(engine, "CASES", {"cpu": (SMALL,)})
    monkeypatch.setattr(whole_bench, "in_fresh_process", lambda function, *arguments: function(*arguments))


def run(folder) -> tuple[int, list[dict[str, str]]]:
    code = engine.main(["--device=cpu", f"--out={folder}"])
    (path,) = folder.iterdir()
    assert path.name.endswith("-engine.csv")
    with path.open(newline="") as file:
        return code, list(csv.DictReader(file))


def test_end_to_end(tmp_path, capsys, small):
    code, rows = run(tmp_path)
    assert code == 0
    assert [(row["case"], row["variant"], row["chunk"]) for row in rows] == [
        ("tiny 4x32x32", name, chunk) for name, chunk in zip(SMALL.names, "4414", strict=True)
    ]
    for row in rows:
        assert tuple(row) == whole_report.COLUMNS
        assert row["status"] == "passed" and row["count"] == "2"
    eager, _, one, _ = (float(row["allocated_mb"]) for row in rows)
    assert one < 0.5 * eager
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("goal reached: tiny 4x32x32: gradient is ") for line in lines) == 1


class Wrong(nn.Module):
    """The loss, but half its gradient."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.loss = own_loss(network)

    def forward(self, output, target):
        loss = self.loss(output, target)
        return (loss + loss.detach()) / 2


def test_a_wrong_gradient_is_incorrect(tmp_path, monkeypatch, small):
    monkeypatch.setitem(VARIANTS, "ours, chunk 1", Variant(Wrong, chunk=1))
    code, rows = run(tmp_path)
    assert code == 1
    assert [row["status"].partition(" is ")[0] for row in rows] == ["incorrect: ours, chunk 1: gradient"]


def test_a_gradient_that_is_off_misses_its_goal(monkeypatch):
    build = engine.own_loss
    monkeypatch.setattr(
        engine, "own_loss", lambda network, **options: (Wrong if options["engine"] == "lean" else build)(network)
    )
    (line,) = engine.goals(whole_report.Outcome(SMALL), CPU)
    assert line.startswith("goal missed: tiny 4x32x32: gradient is 5.0e-01 off autograd's")


@pytest.mark.parametrize("case", CASES["cpu"], ids=lambda case: case.network)
def test_ours_is_the_same_loss_over_the_real_networks(case):
    side = 56 if case.network.endswith("s14") else 48  # whole patches
    small = replace(case, batch=2, height=side, width=side, names=(case.peer, "ours, chunk 1"))
    names = small.distinct("cpu")
    if len(names) < 2:
        pytest.skip("; ".join(engine.notes([], "cpu")))
    assert verify(small, {name: small.call(name, CPU) for name in names}) == {}


def test_every_variant_is_the_same_loss():
    case = replace(SMALL, names=EVERY)
    calls = {name: case.call(name, CPU) for name in case.distinct("cpu")}
    assert {"eager", "autograd", *CHUNKED[:3]} <= calls.keys()  # and 16 is the same as 4
    assert verify(case, calls) == {}


def test_goals_of_memory_and_time(monkeypatch):
    monkeypatch.setattr(engine, "gradient_error", lambda case, device: 0.0)
    seconds = {"eager": 2.0, "autograd": 1.0, "ours, chunk 1": 2.4, "ours, chunk 4": 2.08}
    outcome = whole_report.Outcome(
        SMALL,
        timings={name: timing.Timing(value, value, value, 3) for name, value in seconds.items()},
        peaks={name: memory.Peak(800) for name in seconds} | {"ours, chunk 1": memory.Peak(100)},
    )
    assert engine.goals(outcome, CPU)[1:] == [
        "goal reached: tiny 4x32x32: memory at chunk 1 is 1/8 of eager's, 1/8 is wanted",
        "goal reached: tiny 4x32x32: ours, chunk 4 takes 1.040 of eager's time, 1.05 at most is wanted",
    ]
    squeeze = replace(SMALL, names=OF_LPIPS, network=SQUEEZE)
    outcome = replace(outcome, case=squeeze, timings=outcome.timings | {"lpips": timing.Timing(2, 2, 2, 3)})
    outcome.peaks["lpips"] = memory.Peak(700)
    assert [line[:12] for line in engine.goals(outcome, CPU)] == ["goal reached", "goal missed:", "goal missed:"]


def test_no_goals_of_memory_and_time_without_the_peer(monkeypatch):
    monkeypatch.setattr(engine, "gradient_error", lambda case, device: 0.0)
    measured = {"ours, chunk 1": timing.Timing(1, 1, 1, 3)}
    peaks = {name: memory.Peak(100) for name in measured}
    outcome = whole_report.Outcome(replace(SMALL, names=tuple(measured)), timings=measured, peaks=peaks)
    assert len(engine.goals(outcome, CPU)) == 1  # the gradient


def test_absent_packages_are_left_out_with_a_sentence(monkeypatch):
    monkeypatch.setattr(peers, "missing", lambda package: f"{package} is left out: so" if package == "timm" else "")
    (tokens,) = (case for case in CASES["cpu"] if case.package == "timm")
    assert tokens.distinct("cpu") == ()
    assert engine.notes([], "cpu") == ["timm is left out: so"]


def test_memsave_is_on_no_index():
    if not peers.missing("memsave_torch"):
        pytest.skip("memsave_torch is installed")
    assert replace(CASES["cpu"][0], names=EVERY).distinct("cpu") == ("eager", "autograd", *CHUNKED)
    assert "git+https://github.com/plutonium-239/memsave_torch" in peers.missing("memsave_torch")
