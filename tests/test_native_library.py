"""The compiled library: what it needs of torch, what it says of itself, and what happens without it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import perceptual_ops as po
from perceptual_ops import _native, ops

needs_library = pytest.mark.skipif(not _native.native.loaded, reason="the library is not loaded")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> str:
    reason = "a test hides the library"
    monkeypatch.setattr(ops, "native", _native.NativeLibrary(reason, reason))
    monkeypatch.setattr(_native, "_told", set())
    return reason


def shims_of_the_least_torch() -> set[str]:
    """The C functions that torch's headers declare at the target of the library, as the preprocessor leaves them."""
    headers = Path(torch.__file__).parent / "include"
    includes = "".join(f"#include <torch/csrc/{name}/c/shim.h>\n" for name in ("inductor/aoti_torch", "stable"))
    major, minor = _native.LEAST_TORCH
    target = f"-DTORCH_TARGET_VERSION={(major << 56) + (minor << 48):#x}"
    command = ["g++", "-E", "-P", target, "-I", headers, "-x", "c++", "-"]
    text = subprocess.run(command, input=includes, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", text))


def test_a_constant_is_marked_as_torch_marks_it() -> None:
    """By an attribute that torch keeps to itself, since to ask torch for the mark is to import torch._dynamo."""

    def ours() -> None: ...

    def theirs() -> None: ...

    assert vars(_native.constant_when_compiled(ours)) == vars(torch.compiler.assume_constant_result(theirs)) != {}


class HeapStatistics(ctypes.Structure):
    """glibc's mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


@needs_library
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc >= 2.33")
def test_names_among_arguments_are_freed() -> None:
    """torch's own conversion of a string keeps it: 32 bytes and more a call, for as long as a training lasts."""
    heap = ctypes.CDLL(None).mallinfo2
    heap.restype = HeapStatistics
    library, x, calls = (
        torch.ops.perceptual_ops,
        torch.rand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        2000,
    )

    def call() -> None:
        library.gram_matrix(x, "chw")
        library.total_variation(x, "l1")
        library.feature_loss([x], [x], [1.0], "mse", 0.0)
        library.bias_relu_pool(x, None, True, "max", 2, 2, True)

    for _ in range(10):
        call()
    before = heap().uordblks
    for _ in range(calls):
        call()
    assert heap().uordblks - before < 4 * calls


@needs_library
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs libstdc++")
def test_errors_of_cpp_leave_nothing_behind() -> None:
    """The library throws them and torch catches: both have to count in one place how many are under way."""
    under_way = ctypes.CDLL("libstdc++.so.6")._ZSt19uncaught_exceptionsv
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"^x: expected \(N, C, H, W\), got 2 dimensions"):
            torch.ops.perceptual_ops.gram_matrix(torch.rand(3, 4), "chw")
    assert under_way() == 0


OF_ANY_SYSTEM = (b"/proc/", b"/sys/", b"/dev/")  # CUDA's runtime reads there
SOURCES = (b".c", b".cc", b".cpp", b".cu", b".cuh", b".h", b".hpp", b".o", b".so", b".a", b".py")


def absolute_paths(data: bytes) -> list[bytes]:
    """Those in a binary file, of any machine. In compressed code a few bytes may look like a short one."""
    found = re.findall(rb"(?<![\w.+/-])/[\w.+-]+(?:/[\w.+-]+)+", data)
    long = [path for path in found if len(path) >= 14 or path.endswith(SOURCES)]
    return [path for path in long if not path.startswith(OF_ANY_SYSTEM)]


@needs_library
def test_the_library_does_not_say_where_it_was_built() -> None:
    assert absolute_paths(_native.LIBRARY.read_bytes()) == []


def test_absolute_paths_are_found_among_bytes() -> None:
    paths = [b"/root/a.cu", b"/home/ci/build/torch/include", b"/builds/+x/csrc/gram_cpu.cpp", b"/usr/local/cuda"]
    others = [b"csrc/gram/gram_cpu.cpp", b"https://gcc.gnu.org/bugs/a.h", b"/proc/self/status", b"/u/g", b"a/b/c.h"]
    assert absolute_paths(b"\0".join([b"\x7fELF", *paths, *others, b"at " + paths[0] + b":12"])) == [*paths, paths[0]]


