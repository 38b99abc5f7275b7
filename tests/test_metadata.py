"""What a package index is told: one version, README with absolute addresses, the Pythons that are served."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import perceptual_ops as po
from perceptual_ops._native import LEAST_TORCH

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^()\s]+)\)")


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py tells setuptools."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    setup = runpy.run_path(str(ROOT / "setup.py"))
    return told | {"repository": setup["REPOSITORY"], "least_torch": setup["LEAST_TORCH"]}


def test_the_version_is_written_once(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == po.__version__
    named = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert named[0] == po.__version__
    files = [ROOT / name for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "Makefile", "README.md")]
    files += sorted((ROOT / "cmake").iterdir()) + sorted((ROOT / "perceptual_ops").rglob("*.py"))
    written = [str(file.relative_to(ROOT)) for file in files if f'"{po.__version__}"' in file.read_text("utf-8")]
    assert written == ["perceptual_ops/__init__.py"]


LEAST_TORCH_IS_NAMED = {  # and how often
    "CMakeLists.txt": (r"set\(least_torch ([\d.]+)\)", 1),
    "csrc/library.cpp": (r"torch_target=([\d.]+)", 1),
    "csrc/common/torch_cuda.cpp": (r"torch >= ([\d.]+)", 1),
    "README.md": (r"compiled operators[^.]*torch >= (\d+\.\d+)", 1),
    "docs/installation.md": (r"for Linux and torch >= (\d+\.\d+)|every torch from (\d+\.\d+)", 2),
    "docs/limits.md": (r"Compiled operators need torch >= (\d+\.\d+)", 1),
    "docs/design.md": (r"stable ABI of torch (\d+\.\d+)", 1),
    "CONTRIBUTING.md": (r"at target (\d+\.\d+)", 1),
    "docs/complaints.md": (r"torch from (\d+\.\d+)", 1),
}


@pytest.mark.parametrize("file", LEAST_TORCH_IS_NAMED)
def test_the_least_torch_of_the_library_is_the_same_everywhere(file: str) -> None:
    pattern, count = LEAST_TORCH_IS_NAMED[file]
    named = ["".join(groups.groups("")) for groups in re.finditer(pattern, (ROOT / file).read_text("utf-8"))]
    assert named == [".".join(map(str, LEAST_TORCH))] * count


def test_the_headers_and_setup_know_the_least_torch(metadata: dict[str, Any]) -> None:
    (target,) = re.findall(r"TORCH_TARGET_VERSION=(0x\w+)", (ROOT / "CMakeLists.txt").read_text())
    assert int(target, 16) == (LEAST_TORCH[0] << 56) + (LEAST_TORCH[1] << 48)
    assert metadata["least_torch"] == LEAST_TORCH


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
        tracked = subprocess.run(
            ["git", "ls-files", link.partition("#")[0]], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert tracked, f"README.md: {link} is no file of the repository"


def test_the_owner_of_the_repository_is_named_in_one_place(metadata: dict[str, Any]) -> None:
    owner, project = metadata["repository"].split("/")[-2:]
    urls = dict(metadata["project_urls"])
    assert urls.pop("Documentation") == f"https://{owner}.github.io/{project}/"
    assert all(url.startswith(metadata["repository"]) for url in urls.values())
    assert (ROOT / "setup.py").read_text().count(metadata["repository"]) == 1
    assert metadata["repository"].rpartition("/")[0] not in PYPROJECT


def imported(module: Path) -> set[str]:
    """The packages that a module cannot be imported without: not those of a function, a type checker or a `try`."""
    found = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names


def test_what_is_imported_is_declared() -> None:
    (line,) = re.findall(r"^dependencies = \[(.+)\]", PYPROJECT, re.MULTILINE)
    declared = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', line)}
    (line,) = re.findall(r"^cli = \[(.+)\]", PYPROJECT, re.MULTILINE)
    of_pictures = {{"pillow": "PIL"}.get(name, name) for name in re.findall(r'"([\w-]+)', line)}
    needed = {path: imported(path) for path in (ROOT / "perceptual_ops").rglob("*.py")}
    assert {name for names in needed.values() for name in names} <= declared | of_pictures
    core = {
        name
        for path, names in needed.items()
        if path.parent.name in ("losses", "engine", "networks", "plain")
        for name in names
    }
    assert core == declared


def test_pythons_that_are_served() -> None:
    served = [int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', PYPROJECT)]
    assert served == list(range(served[0], served[-1] + 1))
    assert f'requires-python = ">=3.{served[0]}"' in PYPROJECT
    assert f'target-version = "py3{served[0]}"' in PYPROJECT and f'python_version = "3.{served[0]}"' in PYPROJECT
