"""The bench of two commits: their trees, their processes and its verdicts; none looks at times."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from bench import commits, results
from bench.timing import Timing

if not (results.ROOT / ".git").exists() or not shutil.which("git"):
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
    ours, other = results.read(path)
    assert tuple(ours) == results.COLUMNS
    assert (ours["case"], ours["status"], ours["count"]) == ("DISTS 4x32x32 fp32", "same bits", "2")
    assert (ours["variant"], other["variant"], other["versus"]) == ("ours", tree.name, "ours fp32")
    assert 0 < float(other["ratio_p20"]) <= float(other["ratio"]) <= float(other["ratio_p80"]) and not ours["ratio"]
    assert "DISTS fp32  same" in capsys.readouterr().out


class Fake:
    """A worker that takes so many seconds and gives such results."""

    def __init__(self, seconds: float, digest: str) -> None:
        self.answer = seconds, digest

    def call(self, case: str, samples: commits.Samples) -> None:
        samples.seconds.append(self.answer[0])
        samples.digests.add(self.answer[1])


def test_verdicts():
    outcome = commits.compare("LPIPS bf16", Fake(0.1, "a"), Fake(0.103, "a"))
    assert outcome.bits and outcome.ratio.count == commits.ROUNDS
    outcome = commits.compare("LPIPS bf16", Fake(0.1, "a"), Fake(0.104, "b"))
    assert not outcome.bits
    assert commits.line(outcome) == ["LPIPS bf16", "other", "100.0", "104.0", "1.04x [1.04-1.04]"]


def test_other_bits_are_an_error(monkeypatch, tmp_path, small):
    timing = Timing(1.0, 1.0, 1.0, 2)
    monkeypatch.setattr(commits, "compare", lambda case, *workers: commits.Outcome(case, timing, timing, timing, False))
    monkeypatch.setattr(commits, "Worker", lambda tree: contextlib.nullcontext())
    assert commits.main(["HEAD", "--only=DISTS", f"--out={tmp_path / 'results'}"]) == 1


def test_a_process_with_the_losses_of_another_tree_is_refused(tmp_path, small):
    with pytest.raises(RuntimeError, match=r"expected the losses of .*, got those of"):
        commits.Worker(tmp_path)
