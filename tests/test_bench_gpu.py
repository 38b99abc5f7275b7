"""`make gpu` without a GPU: limits, what is left, files, and a run of tests that loses none. Nothing looks at times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import gpu, gpu_steps, gpu_tests, peers
from bench import results as table
from bench.gpu_steps import Results, Step, SuiteStep
from bench.suites.loss import CASES, GRAPHS
from bench.suites.operators import catalogue

MACHINE = table.Machine(
    "NVIDIA H200", "1", "2.13.0", "0.1.0", "compiled", "0123456789ab", "", "2026-01-01T00:00:00+00:00"
)
NEVER, LONG_AGO = "9999", "0001"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "out").mkdir()
    return Results(tmp_path / "out", MACHINE)


def limit(*parts: str) -> float:
    return sum(step.limit for part in parts for step in gpu.PARTS[part])


def test_limits_leave_time_for_the_start() -> None:
    assert limit("quick") <= 4 * 60 - 15
    assert limit(*gpu.DEFAULT_PARTS) <= 9 * 60 - 15
    assert limit("build", "loss") <= 10 * 60 - 15


def test_every_head_and_loss_is_asked_for(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "missing", lambda package: "")
    head, loss = (step.left(results, LONG_AGO) for step in gpu.ROWS)
    assert len(head) == 9 + 2 and head[0] == "operators head fwd+grad 8x512x512 NHWC bf16"  # and NCHW of the first size
    assert loss == ["loss 8x512x512", "loss 8x256x256", "loss 1x256x256", "loss 4x256x256"]
    small = [case for case in CASES["cuda"] if case.size in ("1x256x256", "4x256x256")]
    assert all({"ours bf16", *GRAPHS} <= {*case.available("cuda")} for case in small)
    for step in (*gpu.PARTS["bench"], *gpu.PARTS["engine"], gpu.PARTS["loss"][1]):
        assert step.left(results, LONG_AGO), step.name
    operators, compiled = (step.left(results, LONG_AGO) for step in gpu.PARTS["bench"][2:])
    assert len(compiled) == 2 and {*head, *operators} == {f"operators {case.name}" for case in catalogue("cuda")}


def test_a_bench_without_a_case_leaves_none(results: Results) -> None:
    assert gpu.timed("nothing", 600, "--only", "no such case").left(results, LONG_AGO) == []


def finished(returncode: int) -> SimpleNamespace:
    return SimpleNamespace(returncode=returncode)


def test_cases_that_a_stopped_bench_has_not_made_are_named(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of an earlier run does not count, nor one without all variants; an incorrect case has one row."""
    made = [
        *(("8x512x512", *variant.rsplit(" ", 1), NEVER) for variant in gpu.LOSSES),
        ("8x256x256", "eager", "fp32", NEVER),
        *(("1x256x256", *variant.rsplit(" ", 1), LONG_AGO) for variant in gpu.LOSSES),
    ]

    def run(command: list[str], **settings: object) -> SimpleNamespace:
        assert command[:3] == ["timeout", "--kill-after=5", "55"] and f"--out={results.folder}" in command
        rows = [dict(zip(("case", "variant", "dtype", "date"), row, strict=True)) | {"suite": "loss"} for row in made]
        table.write(results.path(""), rows)
        return finished(124)

    monkeypatch.setattr(gpu_steps.subprocess, "run", run)
    outcome = gpu.ROWS[1].run(results)
    assert outcome.status == "stopped at 55 s" and outcome.left == [
        "loss 8x256x256",
        "loss 1x256x256",
        "loss 4x256x256",
    ]
    made.append(("8x256x256", "", "", NEVER))
    assert gpu.ROWS[1].run(results).left == ["loss 1x256x256", "loss 4x256x256"]


def test_a_step_ends_at_its_limit_and_keeps_its_output(results: Results) -> None:
    hang = Step("hang", ("python", "-c", "import time; time.sleep(600)"), 1)
    fail = Step("fail", ("python", "-c", "print('{folder}'); raise SystemExit(3)"), 600)
    missing = Step("missing", ("a program that nobody has",), 600)
    assert hang.run(results).status == "stopped at 1 s"
    outcome = fail.run(results)
    assert outcome.status == "failed (3)" and outcome.last_line == str(results.folder)
    assert str(results.folder) in (results.folder / "log.txt").read_text()
    assert missing.run(results).status == "left out"


def test_the_parts_and_their_files(results: Results, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Flat in the folder; a row for each step; 1 where something is left or failed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "this_machine", lambda device: MACHINE)
    monkeypatch.setenv("OUT", str(results.folder))
    good = Step("good", ("python", "-c", "print('well')"), 600)
    bad = Step("bad", ("python", "-c", "raise SystemExit(1)"), 600)
    monkeypatch.setattr(gpu, "PARTS", {"good": (good,), "bad": (bad, good)})
    assert gpu.main(["good"]) == 0 and gpu.main(["good", "bad"]) == 1
    assert gpu.main(["good", "all"]) == 2 and "PARTS: expected some of good bad, got all" in capsys.readouterr().err
    rows = results.read("-parts")
    assert [(row["step"], row["status"], row["last_line"]) for row in rows] == [
        ("good", "ok", "well"), ("bad", "failed (1)", ""), ("good", "ok", "well"),
    ]  # fmt: skip
    assert all(row["device"] == "NVIDIA H200" and row["commit"] == MACHINE.commit and row["torch"] for row in rows)
    monkeypatch.setattr(gpu, "BUILD", bad)
    assert gpu.main(["bad"]) == 1 and [row["step"] for row in results.read("-parts")] == ["bad"]
    assert {path.name for path in results.folder.iterdir()} == {"nvidia-h200-parts.csv", "log.txt"}


