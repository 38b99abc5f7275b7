"""The compiled library: what it needs of torch, what it says of itself, and what happens without it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

import perceptual_ops as po
from perceptual_ops import _native, ops

needs_library = pytest.mark.skipif(not _native.LIBRARY.exists(), reason="the library is not built")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> str:
    reason = "a test hides the library"
    monkeypatch.setattr(ops, "native", _native.NativeLibrary(reason, reason))
    monkeypatch.setattr(_native, "_told", set())
    return reason


def shims_of_torch_2_10() -> set[str]:
    """The C functions that torch's headers declare at target 2.10, as the preprocessor leaves them."""
    headers = Path(torch.__file__).parent / "include"
    includes = "".join(f"#include <torch/csrc/{name}/c/shim.h>\n" for name in ("inductor/aoti_torch", "stable"))
    command = ["g++", "-E", "-P", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-I", headers, "-x", "c++", "-"]
    text = subprocess.run(command, input=includes, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", text))


@needs_library
@pytest.mark.skipif(not shutil.which("nm") or not shutil.which("g++"), reason="needs nm and g++")
def test_only_stable_symbols() -> None:
    """Nothing of torch but the C functions of its stable ABI, none newer than 2.10: one file serves all later torch."""
    listed = subprocess.run(["nm", "-D", "-u", _native.LIBRARY], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1] for line in listed.splitlines()}
    assert not [name for name in symbols if re.match(r"_Z\w*?(2at|3c10|5torch|6caffe2)", name)]
    of_torch = {name for name in symbols if "torch" in name}
    assert "torch_call_dispatcher" in of_torch
    assert of_torch <= shims_of_torch_2_10()


@needs_library
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_links_torch_and_the_compiler_runtime_only() -> None:
    dynamic = subprocess.run(["readelf", "-d", _native.LIBRARY], check=True, capture_output=True, text=True).stdout
    needed = {line.split("[")[1].split("]")[0].split(".so")[0] for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert needed <= {
        "libtorch_cpu",
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "libdl",
        "librt",
        "libpthread",
        "ld-linux-x86-64",
    }
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


def test_build_info(native: str) -> None:
    info = _native.native.build_info
    assert info["version"] == po.__version__
    assert info["torch_target"] == "2.10"
    assert info["compiler"]
    assert bool(info["cuda"]) != bool(info["cuda_reason"])
    assert bool(info["cuda"]) == bool(info["cuda_architectures"])


def test_falls_back_with_one_warning(no_library: str) -> None:
    x = torch.rand(1, 2, 3, 3)
    with pytest.warns(RuntimeWarning, match=no_library) as caught:
        first = po.gram_matrix(x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        po.total_variation(x)
        po.gram_matrix(x, backend="reference")
    assert torch.equal(first, po.reference.gram_matrix(x))


def test_falls_back_inside_a_compiled_graph(no_library: str) -> None:
    compiled = torch.compile(lambda x: po.gram_matrix(x), fullgraph=True, backend="aot_eager")
    x = torch.rand(1, 2, 3, 3)
    with pytest.warns(RuntimeWarning, match=no_library):
        first = compiled(x)
    torch.testing.assert_close(first, po.reference.gram_matrix(x))


def test_native_insists(no_library: str) -> None:
    with pytest.raises(RuntimeError, match=f'^backend: .* got "native", which cannot run: {no_library}'):
        po.gram_matrix(torch.rand(1, 2, 3, 3), backend="native")


def test_a_device_that_is_not_served() -> None:
    assert "not meta" in _native.NativeLibrary("", "").refusal(torch.device("meta"))
    assert _native.NativeLibrary("", "no nvcc").refusal(torch.device("cuda")) == "no nvcc"
    assert _native.NativeLibrary("", "no nvcc").refusal(torch.device("cpu")) == ""


@pytest.mark.parametrize(
    ("capability", "architectures", "served"),
    [
        ((9, 0), "80 90 +PTX", True),
        ((8, 9), "80 90 +PTX", True),  # code of an earlier device of the generation
        ((12, 1), "80 90 +PTX", True),  # PTX of the newest
        ((7, 5), "80 90 +PTX", False),
        ((8, 0), "86 +PTX", False),
    ],
)
def test_a_gpu_without_a_kernel_is_not_served(
    capability: tuple[int, int], architectures: str, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    _native._unserved_device.cache_clear()
    library = _native.NativeLibrary("", "", {"cuda_architectures": architectures})
    reason = library.refusal(torch.device("cuda", 0))
    _native._unserved_device.cache_clear()
    assert served == (not reason)
    assert served or f"of capability {capability[0]}.{capability[1]}" in reason


def test_a_missing_or_broken_library_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "LIBRARY", tmp_path / "_C.so")
    assert "_C.so is not built: run" in _native._load().reason
    (tmp_path / "_C.so").write_text("not a library")
    state = _native._load()
    assert not state.loaded
    assert f"does not load with torch {torch.__version__}" in state.reason


def test_import_without_the_library_still_works(tmp_path: Path) -> None:
    """A checkout that was never built imports, without the compiler, computes, and says what it lacks."""
    package = Path(po.__file__).parent
    shutil.copytree(package, tmp_path / "perceptual_ops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    script = """
        import sys, warnings, torch, perceptual_ops as po
        assert "torch._dynamo" not in sys.modules  # whose import takes longer than torch's
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = po.PerceptualLoss("vgg11", weights="random", content_layers=["relu1_1"])
            x = torch.rand(1, 3, 8, 8, requires_grad=True)
            loss(x, torch.rand(1, 3, 8, 8)).backward()
        assert x.grad.abs().sum() > 0
        print(len(caught), caught[0].message)
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    printed = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("1 perceptual_ops runs its slower PyTorch reference: _C.so is not built: run")


def test_build_without_torch_says_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an isolated build sees: no torch. It stops before it fetches one."""
    root = Path(__file__).parents[1]
    script = "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', '-q', 'dist_info']; "
    script += (
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': '__main__'})"
    )
    pytest.importorskip("setuptools")
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("then run `pip install --no-build-isolation .`")
