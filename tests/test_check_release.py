"""What `make release` refuses, in a repository of five files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import check_release
import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://host/someone/perceptual_ops"
PAGES = ("README.md", "docs/installation.md")


def git(repository: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments],
        cwd=repository,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose release nothing stands against."""
    (tmp_path / "perceptual_ops").mkdir()
    (tmp_path / "perceptual_ops" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2030-01-01)\n\n- A change.\n\n## 1.1.0\n")
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text("pip install perceptual_ops\n")
    (tmp_path / "setup.py").write_text(f'REPOSITORY = "{ADDRESS}"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(check_release, "ROOT", tmp_path)
    return tmp_path


def commit(repository: Path, file: str, text: str) -> None:
    (repository / file).write_text(text)
    git(repository, "commit", "-qam", "change")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert check_release.main(list(arguments)) == 1
    return capsys.readouterr().err


def test_a_release(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_release.main([]) == 0
    git(repository, "tag", "v1.2.0")
    assert check_release.main(["--tag", "v1.2.0", "--address", ADDRESS]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("file", ["CHANGELOG.md", "new.txt"])
def test_a_tree_with_changes(repository: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    with (repository / file).open("a") as changed:
        changed.write("more\n")
    assert file in refused(capsys)


def test_a_version_that_is_released(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(repository, "tag", "-a", "v1.2.0", "-m", "release")
    assert "raise the version" in refused(capsys)
    commit(repository, "setup.py", f'REPOSITORY = "{ADDRESS}"  # moved\n')
    assert "raise the version" in refused(capsys, "--tag", "v1.2.0")


def test_a_version_without_changes_written_down(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(repository, "CHANGELOG.md", "# Changelog\n\n## 1.2.0.post1\n\n## 1.1.0\n")
    assert "no heading '## 1.2.0'" in refused(capsys)


def test_the_tag_of_another_version(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(repository, "tag", "v1.3.0")
    assert "the tag v1.3.0 is not v1.2.0" in refused(capsys, "--tag", "v1.3.0")


def test_what_a_rehearsal_may_lack(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(repository, "CHANGELOG.md", "# Changelog\n\n## 1.2.0 (unreleased)\n")
    assert check_release.main([]) == 0
    assert "before the tag, CHANGELOG.md says" in capsys.readouterr().err
    git(repository, "tag", "v1.2.0")
    assert "write the date" in refused(capsys, "--tag", "v1.2.0")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_tells_how_to_install_before_the_release(
    repository: Path, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    commit(repository, page, "pip install perceptual_ops   # once released; until then in a checkout: pip install .\n")
    assert check_release.main([]) == 0
    assert f"before the tag, {page} says '# once released; until then in a checkout" in capsys.readouterr().err
    assert f"{page} says" in refused(capsys, "--tag", "v1.2.0")


def test_the_pages_say_whether_it_is_released() -> None:
    """As CHANGELOG does, and in the words that a release is refused for."""
    unreleased = "(unreleased)" in (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## ")[1]
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        assert text.count("pip install perceptual_ops") == 1
        assert text.count("until then") == text.count("# once released; until then") == unreleased


@pytest.mark.parametrize(("repository_url", "given"), [("https://github.com/OWNER/x", ""), (ADDRESS, f"{ADDRESS}s")])
def test_the_address_of_another_repository(
    repository: Path, capsys: pytest.CaptureFixture[str], repository_url: str, given: str
) -> None:
    commit(repository, "setup.py", f'REPOSITORY = "{repository_url}"  # here\n')
    git(repository, "tag", "v1.2.0")
    assert f"REPOSITORY in setup.py is {repository_url}" in refused(capsys, "--tag", "v1.2.0", "--address", given)
