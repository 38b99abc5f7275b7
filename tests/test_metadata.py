"""What a package index is told: one version, README with absolute addresses, the Pythons that are served."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import setuptools

import perceptual_ops as po

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^()\s]+)\)")


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py tells setuptools."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    told["repository"] = runpy.run_path(str(ROOT / "setup.py"))["REPOSITORY"]
    return told


def test_the_version_is_written_once(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == po.__version__
    named = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert named[0] == po.__version__
    files = [ROOT / name for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "Makefile", "README.md")]
    files += sorted((ROOT / "cmake").iterdir()) + sorted((ROOT / "perceptual_ops").rglob("*.py"))
    written = [str(file.relative_to(ROOT)) for file in files if f'"{po.__version__}"' in file.read_text("utf-8")]
    assert written == ["perceptual_ops/__init__.py"]


def test_readme_of_the_index_has_absolute_addresses(metadata: dict[str, Any]) -> None:
    here = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    there = LINK.findall(metadata["long_description"])
    assert len(here) == len(there) and any(picture for picture, _ in here)
    for (picture, link), (_, address) in zip(here, there, strict=True):
        if link.startswith(("https:", "#")):
            assert address == link
            continue
        kind = "raw" if picture else "blob"
        assert address == f"{metadata['repository']}/{kind}/v{po.__version__}/{link}"
        tracked = subprocess.run(["git", "ls-files", link], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert tracked, f"README.md: {link} is no file of the repository"


def test_the_owner_of_the_repository_is_named_in_one_place(metadata: dict[str, Any]) -> None:
    assert all(url.startswith(metadata["repository"]) for url in metadata["project_urls"].values())
    assert (ROOT / "setup.py").read_text().count(metadata["repository"]) == 1
    assert metadata["repository"].rpartition("/")[0] not in PYPROJECT


def test_pythons_that_are_served() -> None:
    served = [int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', PYPROJECT)]
    assert served == list(range(served[0], served[-1] + 1))
    assert f'requires-python = ">=3.{served[0]}"' in PYPROJECT
    assert f'target-version = "py3{served[0]}"' in PYPROJECT and f'python_version = "3.{served[0]}"' in PYPROJECT
