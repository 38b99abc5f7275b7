"""Which compilers `make check-compilers` finds, and that it tells a build that fails or warns."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import check_compilers
import pytest
from check_compilers import Compiler, check, compilers_of_cpp, warnings_in


def program(file: Path, script: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_every_compiler_is_found_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    kept = program(first / "g++-15", "echo 'g++-15 (Distribution 15.1.0-2) 15.1.0'")
    (first / "g++").symlink_to("g++-15")
    program(first / "g++-mapper-server", "")
    hidden = program(second / "g++-15", "echo 14.0.0")
    clang = program(second / "clang++", "echo 'clang version 20.1.8 (3~1)'")
    (second / "clang++-20").write_text("not a program")
    found = compilers_of_cpp(os.pathsep.join(map(str, (first, second))))
    present = {compiler.name: compiler for compiler in found if compiler.path}
    assert {name: compiler.path for name, compiler in present.items()} == {"g++-15": str(kept), "clang++": str(clang)}
    assert [present[name].version() for name in ("g++-15", "clang++")] == ["15.1.0", "20.1.8"]
    assert {compiler.name for compiler in found if not compiler.path} == set(check_compilers.LISTED)
    assert str(hidden) not in {compiler.path for compiler in found}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("a.cpp:3:7: warning: unused variable 'x' [-Wunused-variable]", 1),
        ('a.cu(3): warning #177-D: variable "x" was declared but never referenced', 1),
        ("ptxas warning : Registers are spilled to local memory in function 'f', 8 bytes spill stores", 1),
        ("ptxas a.ptx, line 5; warning : Unresolved call", 1),
        ("1 warning generated.", 0),  # clang's own sum
        ("[3/9] Building CXX object warnings.cpp.o", 0),
    ],
)
def test_warnings_of_each_compiler_count(line: str, count: int) -> None:
    assert warnings_in(f"{line}\n{line}") == 2 * count


@pytest.mark.skipif(
    not shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"),
    reason="needs cmake",
)
def test_a_compiler_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_compilers, "FOLDER", tmp_path)
    broken = program(tmp_path / "bin" / "g++-99", 'echo "99.0.0: no space left"; exit 1')
    assert check(Compiler("g++-99", str(broken)), "99.0.0").startswith("FAILED: build, see ")
    assert "no space left" in (tmp_path / "g++-99" / "log").read_text()
