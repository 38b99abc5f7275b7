"""The workflows run what exists, on every Python that is served, by actions that cannot change under us."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from perceptual_ops._native import LEAST_TORCH

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI, RELEASE = (
    yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text()) for name in ("ci", "release")
)


def test_plain_pytorch_runs_on_every_python_and_system() -> None:
    matrix = CI["jobs"]["plain"]["strategy"]["matrix"]
    served = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert matrix["python"] == served
    assert {name.split("-")[0] for name in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert set(CI["jobs"]["compiled"]["strategy"]["matrix"]["python"]) == {served[0], served[-1]}


def test_torch_from_the_oldest_on_is_tried() -> None:
    """The oldest, which make has, up to the least of the compiled library; docs/installs.md names them."""
    tried = CI["jobs"]["older-torch"]["strategy"]["matrix"]["torch"]
    assert [f"TORCH ?= {tried[0]}"] == re.findall(r"^TORCH \?= .*", (ROOT / "Makefile").read_text(), re.MULTILINE)
    minors = [tuple(map(int, version.split(".")[:2])) for version in tried]
    named = ", ".join(f"{major}.{minor}" for major, minor in minors[:-1]) + " and {}.{}".format(*minors[-1])
    assert f"on torch {named}" in (ROOT / "docs" / "installs.md").read_text("utf-8")
    assert minors == sorted(set(minors)) and minors[-1] == LEAST_TORCH


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_what_a_workflow_runs_exists(file: Path) -> None:
    text = file.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"run: make ([\w-]+)", text)) <= targets
    named = re.findall(r"[\w./-]+\.py\b|requirements-\w+\.txt|\.ci/run", text)
    assert named and not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_and_may_only_read(file: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(file.read_text())
    used = re.findall(r"uses: (\S+)(.*)", file.read_text())
    used = [(action, version) for action, version in used if action != "./.github/workflows/ci.yml"]
    assert used and all(re.search(r"@[0-9a-f]{40}$", action) and "# v" in version for action, version in used)
    assert len(dict(action.split("@") for action, _ in used)) == len({action for action, _ in used})
    assert workflow["permissions"] == {"contents": "read"} and "group" in workflow["concurrency"]


def test_only_the_publishing_jobs_may_identify_themselves() -> None:
    asked = {name: job["permissions"] for name, job in RELEASE["jobs"].items() if "permissions" in job}
    assert asked == {"publish": {"id-token": "write"}, "pages": {"id-token": "write", "pages": "write"}}
    assert RELEASE["jobs"]["pages"]["environment"] and "publish" in RELEASE["jobs"]["pages"]["needs"]
    assert [step["uses"].split("@")[0] for step in RELEASE["jobs"]["pages"]["steps"]] == ["actions/deploy-pages"]
    assert RELEASE["jobs"]["publish"]["environment"] and RELEASE["jobs"]["publish"]["needs"] == ["ci", "build"]
    steps = [step.get("uses", "").split("@")[0] for step in RELEASE["jobs"]["publish"]["steps"]]
    assert steps == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]


def test_what_is_published_has_passed_ci() -> None:
    assert RELEASE["jobs"]["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert "workflow_call" in CI[True]  # YAML's `on`


@pytest.mark.parametrize("job", [CI["jobs"]["compiled"], RELEASE["jobs"]["build"]], ids=["ci", "release"])
def test_the_compiler_has_the_vectorised_code(job: dict[str, Any]) -> None:
    guards = [(ROOT / "csrc" / file).read_text() for file in ("common/cpu.h", "gram/amx_cpu.h")]
    least = {int(number) for guard in guards for number in re.findall(r"__GNUC__ >= (\d+)", guard)}
    assert least
    for variable, compiler in {"CC": "gcc", "CXX": "g++", "CUDAHOSTCXX": "g++"}.items():
        name, _, version = job["env"][variable].rpartition("-")
        assert name == compiler and int(version) >= max(least)
