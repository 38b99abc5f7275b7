"""A pytest plugin for tests on a device that is lent for minutes: what matters most runs first, and nothing is lost.

`pytest -p bench.gpu_tests --results FILE` adds a line to FILE whenever something is known of a test: "not run" when it
is collected, "running" when it begins, and how it ended; the last line counts. With a FILE of an earlier run it goes on
behind the test that this stopped at. A test that hangs ends the process; one whose kernel has taken the CUDA context
ends the run, since every test after it would fail too.
"""

from __future__ import annotations

import csv
import faulthandler
import sys
from pathlib import Path

import pytest

COLUMNS = ("test", "status", "seconds", "message")
NOT_RUN, RUNNING, CRASHED = "not run", "running", "crashed"
HANGS = 90  # seconds after which a test does

# Parts of tests' names, in this order; the others follow by file. First whether each kernel is right at all.
FIRST = (
    "test_operators.py::test_accuracy",
    "test_activation_pooling.py",
    "test_activation.py::test_bias_relu",
    "test_activation.py",
    "test_loss_scale.py",
    "test_lpips_distance.py::test_accuracy",
    "test_channel_statistics.py::test_accuracy",
    "test_dists_distance.py::test_accuracy",
    "test_l2_pool.py::test_accuracy",
    "test_operators.py::test_tiles_and_stages",
    "test_operators.py::test_bf16_products",
    "test_lean_engine.py",
    "test_metric_engine.py",
    "test_tf32_and_waits.py",
    "test_in_a_cuda_graph",
    "test_module_trunk.py",
    "test_chunked.py",
    "test_chunked_memory.py",
    "test_recognition.py",
    "test_operators.py::test_memory_layouts",
)


def rank(name: str) -> int:
    return next((place for place, part in enumerate(FIRST) if part in name), len(FIRST))


def read(path: Path) -> dict[str, dict[str, str]]:
    """The last line of each test, in the order in which they were to run."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["test"]: row for row in csv.DictReader(file) if row["status"]}


def left(path: Path) -> list[str]:
    return [name for name, row in read(path).items() if row["status"] == NOT_RUN]


def settle(path: Path, status: str) -> None:
    """Adds what became of the test that was running when the process ended."""
    running = [name for name, row in read(path).items() if row["status"] == RUNNING]
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((name, status, "", "") for name in running)


def context_is_lost() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def reason_of(report: pytest.TestReport) -> str:
    """Why a test failed or was skipped."""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2]
    lines = report.longreprtext.splitlines() if report.failed else []
    return next((line[1:].strip() for line in lines if line.startswith("E ")), "")


class Recorder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", newline="", buffering=1)  # a line reaches the disk when it is written
        self.lines = csv.writer(self.file, lineterminator="\n")
        if not self.known:
            self.lines.writerow(COLUMNS)

    @pytest.hookimpl(trylast=True)  # of those that -m and -k leave
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = {name for name, row in self.known.items() if row["status"] != NOT_RUN}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = sorted((item for item in items if item.nodeid not in done), key=lambda item: rank(item.nodeid))
        for item in items:
            if item.nodeid not in self.known:
                self.lines.writerow((item.nodeid, NOT_RUN, "", ""))

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.lines.writerow((nodeid, RUNNING, "", ""))
        faulthandler.dump_traceback_later(HANGS, exit=True)

    def pytest_runtest_logfinish(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that is set up well and runs has ended, whatever tears down after it, unless that fails."""
        if report.when != "call" and report.passed:
            return
        status = report.outcome if report.when == "call" or report.skipped else f"failed in {report.when}"
        self.lines.writerow((report.nodeid, status, f"{report.duration:.3f}", reason_of(report)[:200]))
        if report.failed and context_is_lost():
            self.session.shouldstop = "the CUDA context is lost"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, required=True, help="file to add a line for each test to")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("--results")), "recorder")