def test_outside_a_repository_the_commit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    assert table.commit_and_changes() == ("unknown", "")
    monkeypatch.setenv("GIT_COMMIT", "0123456789ab")
    assert table.commit_and_changes() == ("0123456789ab", "")


def test_without_a_gpu_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2 and "use make test and make bench" in capsys.readouterr().err


# ---- tests on the device ----


def suite(folder: Path, **files: str) -> SuiteStep:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    paths = [str(folder / f"{name}.py") for name in files]
    plugin = ("-p", "bench.gpu_tests", "--results={tests}")
    return SuiteStep("test", ("python", "-m", "pytest", "-q", f"--rootdir={folder}", *plugin, *paths), 600)


# The contents of two files of tests, which pytest runs in a process of its own: a test for each way to end.
FAULTS = """
import os, sys, types, pytest
def test_skipped(): pytest.skip("has no use here")
def test_crash(): os._exit(1)
@pytest.fixture
def broken(): raise ValueError("no")
def test_broken(broken): pass
def synchronize(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_fault():
    cuda = types.SimpleNamespace(is_available=lambda: True, synchronize=synchronize)
    sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
    raise RuntimeError("CUDA error")
def test_after(): assert "torch" not in sys.modules
"""
OPERATORS = """
def test_other(): pass
def test_accuracy(): assert 1 + 1 == 3
"""


def test_tests_go_on_behind_a_crash_and_a_fault(results: Results, tmp_path: Path) -> None:
    """The most important first, a row for each; a fault that has taken the CUDA context ends its process too."""
    outcome = suite(tmp_path, test_a=FAULTS, test_operators=OPERATORS).run(results)
    rows = results.read("-tests")
    assert [(row["test"].rpartition("::")[2], row["status"], row["message"]) for row in rows] == [
        ("test_accuracy", "failed", "assert (1 + 1) == 3"),
        ("test_skipped", "skipped", "Skipped: has no use here"),
        ("test_crash", "crashed", ""),
        ("test_broken", "failed in setup", "ValueError: no"),
        ("test_fault", "failed", "RuntimeError: CUDA error"),
        ("test_after", "passed", ""),
        ("test_other", "passed", ""),
    ]
    assert all(row["device"] == "NVIDIA H200" and row["commit"] == MACHINE.commit for row in rows)
    assert outcome.status == "failed" and not outcome.left
    assert outcome.last_line == "2 failed, 1 skipped, 1 crashed, 1 failed in setup, 2 passed"


def test_tests_that_the_limit_left_are_named(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **settings: object) -> SimpleNamespace:
        lines = [
            "test,status,seconds,message",
            "a,not run,,",
            "b,not run,,",
            "a,running,,",
            "a,passed,0.1,",
            "b,running,,",
        ]
        results.path("-tests").write_text("\n".join(lines) + "\n")
        return finished(124)

    monkeypatch.setattr(gpu_steps.subprocess, "run", run)
    monkeypatch.setattr(gpu_steps, "RESTART", 1000)
    outcome = SuiteStep("test", ("python",), 600).run(results)
    assert outcome.status == "stopped at 600 s" and outcome.left == ["b"]
    assert [(row["test"], row["status"]) for row in results.read("-tests")] == [("a", "passed"), ("b", "not run")]


def test_a_test_that_hangs_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(gpu_tests.faulthandler, "dump_traceback_later", lambda *args, **kw: calls.append((args, kw)))
    monkeypatch.setattr(gpu_tests.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("ended"))
    recorder = gpu_tests.Recorder(tmp_path / "tests.csv")
    recorder.pytest_runtest_logstart("a")
    recorder.pytest_runtest_logfinish()
    assert calls == [((gpu_tests.HANGS,), {"exit": True}), "ended"]


COLLECT = """
import sys, torch
torch.cuda.is_available = lambda: True
import pytest
sys.exit(pytest.main(["--collect-only", "-m", "cuda", *sys.argv[1:]]))
"""


def test_what_needs_a_gpu_is_marked() -> None:
    """The parameter "cuda" of the fixture `device`, whoever asks for it, and tests of CUDA graphs."""
    files = gpu.device_tests()
    assert not [name for name in files if "test_host" in name]
    some = ["tests/test_input_size.py", "tests/test_lean_guest.py"]
    assert {*some, "tests/test_operators.py", "tests/test_module_trunk.py"} <= {*files}
    command = [sys.executable, "-c", COLLECT, *some, "tests/test_gram_plan.py"]
    found = subprocess.run(command, cwd=table.ROOT, capture_output=True, text=True, check=True).stdout
    names = [line for line in found.splitlines() if "::" in line]
    assert {name.partition("::")[0] for name in names} == {*some}
    assert all("cuda" in name for name in names) and any("test_in_a_cuda_graph[module]" in name for name in names)
