"""The bench: costs, statistics, its command and the suite of operators. No test looks at how long anything takes."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from bench_runs import CPU, by_name, run, suite_of

from bench import __main__ as command
from bench import console, load, results, roofline, runner, timing
from bench.case import verify
from bench.memory import Peak
from bench.suites import operators, suites
from bench.suites.operators import CONTENT, OURS, TAPS, Images, OperatorCase
from perceptual_ops import reference

SMALL = next(case for case in operators.catalogue("cpu") if case.name == "tv fwd+grad 1x64x64 NCHW fp32")
EAGER = ("--variants", "ours", "eager")


def head_cost(images: Images) -> roofline.Cost:
    return roofline.head([images.tap(name) for name in TAPS], [images.tap(CONTENT)], images.dtype)


def test_gram_cost_by_hand():
    shape = (2, 3, 4, 5)  # 120 elements, two 3 x 3 Grams
    assert roofline.gram(shape, torch.float32) == roofline.Cost(120 * 4 + 18 * 4, 2 * 2 * 6 * 20)
    assert roofline.gram(shape, torch.bfloat16).bytes == 120 * 2 + 18 * 4
    assert roofline.gram_gradient(shape, torch.float32) == roofline.Cost(2 * 120 * 4 + 18 * 4, 2 * 2 * 9 * 20)


def test_total_variation_cost_by_hand():
    assert roofline.total_variation((2, 3, 4, 5), torch.bfloat16) == roofline.Cost(3 * 120 * 2, 0)
    assert SMALL.cost == roofline.Cost(3 * 3 * 64 * 64 * 4, 0)


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

    def time_one(call, cache, _):
        return timing.Timing.of([seconds[call.args[0].dtype]])

    monkeypatch.setattr(roofline, "time_one", time_one)
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    cache = timing.ColdCache(CPU)
    rates = {dtype: roofline.matmul_rate(dtype, cache, 0.0) for dtype in seconds}
    assert rates[torch.bfloat16] == rates[torch.float32] / expected


def test_timing_quantiles():
    assert timing.Timing.of([6.0, 1.0, 3.0, 5.0, 2.0, 4.0]) == timing.Timing(3.5, 2.0, 5.0, 6)
    assert timing.Timing.of([3.0]) == timing.Timing(3.0, 3.0, 3.0, 1)


def test_a_ratio_is_that_of_pairs():
    """A drift that hits both calls of a round alike is not in it, as it is in that of the medians."""
    assert timing.ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == timing.Timing(2.0, 2.0, 2.0, 3)


def test_rivals_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    order: list[str] = []
    calls = {name: partial(order.append, name) for name in "ABC"}
    samples = timing.take_turns(calls, timing.ColdCache(CPU), rounds=4)
    assert "".join(order) == "ABCCBA" * 2
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys("ABC", 4)


def test_busy_processes_end():
    def children() -> set[str]:
        return {path.name for path in Path("/proc").iterdir() if path.name.isdigit() and of_spin(path)}

    def of_spin(path: Path) -> bool:
        try:
            return load.SPIN.encode() in (path / "cmdline").read_bytes()
        except OSError:
            return False

    before = children()
    with load.busy(2):
        assert len(children() - before) <= 2  # they may not have begun
    assert children() <= before


def test_the_table_shows_time_ratio_memory_and_what_is_slower():
    def outcome(ours: float) -> runner.Outcome:
        samples = {"eager fp32": [2.0, 2.0], "ours fp32": [ours, ours]}
        peaks = {"eager fp32": Peak(8_000_000, 9_000_000), "ours fp32": Peak(1_000_000)}
        return runner.Outcome("operators", SMALL, runner.Plan(CPU), samples=samples, peaks=peaks, floor=0.5)

    eager, compiled, own = console.lines(outcome(1.0))
    assert eager[1:] == ["eager fp32", "", "2e+03 [2e+03-2e+03]", "2x [2-2]", "8", "9", "25%"]
    assert compiled[3:] == [""] * 5
    assert own[4:] == ["", "1", "", "50%"]
    assert [*console.slower(outcome(1.0))] == []
    (line,) = console.slower(outcome(4.0))
    assert line == f"not the fastest: operators {SMALL.name}: eager fp32 takes 0.50 of the time of ours"


# ---- the command ----


def test_end_to_end(library: None, tmp_path, capsys):
    with suite_of(SMALL):
        code, rows = run(tmp_path, *EAGER)
    assert code == 0
    assert [row["variant"] for row in rows] == ["eager", "ours"]
    for row in rows:
        assert tuple(row) == results.COLUMNS
        assert row["status"] == "passed" and row["dtype"] == "fp32" and row["busy"] == "0" and row["form"] == "compiled"
        assert row["torch"] == torch.__version__ and row["threads"] == str(torch.get_num_threads())
        assert row["device"] and row["commit"] and row["library"] and row["date"] and row["clock"] == "wall"
        assert 0 < float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
        assert row["versus"] == "ours fp32" and float(row["ratio_p20"]) <= float(row["ratio"])
        assert float(row["allocated_mb"]) > 0 and float(row["error"]) < 1e-5 and float(row["floor_ms"]) > 0
    assert f"\nsmall {SMALL.name}  eager fp32 " in capsys.readouterr().out


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
def test_a_wrong_operator_is_incorrect_and_not_timed(operator, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(OURS, "total_variation", operator)
    with suite_of(SMALL):
        code, (row,) = run(tmp_path, *EAGER)
    assert code == 1
    assert row["status"].startswith("incorrect: ours")
    assert row["median_ms"] == ""
    assert f"incorrect: small {SMALL.name}: ours" in capsys.readouterr().out


def test_a_run_of_some_variants_keeps_the_rows_of_others(tmp_path, library: None) -> None:
    with suite_of(SMALL):
        _, before = run(tmp_path, "--variants", "eager fp32", "ours fp32")
        _, after = run(tmp_path, "--variants", "ours fp32")
    assert {*by_name(before)} == {*by_name(after)} == {"eager fp32", "ours fp32"}
    assert by_name(before)["eager fp32"] == by_name(after)["eager fp32"]


def test_a_wrong_rival_hides_no_figure_of_ours(tmp_path, capsys, monkeypatch, library: None):
    class Wrong(OperatorCase):
        def call(self, name, device):
            call = super().call(name, device)
            return (lambda: [2 * x for x in call()]) if name == "compiled fp32" else call

        def available(self, device_type):
            return self.names

    case = Wrong(SMALL.names, workload=SMALL.workload, images=SMALL.images)
    with suite_of(case):
        code, rows = run(tmp_path)
    found = by_name(rows)
    assert code == 0
    assert found["ours fp32"]["status"] == "passed" and float(found["ours fp32"]["median_ms"]) > 0
    wrong = found["compiled fp32"]
    assert wrong["status"].startswith("incorrect: result 0 is") and wrong["median_ms"] == ""
    assert f"incorrect: small {SMALL.name}: compiled fp32 result 0" in capsys.readouterr().out


def test_an_unknown_variant_or_case_is_refused(capsys):
    for options in (["--variants", "theirs"], ["--only", "no such case"]):
        with pytest.raises(SystemExit):
            command.main(["--device=cpu", *options])
    assert "theirs" in capsys.readouterr().err


def test_a_part_of_a_name_means_what_contains_it():
    known = {"ours fp32", "ours, chunk 1 fp32"}
    assert command.is_part("ours", "ours, chunk 1 fp32", known)
    assert not command.is_part("ours fp32", "ours, chunk 1 fp32", known)
    assert command.is_part("ours fp32", "ours fp32", known)


def test_quick_and_full_and_what_is_named():
    def names(*options: str) -> set[str]:
        return {f"{suite} {case.name}" for suite, case in command.parse(["--device=cpu", *options]).chosen}

    quick, full = names(), names("--full")
    assert quick < full and {name.split()[0] for name in quick} == {suite.name for suite in suites()}
    assert names("--only", "loss 4x") == {"loss 4x128x128"} and names("--only", "loss 16x") == {"loss 16x256x256"}


def test_bf16_is_left_out_where_the_cpu_has_none(monkeypatch, capsys):
    monkeypatch.setattr(runner, "has_bf16", lambda device: False)
    monkeypatch.setattr(console, "has_bf16", lambda device: False)
    chosen = command.parse(["--device=cpu", "--only", "loss 4x128"]).chosen
    assert all("bf16" not in name for _, case in chosen for name in case.names)
    cases = [case for suite in suites() if suite.name == "loss" for case in suite.cases["cpu"]]
    outcome = runner.Outcome("loss", cases[0], runner.Plan(CPU))
    assert "bf16 is left out: this CPU has no products of it" in console.left_out(cases, [outcome])


def test_names_of_cases_and_variants_are_unique():
    for suite in suites():
        for cases in suite.cases.values():
            names = [case.name for case in cases]
            assert len(set(names)) == len(names)
            assert all(case.variant(name).name == name for case in cases for name in case.names)
            assert all(case.versus(name).startswith("ours ") for case in cases for name in case.names)


def test_every_operator_agrees(library: None):
    for workload in (*operators.WORKLOADS, *operators.METRIC_WORKLOADS):
        case = operators.case_of(workload, Images(2, 32, torch.float32))
        calls = {name: case.call(name, CPU) for name in ("eager fp32", "ours fp32")}
        assert all(not found.wrong for found in verify(case, calls).values()), case.name


# ---- the table ----


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_changed_file_of_the_commit_makes_rows_dirty(tmp_path, monkeypatch):
    """Results and what git does not know do not."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for name in ("code.py", "bench/results/device.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "all"]):
        results.git(*words)
    (tmp_path / "untracked").write_text("2")
    (tmp_path / "bench/results/device.csv").write_text("2")
    commit, dirty = results.commit_and_changes()
    assert len(commit) == 12 and not dirty
    (tmp_path / "code.py").write_text("2")
    assert results.commit_and_changes() == (commit, "yes")


