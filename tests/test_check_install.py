"""The table of installs: a step that fails is named, and what is run in each environment passes here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_install
import installed
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("perceptual_ops-1.0-py3-none-any.whl", "any"),
        ("perceptual_ops-1.0-py3-none-manylinux_2_28_x86_64.whl", "compiled"),
        ("perceptual_ops-1.0.tar.gz", "sdist"),
    ],
)
def test_form_of_an_artefact(name: str, form: str) -> None:
    assert check_install.form_of(Path(name)) == form


def test_an_artefact_that_does_not_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "perceptual_ops-1.0-py3-none-any.whl"
    damaged.write_text("no archive")
    assert check_install.main(["--lent-torch", str(damaged)]) == 1
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| {'.'.join(map(str, sys.version_info[:3]))} |  | ") and "| any | FAILED: " in row


def test_a_failure_is_told_by_its_error() -> None:
    text = "Traceback:\n  a line\ntorch._inductor.exc.InductorError: no compiler\n\nSet a variable for more"
    done = subprocess.CompletedProcess([], 1, "", text)
    assert check_install.failure(done) == "FAILED: torch._inductor.exc.InductorError: no compiler"


def test_a_python_that_makes_no_environment(tmp_path: Path) -> None:
    row = check_install.check(tmp_path / "x-any.whl", "false", None, tmp_path)
    assert row["install"] == "FAILED: exit status 1"


def test_first_example_of_readme() -> None:
    assert installed.first_example(ROOT / "README.md").startswith("loss 0.")


def test_an_example_that_changed_is_noticed(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("```python\ncriterion = None\n```\n")
    with pytest.raises(AssertionError, match="first example"):
        installed.first_example(readme)


def test_engine_of_an_installed_library() -> None:
    assert "of autograd's memory" in installed.engine(*torch.rand(2, 2, 3, 32, 32))


def test_engine_that_keeps_maps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = installed.made
    monkeypatch.setattr(installed, "made", lambda **_: plain(engine="autograd"))
    with pytest.raises(AssertionError, match="bytes kept"):
        installed.engine(*torch.rand(2, 2, 3, 32, 32))
