"""The bench of two commits: their trees, their processes and its verdicts; none looks at times."""

from __future__ import annotations

import contextlib
import csv
import shutil

import pytest

from bench import commits, report
from bench.timing import Timing

if not (report.ROOT / ".git").exists() or not shutil.which("git"):
    pytest.skip("needs a git checkout", allow_module_level=True)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Few small images, and trees that share this one's library whatever was changed of its sources."""
    monkeypatch.setattr(commits, "ROUNDS", 2)
    monkeypatch.setattr(commits, "SIDE", 32)
    monkeypatch.setattr(commits, "SOURCES", ("LICENSE",))
    monkeypatch.setattr(commits, "BUILD", tmp_path / "build")


def test_end_to_end(tmp_path, capsys, small):
    code = commits.main(["HEAD", "--only=DISTS fp32", f"--out={tmp_path / 'results'}"])
    assert code == 0
    (tree,) = (tmp_path / "build").iterdir()
    assert (tree / "perceptual_ops" / "losses" / "dists.py").is_file()
    (path,) = (tmp_path / "results").iterdir()
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == commits.COLUMNS
    assert (row["case"], row["bits"], row["count"], row["other"]) == ("DISTS fp32", "same", "2", tree.name)
    assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
    assert "DISTS fp32  same" in capsys.readouterr().out


class Fake:
    """A worker that takes so many seconds and gives such results."""

    def __init__(self, seconds: float, digest: str) -> None:
        self.answer = seconds, digest

    def call(self, case: str, samples: commits.Samples) -> None:
        samples.seconds.append(self.answer[0])
        samples.digests.add(self.answer[1])


def test_verdicts():
    outcome = commits.compare("LPIPS bf16", Fake(0.103, "a"), Fake(0.1, "a"))
    assert outcome.bits and outcome.ratio.count == commits.ROUNDS
    assert commits.line(outcome)[-1] == "goal reached"
    outcome = commits.compare("LPIPS bf16", Fake(0.104, "a"), Fake(0.1, "b"))
    assert not outcome.bits
    assert commits.line(outcome)[1:3] == ["other", "1.040 [1.040-1.040]"]
    assert commits.line(outcome)[-1].startswith("goal missed")


def test_other_bits_are_an_error(monkeypatch, tmp_path, small):
    timing = Timing(1.0, 1.0, 1.0, 2)
    monkeypatch.setattr(commits, "compare", lambda case, *workers: commits.Outcome(case, timing, timing, timing, False))
    monkeypatch.setattr(commits, "Worker", lambda tree: contextlib.nullcontext())
    assert commits.main(["HEAD", "--only=DISTS", f"--out={tmp_path / 'results'}"]) == 1


def test_a_process_with_the_losses_of_another_tree_is_refused(tmp_path, small):
    with pytest.raises(RuntimeError, match=r"expected the losses of .*, got those of"):
        commits.Worker(tmp_path)
