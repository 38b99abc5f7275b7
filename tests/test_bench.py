"""The benchmark harness: costs, statistics, files and verdicts. No test here looks at how long anything takes."""

from __future__ import annotations

import csv
from functools import partial

import pytest
import torch

from bench import __main__ as command
from bench import report, rivals, roofline, timing
from bench.cases import CONTENT, TAPS, Images
from perceptual_ops import reference


@pytest.fixture
def small_caches(monkeypatch):
    """A cache that is quick to evict and ceilings that are quick to measure."""
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    monkeypatch.setattr(roofline, "copy_bandwidth", lambda cache, seconds: 1e10)
    monkeypatch.setattr(roofline, "matmul_rate", lambda dtype, cache, seconds: 1e11)


def head_cost(images: Images) -> roofline.Cost:
    return roofline.head([images.tap(name) for name in TAPS], [images.tap(CONTENT)], images.dtype)


def test_gram_cost_by_hand():
    shape = (2, 3, 4, 5)  # 120 elements, two 3 x 3 Grams
    assert roofline.gram(shape, torch.float32) == roofline.Cost(120 * 4 + 18 * 4, 2 * 2 * 6 * 20)
    assert roofline.gram(shape, torch.bfloat16).bytes == 120 * 2 + 18 * 4
    assert roofline.gram_gradient(shape, torch.float32) == roofline.Cost(2 * 120 * 4 + 18 * 4, 2 * 2 * 9 * 20)


def test_total_variation_cost_by_hand():
    assert roofline.total_variation((2, 3, 4, 5), torch.bfloat16) == roofline.Cost(3 * 120 * 2, 0)


def test_metric_cost_by_hand():
    assert roofline.metric([(2, 3, 4, 5), (2, 6, 2, 2)], torch.bfloat16) == roofline.Cost(5 * 168 * 2, 0)


def test_head_cost_is_the_design_table():
    large, small = Images(8, 512, torch.bfloat16), Images(4, 256, torch.bfloat16)
    features = [sum(2 * torch.Size(images.tap(name)).numel() for name in TAPS) for images in (large, small)]
    assert [round(size / 1e6) for size in features] == [503, 63]
    assert round(head_cost(large).bytes / 1e9, 2) == 1.58
    assert round(head_cost(large).flop / 1e12, 2) == 0.10
    assert round(head_cost(small).bytes / 1e9, 1) == 0.2
    assert round(head_cost(Images(8, 512, torch.float32)).bytes / 1e9, 1) == 3.2


def test_floor_is_the_slower_of_traffic_and_products():
    ceilings = roofline.Ceilings(bandwidth=100.0, flop_rate=10.0)
    assert ceilings.floor(roofline.Cost(bytes=500, flop=10)) == 5.0
    assert ceilings.floor(roofline.Cost(bytes=500, flop=80)) == 8.0


@pytest.mark.parametrize(("of_16_bits", "expected"), [(4.0, 1.0), (0.5, 0.5)])
def test_products_of_16_bits_on_a_cpu_are_those_of_fp32_where_they_are_slower(of_16_bits, expected, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: of_16_bits}

    def measure(calls, cache, _):
        median = seconds[calls["matmul"].args[0].dtype]
        return {"matmul": timing.Timing(median, median, median, 5)}

    monkeypatch.setattr(roofline, "measure", measure)
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    cache = timing.ColdCache(torch.device("cpu"))
    rates = {dtype: roofline.matmul_rate(dtype, cache, 0.0) for dtype in seconds}
    assert rates[torch.bfloat16] == rates[torch.float32] / expected


def test_timing_quantiles():
    assert timing.Timing.of([6.0, 1.0, 3.0, 5.0, 2.0, 4.0]) == timing.Timing(3.5, 2.0, 5.0, 6)


def test_rivals_take_turns(small_caches):
    order = []
    cache = timing.ColdCache(torch.device("cpu"))
    timings = timing.measure({name: lambda name=name: order.append(name) for name in "ABC"}, cache, seconds=0.0)
    assert "".join(order) == "ABC" * (1 + timing.MIN_ROUNDS)
    assert all(found.count == timing.MIN_ROUNDS for found in timings.values())