@needs_library
@pytest.mark.skipif(not shutil.which("nm") or not shutil.which("g++"), reason="needs nm and g++")
def test_only_stable_symbols() -> None:
    """Nothing of torch but the C functions of its stable ABI, none newer than its target: it serves later torch."""
    listed = subprocess.run(["nm", "-D", "-u", _native.LIBRARY], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1] for line in listed.splitlines()}
    assert not [name for name in symbols if re.match(r"_Z\w*?(2at|3c10|5torch|6caffe2)", name)]
    of_torch = {name for name in symbols if "torch" in name}
    assert "torch_call_dispatcher" in of_torch
    assert of_torch <= shims_of_the_least_torch()


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
    assert info["torch_target"] == ".".join(map(str, _native.LEAST_TORCH))
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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[int, int], int], None]]:
    """Puts a GPU of a capability into the machine, with a driver of a version as CUDA counts."""

    class Driver:
        def __init__(self, version: int) -> None:
            self.version = version

        def cuDriverGetVersion(self, version: Any) -> None:
            version._obj.value = self.version

    def put(capability: tuple[int, int], driver: int) -> None:
        _native._gpu_lacks.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(ctypes, "CDLL", {"libcuda.so.1": Driver(driver)}.__getitem__)

    yield put
    _native._gpu_lacks.cache_clear()


def built_by(toolkit: str, architectures: str) -> _native.NativeLibrary:
    return _native.NativeLibrary("", "", {"cuda": toolkit, "cuda_architectures": architectures})


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
    capability: tuple[int, int], architectures: str, served: bool, gpu: Callable[..., None]
) -> None:
    gpu(capability, 13000)
    reason = built_by("13.0", architectures).refusal(torch.device("cuda", 0))
    assert served == (not reason)
    assert served or f"of capability {capability[0]}.{capability[1]}" in reason


@pytest.mark.parametrize("capability", [(6, 1), (7, 5)])
def test_no_build_serves_a_gpu_below_8_0(capability: tuple[int, int], gpu: Callable[..., None]) -> None:
    """So none is advised, nor another driver."""
    gpu(capability, 12080)
    reason = built_by("13.0", "80 90 +PTX").refusal(torch.device("cuda", 0))
    own = f"{capability[0]}.{capability[1]}"
    assert reason == f"the kernels need a GPU of capability 8.0 or newer, cuda:0 is of capability {own}"


@pytest.mark.parametrize(
    ("driver", "toolkit", "capability", "lacks"),
    [
        (12080, "13.0", (9, 0), "needs an NVIDIA driver for CUDA 13 or newer, this one is for 12.8"),
        (12020, "12.9", (9, 0), ""),  # machine code runs on every driver of its major
        (13000, "13.5", (9, 0), ""),
        (13000, "12.9", (9, 0), ""),
        (13000, "13.5", (12, 0), "only PTX of CUDA 13.5 for cuda:0 .* which a driver for 13.0 does not read"),
        (13000, "12.9", (12, 0), ""),
    ],
)
def test_a_driver_that_is_too_old_is_not_served(
    driver: int, toolkit: str, capability: tuple[int, int], lacks: str, gpu: Callable[..., None]
) -> None:
    gpu(capability, driver)
    library, device = built_by(toolkit, "80 90 +PTX"), torch.device("cuda", 0)
    assert re.search(lacks, library.refusal(device)) if lacks else library.refusal(device) == ""


def test_compiled_code_falls_back_for_an_old_driver(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """While it traces: its operators would only fail."""
    gpu((9, 0), 12080)
    library = built_by("13.0", "90 +PTX")

    def call(x: torch.Tensor) -> torch.Tensor:
        return -x if library.refusal(torch.device("cuda", 0)) else x

    x = torch.ones(1)
    assert torch.equal(torch.compile(call, fullgraph=True, backend="eager")(x), -x)


def test_no_operator_asks_the_runtime_for_the_current_device() -> None:
    """On a thread without a context the runtime would make one, on the first GPU: the current device is torch's."""
    sources = Path(__file__).parents[1] / "csrc"
    text = {path: path.read_text() for path in sources.rglob("*") if path.is_file()}
    assert any("cudaFuncSetAttribute" in source for source in text.values())
    assert not [path for path, source in text.items() if re.search(r"\bcuda[GS]etDevice\b", source)]


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
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # where a built copy may be
    printed = subprocess.run(run, cwd=tmp_path, env=elsewhere, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("1 perceptual_ops runs in plain PyTorch: _C.so is not built: run")
