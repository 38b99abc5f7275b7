"""The suites of losses: whether rivals make the same numbers, verdicts, and peers that are not there."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from bench_runs import CPU, by_name, run, suite_of
from torch import nn

from bench import console, memory, peers, runner, timing
from bench.case import BF16, FP32, Case, ImageCase, Variant, verify
from bench.plain import PlainFeatureLoss, PlainLoss
from bench.suites import adaptive, clips, loss, metrics, modules, steps, suites, tiles
from perceptual_ops import PerceptualLoss

pytestmark = [
    pytest.mark.usefixtures("library"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torchvision's of deprecated arguments
]
MIB = timing.MIB
SMALL = loss.of("2x48x48", ("eager fp32", "channels_last fp32", "ours fp32"), rounds=2)
PACKAGES = ("lpips", "torchmetrics", "piq", "DISTS_pytorch", "torchvision", "timm", "transformers")


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(a, b, 3) for a, b in ((3, 32), (32, 32), (32, 32), (32, 4))]
        return nn.Sequential(*(layer for convolution in convolutions for layer in (convolution, nn.GELU())))


def uncompiled(case: Case) -> Case:
    return replace(case, names=tuple(name for name in case.names if "compiled" not in name and "graphs" not in name))


def check(case: Case) -> None:
    """Every variant that can be had and takes no minutes to compile."""
    names = uncompiled(case).available("cpu")
    assert sum(case.variant(name).is_ours for name in names), names
    wrong = {name: found.wrong for name, found in verify(case, {name: case.call(name, CPU) for name in names}).items()}
    assert not any(wrong.values()), wrong


def small(case: ImageCase, batch: int = 2, height: int = 48, width: int = 64) -> ImageCase:
    return replace(case, batch=batch, height=height, width=width)


CASES = {
    "loss": small(loss.of("4x128x128")),
    "lpips": small(metrics.of("lpips-vgg", "4x128x128")),
    "lpips forward": small(metrics.of("lpips-alex", "4x128x128", gradient=False), height=64),
    "dists": small(metrics.of("dists", "4x128x128")),
    "adaptive": small(adaptive.CASES[1], height=32, width=32),
    "clips": small(clips.CASES[0], batch=1),
    "sr": small(steps.CASES[0], height=32, width=32),
    "kl-vae": small(steps.CASES[1], batch=1, height=32, width=32),
    "tiles": replace(tiles.CASES[0], height=96, width=96),
}


@pytest.mark.parametrize("name", CASES)
def test_every_variant_makes_the_same_numbers(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("case", modules.CASES, ids=lambda case: case.name)
def test_modules_give_the_same_numbers(case: modules.ModuleCase) -> None:
    if not case.available("cpu"):
        pytest.skip(peers.missing(case.package))
    side = 56 if case.network.endswith("s14") else 48  # whole patches
    ours = replace(case, names=(case.names[0], "ours fp32"))
    check(small(ours, height=side, width=side))


def test_chunks_of_a_module_take_less_memory(tmp_path, monkeypatch) -> None:
    if reason := peers.missing("torchvision"):
        pytest.skip(reason)
    monkeypatch.setitem(modules.NETWORKS, "tiny", modules.Network(tiny, "output", "torch"))
    names = ("eager fp32", "autograd fp32", "ours fp32", "ours, chunk 2 fp32")
    case = replace(modules.CASES[0], names=names, network="tiny", batch=4, height=32, width=32, rounds=2)
    with suite_of(replace(case, network="tiny")):
        code, rows = run(tmp_path)
    found = by_name(rows)
    assert code == 0 and [row["chunk"] for row in rows] == ["4", "4", "4", "2"]  # 64 chunks of 32 x 32 are one
    assert float(found["ours, chunk 2 fp32"]["allocated_mb"]) < 0.7 * float(found["eager fp32"]["allocated_mb"])


# ---- a run ----


def test_end_to_end(tmp_path, capsys) -> None:
    with suite_of(SMALL):
        code, rows = run(tmp_path)
    assert code == 0
    assert [f"{row['variant']} {row['dtype']}" for row in rows] == list(SMALL.names)
    for row in rows:
        assert row["case"] == "2x48x48" and row["status"] == "passed" and row["count"] == "2" and row["chunk"] == "2"
        assert float(row["allocated_mb"]) > 0 and row["resident_mb"] and float(row["error"]) < 1e-2
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("small 2x48x48") for line in lines) >= len(SMALL.names)


def test_beside_busy_processes_time_alone_is_measured(tmp_path) -> None:
    with suite_of(SMALL):
        run(tmp_path)
        _, rows = run(tmp_path, "--busy=1")
    assert [row["busy"] for row in rows] == ["0"] * 3 + ["1"] * 3  # the others stay
    assert all(row["ratio"] and bool(row["allocated_mb"]) == (row["busy"] == "0") for row in rows)


class Halved(PlainLoss):
    """Half the gradient."""

    def forward(self, output, target):
        value = super().forward(output, target)
        return (value + value.detach()) / 2


class Raises(PlainLoss):
    def forward(self, output, target):
        raise RuntimeError("no kernel for this input")


@pytest.mark.parametrize("wrong", [Halved, Raises])
def test_a_wrong_variant_is_incorrect_and_not_timed(wrong, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(loss.VARIANTS, "ours fp32", Variant("ours", lambda: wrong("random"), chunk=None))
    with suite_of(SMALL):
        code, (row,) = run(tmp_path)
    assert code == 1
    assert row["status"].startswith("incorrect: ours fp32") and row["median_ms"] == row["allocated_mb"] == ""
    assert "incorrect: small 2x48x48: ours fp32" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [Halved, Raises])
def test_a_wrong_rival_hides_no_figure_of_ours(wrong, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(loss.VARIANTS, "channels_last fp32", Variant("channels_last", lambda: wrong("random")))
    with suite_of(SMALL):
        code, rows = run(tmp_path)
    found = by_name(rows)
    assert code == 0 and found["ours fp32"]["status"] == "passed" and found["ours fp32"]["median_ms"]
    rival = found["channels_last fp32"]
    assert rival["status"].startswith("incorrect") and rival["median_ms"] == rival["allocated_mb"] == ""
    assert "incorrect: small 2x48x48: channels_last fp32" in capsys.readouterr().out


def test_a_step_without_the_loss_is_no_rival(tmp_path, capsys) -> None:
    names = ("eager fp32", "without the loss fp32", "ours fp32")
    with suite_of(replace(small(steps.CASES[0], batch=1, height=32, width=32), names=names, rounds=1)):
        code, rows = run(tmp_path)
    assert code == 0 and by_name(rows)["without the loss fp32"]["ratio"]
    assert "without the loss fp32 takes" not in capsys.readouterr().out


# ---- what a case is ----


def test_a_call_under_two_names_is_run_once() -> None:
    names = ("eager fp32", "ours fp32", "ours, chunk 1 fp32", "ours, chunk 32 fp32")
    assert loss.of("1x64x64", names).available("cpu") == ("eager fp32", "ours fp32")
    assert loss.of("4x64x64", names).available("cpu")[:3] == names[:3]


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_plain_loss_is_the_preset(dtype: torch.dtype) -> None:
    output, target, style = (torch.rand(2, 3, 40, 24), torch.rand(2, 3, 40, 24), torch.rand(1, 3, 32, 32))
    plain, preset = PlainLoss("random"), PerceptualLoss.preset("johnson-style", weights="random", compute_dtype=dtype)
    for each in (plain, preset):
        each.set_style(style)
    torch.testing.assert_close(
        preset(output, target), plain(output, target), rtol=1e-5 if dtype == FP32 else 0.01, atol=0
    )


def test_the_plain_feature_loss_is_the_preset() -> None:
    output, target = torch.rand(2, 2, 3, 40, 24)
    torch.testing.assert_close(
        PlainFeatureLoss()(output, target), PerceptualLoss.preset("srgan", weights="random")(output, target)
    )


# ---- peers ----


@pytest.fixture
def without_peers(monkeypatch):
    """None of the peers can be imported."""
    for name in PACKAGES[:4]:
        monkeypatch.setitem(sys.modules, name, None)
    peers.missing.cache_clear()
    yield
    peers.missing.cache_clear()


def test_absent_peers_are_left_out_with_a_sentence(without_peers) -> None:
    cases = [case for suite in suites() if suite.name == "metrics" for case in suite.cases["cpu"]]
    for case in cases:
        names = case.available("cpu")
        assert {"plain fp32", "ours fp32"} <= {*names} and names[0] in ("plain fp32", "ours fp32")
        assert not any(case.variant(name).package for name in names)
    said = console.left_out(cases, [])
    assert [line.partition(" is left out: ")[0] for line in said if "pyiqa" not in line] == [
        "lpips", "torchmetrics", "piq", "DISTS_pytorch",
    ]  # fmt: skip
    assert all("pip install" in line for line in said)


def test_memsave_is_on_no_index() -> None:
    if not peers.missing("memsave_torch"):
        pytest.skip("memsave_torch is installed")
    assert "git+https://github.com/plutonium-239/memsave_torch" in peers.missing("memsave_torch")


@pytest.mark.parametrize("package", ["lpips", "torchmetrics", "piq", "pyiqa", "DISTS_pytorch"])
def test_peers_are_frozen_copies_of_our_random_trunk(package: str) -> None:
    if reason := peers.missing(package):
        pytest.skip(reason)
    metric = "dists" if package == "DISTS_pytorch" else "lpips-vgg"
    theirs = (metrics.DISTS if metric == "dists" else metrics.LPIPS)[f"{package} fp32"].build(metric)
    first = next(layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d))
    own = next(layer for layer in metrics.own_metric(metric)._network.modules() if isinstance(layer, nn.Conv2d))
    torch.testing.assert_close(first.weight, own.weight, rtol=0, atol=0)
    assert not first.weight.requires_grad


# ---- memory ----


def doubled(n_mib: int):
    """A call with two tensors of n MiB alive at once, of which it returns one."""

    def call() -> torch.Tensor:
        return torch.ones(n_mib * MIB, dtype=torch.uint8) + 1

    return call


@pytest.mark.parametrize("name", ["loss", "tiles"])
def test_memory_is_that_of_a_module_that_was_called_before(name: str, monkeypatch) -> None:
    """What a first call prepares and keeps, such as weights, is none of a call's memory."""
    called: list[int] = []
    call = nn.Module.__call__

    def counted(module: nn.Module, *arguments: object, **keywords: object) -> object:
        called.append(id(module))
        return call(module, *arguments, **keywords)

    monkeypatch.setattr(nn.Module, "__call__", counted)
    runner._fresh_peak(CASES[name], "ours fp32", CPU)
    assert len(called) == 3 and len(set(called)) == 1


def peak_of_doubled(n_mib: int) -> memory.Peak:
    return memory.peak(doubled(n_mib), CPU)


def test_allocated_peak_counts_what_is_alive_at_once() -> None:
    def one_after_another() -> None:
        for _ in range(3):
            doubled(4)()

    assert memory.allocated_peak(one_after_another) == pytest.approx(8 * MIB, abs=1024)


def test_a_fresh_process_sees_a_known_allocation() -> None:
    found = memory.in_fresh_process(peak_of_doubled, 64)
    assert found.allocated == pytest.approx(128 * MIB, abs=1024)
    assert found.resident == pytest.approx(128 * MIB, abs=4 * MIB)