def row_of(suite: str, case: str, date: str, busy: str = "0") -> results.Row:
    return {"suite": suite, "case": case, "form": "compiled", "busy": busy, "date": date}


def test_csv_keeps_the_known_cases_that_were_not_run(tmp_path):
    path = tmp_path / "device.csv"
    rows = [row_of("loss", name, "1") for name in ("kept", "rerun", "renamed")]
    results.write(path, [*rows, row_of("loss", "rerun", "1", busy="2"), row_of("commits", "LPIPS", "1")])
    results.update(path, [row_of("loss", "rerun", "2")], [("loss", "rerun"), ("loss", "kept"), ("metrics", "new")])
    found = [(row["suite"], row["case"], row["busy"], row["date"]) for row in results.read(path)]
    assert found == [
        ("loss", "rerun", "2", "1"),
        ("loss", "rerun", "0", "2"),
        ("loss", "kept", "0", "1"),
        ("commits", "LPIPS", "0", "1"),
    ]


def test_a_run_of_one_variant_leaves_the_others(tmp_path) -> None:
    path = tmp_path / "device.csv"
    rows = [row_of("loss", "4x256x256", "1") | {"variant": variant, "dtype": "fp32"} for variant in ("eager", "ours")]
    results.write(path, rows)
    results.update(path, [rows[1] | {"date": "2"}], [("loss", "4x256x256")], results.KEYS_OF_VARIANT)
    assert [(row["variant"], row["date"]) for row in results.read(path)] == [("eager", "1"), ("ours", "2")]