def run(folder, variants="ours,eager") -> tuple[int, list[dict[str, str]]]:
    """Exit code and CSV rows of the smallest case."""
    options = ["--device=cpu", "--only=tv fwd+grad 1x64", "--seconds=0.01", f"--variants={variants}", f"--out={folder}"]
    code = command.main(options)
    (path,) = folder.iterdir()
    with path.open(newline="") as file:
        return code, list(csv.DictReader(file))


def test_end_to_end(library: None, tmp_path, capsys, small_caches):
    code, rows = run(tmp_path)
    assert code == 0
    assert [row["variant"] for row in rows] == ["ours", "eager"]
    for row in rows:
        assert tuple(row) == report.COLUMNS
        assert row["status"] == "passed"
        assert row["torch"] == torch.__version__ and row["threads"] == str(torch.get_num_threads())
        assert row["device"] and row["commit"] and row["library"] and row["time"]
        assert 0 < float(row["low_ms"]) <= float(row["median_ms"]) <= float(row["high_ms"])
        assert int(row["bytes"]) == 3 * 3 * 64 * 64 * 4
    assert "\ntv fwd+grad 1x64x64  float32  NCHW " in capsys.readouterr().out


def scaled_value(x):
    return 1.001 * reference.total_variation(x)


def doubled_gradient(x):
    value = reference.total_variation(x)
    return 2 * value - value.detach()


def nan_value(x):
    return reference.total_variation(x) * float("nan")


def raises(x):
    raise RuntimeError("no kernel for this input")


@pytest.mark.parametrize("operator", [scaled_value, doubled_gradient, nan_value, raises])
def test_a_wrong_operator_is_incorrect_and_not_timed(operator, tmp_path, capsys, monkeypatch, small_caches):
    monkeypatch.setattr(rivals.OURS, "total_variation", operator)
    code, rows = run(tmp_path)
    assert code == 1
    (row,) = rows
    assert row["status"].startswith("incorrect: ours")
    assert row["median_ms"] == ""
    assert "incorrect: tv fwd+grad 1x64x64 float32 NCHW: ours" in capsys.readouterr().out


def test_a_wrong_rival_hides_no_figure_of_ours(tmp_path, capsys, monkeypatch, library: None, small_caches):
    calls = command.calls

    def with_a_wrong_rival(problem, variants):
        return calls(problem, variants) | {
            "eager": lambda: [2 * x for x in problem.run(partial(problem.evaluate, reference))]
        }

    monkeypatch.setattr(command, "calls", with_a_wrong_rival)
    code, (ours, eager) = run(tmp_path)
    assert code == 0
    assert ours["variant"] == "ours" and ours["status"] == "passed" and float(ours["median_ms"]) > 0
    assert eager["variant"] == "eager" and eager["status"].startswith("incorrect: eager") and eager["median_ms"] == ""
    assert "incorrect: tv fwd+grad 1x64x64 float32 NCHW: eager" in capsys.readouterr().out


def test_an_unknown_variant_or_case_is_refused(capsys):
    for option in ("--variants=ours,theirs", "--only=no such case"):
        with pytest.raises(SystemExit):
            command.main(["--device=cpu", option])
    assert "theirs" in capsys.readouterr().err


def test_csv_keeps_the_known_cases_that_were_not_run(tmp_path):
    def row(case: str, time: str) -> dict[str, str]:
        return dict.fromkeys(report.COLUMNS, "") | {"case": case, "dtype": "float32", "layout": "NCHW", "time": time}

    path = tmp_path / "device.csv"
    first, second, third = ((case, "float32", "NCHW") for case in ("kept", "rerun", "renamed"))
    report.write_csv(path, [row("kept", "1"), row("rerun", "1"), row("renamed", "1")], [first, second, third])
    report.write_csv(path, [row("rerun", "2")], [second, first])
    with path.open(newline="") as file:
        assert [(found["case"], found["time"]) for found in csv.DictReader(file)] == [("rerun", "2"), ("kept", "1")]
