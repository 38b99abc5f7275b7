"""What `make check-wheel` finds in a library's machine code."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import check_wheel
import pytest

from perceptual_ops._native import native

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="needs x86-64 and objdump"
)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize(
    ("instructions", "missing"),
    [
        (["mulps %xmm0, %xmm1"], ["AVX2", "AVX-512", "AMX"]),
        (["vfmadd231ps %ymm0, %ymm1, %ymm2"], ["AVX-512", "AMX"]),
        (["vfmadd231ps %zmm0, %zmm1, %zmm2", "tdpbf16ps %tmm0, %tmm1, %tmm2"], ["AVX2"]),
    ],
)
def test_code_for_newer_processors_that_is_missing(tmp_path: Path, instructions: list[str], missing: list[str]) -> None:
    source, library = tmp_path / "code.s", tmp_path / "code.so"
    source.write_text("\n".join([".text", *instructions, ""]))
    subprocess.run(["g++", "-shared", "-nostdlib", "-o", library, source], check=True)
    assert check_wheel.missing_code(library) == missing


@pytest.mark.skipif(not native.loaded, reason="the compiled library is not loaded")
def test_the_library_has_the_code_that_a_release_needs() -> None:
    compiler, version = native.build_info["compiler"].split()
    if compiler != "GNU" or int(version.split(".")[0]) < 12:
        pytest.skip(f"{compiler} {version} leaves it out")
    assert native.file is not None and not check_wheel.missing_code(Path(native.file))


def test_a_release_is_refused_without_cuda_or_code_for_newer_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="nvcc"):
        check_wheel.check_release(tmp_path / "wheel", "compiled, CUDA: no CUDA part")
    monkeypatch.setattr(check_wheel, "FOLDER", tmp_path)
    monkeypatch.setattr(check_wheel, "code", lambda _: {"perceptual_ops/_C.so": b""})
    monkeypatch.setattr(check_wheel, "missing_code", lambda _: ["AMX"])
    with pytest.raises(AssertionError, match=r"no code for AMX: .* g\+\+ >= 12"):
        check_wheel.check_release(tmp_path / "wheel", "compiled, CUDA: 13.0")
