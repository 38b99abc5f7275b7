"""The bench of the whole loss: verdicts, files and the account of memory; none looks at times."""

from __future__ import annotations

import csv

import pytest
import torch

from bench import memory, plain_form, timing, whole, whole_bench, whole_report
from bench.plain import PlainLoss
from bench.whole_case import BF16, FP32, Variant, verify
from bench.whole_cases import RIVALS, VARIANTS, square
from perceptual_ops import PerceptualLoss

CPU = torch.device("cpu")
MIB = timing.MIB
SMALL = ("eager", "eager NHWC", "ours fp32")


@pytest.fixture
def small(monkeypatch):
    """One tiny case, a cache that is quick to evict, and memory measured in this process."""
    monkeypatch.setattr(timing, "last_level_cache", lambda device: MIB)
    monkeypatch.setattr(whole, "CASES", {"cpu": (square(2, 48, SMALL, rounds=2),)})
    monkeypatch.setattr(whole_bench, "in_fresh_process", lambda function, *arguments: function(*arguments))


def run(folder) -> tuple[int, list[dict[str, str]]]:
    code = whole.main(["--device=cpu", f"--out={folder}"])
    (path,) = folder.iterdir()
    with path.open(newline="") as file:
        return code, list(csv.DictReader(file))


def doubled(n_mib: int):
    """A call with two tensors of n MiB alive at once, of which it returns one."""

    def call() -> torch.Tensor:
        return torch.ones(n_mib * MIB, dtype=torch.uint8) + 1

    return call


def peak_of_doubled(n_mib: int) -> memory.Peak:
    return memory.peak(doubled(n_mib), CPU)


def test_allocated_peak_counts_what_is_alive_at_once():
    def one_after_another() -> None:
        for _ in range(3):
            doubled(4)()

    assert memory.allocated_peak(one_after_another) == pytest.approx(8 * MIB, abs=1024)


def test_a_fresh_process_sees_a_known_allocation():
    found = memory.in_fresh_process(peak_of_doubled, 64)
    assert found.allocated == pytest.approx(128 * MIB, abs=1024)
    assert found.resident == pytest.approx(128 * MIB, abs=4 * MIB)


def test_end_to_end(tmp_path, capsys, small):
    code, rows = run(tmp_path)
    assert code == 0
    assert [row["variant"] for row in rows] == list(SMALL)
    for row in rows:
        assert tuple(row) == whole_report.COLUMNS
        assert row["case"] == "loss 2x48x48" and row["status"] == "passed" and row["count"] == "2"
        assert row["device"] and row["torch"] == torch.__version__ and row["commit"]
        assert 0 < float(row["low_ms"]) <= float(row["median_ms"]) <= float(row["high_ms"])
        assert float(row["allocated_mb"]) > 0 and row["resident_mb"]
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("loss 2x48x48") for line in lines) == len(SMALL)


class Halved(PlainLoss):
    """Half the gradient."""

    def forward(self, output, target):
        loss = super().forward(output, target)
        return (loss + loss.detach()) / 2


class Raises(PlainLoss):
    def forward(self, output, target):
        raise RuntimeError("no kernel for this input")


@pytest.mark.parametrize("wrong", [Halved, Raises])
def test_a_wrong_variant_is_incorrect_and_not_timed(wrong, tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(VARIANTS, "ours fp32", Variant(lambda: wrong("random")))
    code, (row,) = run(tmp_path)
    assert code == 1
    assert row["status"].startswith("incorrect: ours fp32") and row["median_ms"] == row["allocated_mb"] == ""
    assert "incorrect: loss 2x48x48: ours fp32" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [Halved, Raises])
def test_a_wrong_rival_hides_no_figure_of_ours(wrong, tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(VARIANTS, "eager NHWC", Variant(lambda: wrong("random")))
    code, rows = run(tmp_path)
    found = {row["variant"]: row for row in rows}
    assert code == 0 and found["ours fp32"]["status"] == "passed" and found["ours fp32"]["median_ms"]
    rival = found["eager NHWC"]
    assert rival["status"].startswith("incorrect: eager NHWC") and rival["median_ms"] == rival["allocated_mb"] == ""
    assert "incorrect: loss 2x48x48: eager NHWC" in capsys.readouterr().out


def test_every_variant_is_the_same_loss():
    case = square(2, 48, ("eager", "eager NHWC", "ours fp32", "ours bf16", "ours fp32, chunk 1"))
    assert verify(case, {name: case.call(name, CPU) for name in case.names}) == {}


def test_a_call_under_two_names_is_run_once():
    names = ("eager", "ours fp32", "ours fp32, chunk 1", "ours fp32, chunk 32")
    assert square(1, 64, names).distinct("cpu") == ("eager", "ours fp32")
    assert square(4, 64, names).distinct("cpu")[:3] == names[:3]


def test_the_table_counts_memory_and_pixels():
    slow, fast = timing.Timing(2.0, 2.0, 2.0, 5), timing.Timing(1.0, 1.0, 1.0, 5)
    first, second = (
        whole_report.Outcome(
            square(1, size),
            chunks={"eager": 1, "ours fp32": 1},
            timings={"eager": slow, "ours fp32": fast},
            peaks={"eager": memory.Peak(100, 300), "ours fp32": memory.Peak(10, 100)},
        )
        for size in (1000, 2000)
    )
    assert whole_report.cells(first, RIVALS)[1][3:6] == ["1 [1-1]", "1", "2.00x"]
    assert whole_report.cells(first, RIVALS)[1][-4:] == ["1e-05", "1/10", "0.0001", "1/3"]
    assert whole_report.linearity([first, second])[0].endswith("1000: 1, 2000: 0.25; 300% apart")


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_plain_loss_is_the_preset(dtype):
    output, target, style = (torch.rand(2, 3, 40, 24), torch.rand(2, 3, 40, 24), torch.rand(1, 3, 32, 32))
    plain, preset = PlainLoss("random"), PerceptualLoss.preset("johnson-style", weights="random", compute_dtype=dtype)
    for loss in (plain, preset):
        loss.set_style(style)
    torch.testing.assert_close(
        preset(output, target), plain(output, target), rtol=1e-5 if dtype == FP32 else 0.01, atol=0
    )


@pytest.mark.parametrize(("parts", "time", "verdict"), [(8, 1.1, "reached"), (7.9, 1.0, "missed"), (9, 1.2, "missed")])
def test_goals_in_plain_pytorch(parts: float, time: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = whole_report.Outcome(
        square(4, 48, SMALL),
        timings={"eager": timing.Timing(1, 1, 1, 5), "ours fp32": timing.Timing(time, 1, 1, 5)},
        peaks={"eager": memory.Peak(int(parts * 1000)), "ours fp32": memory.Peak(1000)},
    )
    monkeypatch.setattr(plain_form, "SUFFIX", "")
    assert plain_form.goals([outcome]) == []  # of the compiled library
    monkeypatch.setattr(plain_form, "SUFFIX", "-plain")
    (line,) = plain_form.goals([outcome])
    assert line.startswith(f"goal {verdict}: loss 4x48x48 in plain PyTorch: ")
