"""Which wheel setup.py makes, of what, and under which name. CMake is stood in for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
# CMake writes what was built and, when it compiles, the library.
SETUP = """
import runpy, shutil, subprocess, sys
from pathlib import Path

settings = {}
missing, torch = sys.argv[1].split(), sys.argv[2]

def run(command, **_):
    print(*command)
    settings.update(word[2:].split("=", 1) for word in command if word.startswith("-D"))
    if "-B" in command:
        Path(command[command.index("-B") + 1], "part.txt").write_text("cuda13.0")
    else:
        folder = Path(settings["CMAKE_LIBRARY_OUTPUT_DIRECTORY"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_C.so").write_text("compiled")

subprocess.run = run
shutil.which = lambda name, **_: None if name in missing else f"/usr/bin/{name}"
if torch == "none":
    sys.modules["torch"] = None
sys.argv[:3] = ["setup.py"]
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a build reads, in a folder with a space, which was built before: by another state of the code."""
    folder = tmp_path / "a checkout"
    package = folder / "perceptual_ops"
    (package / "networks" / "data").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (package / "_native.py").write_text("LEAST_TORCH = 2, 10  # for the ABI\n")
    (package / "networks" / "data" / "LICENSE-weights").write_text("free")
    (package / "_C.so").write_text("compiled before")
    for stale in (
        "lib",
        f"lib.linux-x86_64-cpython-{sys.version_info[0]}{sys.version_info[1]}",
        "bdist.linux-x86_64/wheel",
    ):
        (folder / "build" / stale / "perceptual_ops").mkdir(parents=True)
        (folder / "build" / stale / "perceptual_ops" / "removed.py").write_text("")
    return folder


def build(
    folder: Path, *arguments: str, torch: str = "2.13.0+cpu", missing: str = "", **switches: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py where there is this torch ("none") and these programs are missing."""
    fake = folder.parent / "site" / "torch"
    fake.mkdir(parents=True, exist_ok=True)
    (fake / "__init__.py").touch()
    (fake / "version.py").write_text(f"__version__ = '{torch}'\n")
    around = {name: value for name, value in os.environ.items() if not name.startswith("PERCEPTUAL_OPS_")}
    environment = around | {"PYTHONPATH": str(fake.parent)}
    environment |= {f"PERCEPTUAL_OPS_{name}": value for name, value in switches.items()}
    run = [sys.executable, "-c", SETUP, missing, torch, "-q", *(arguments or ["bdist_wheel"])]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def wheel(folder: Path, **options: str) -> tuple[str, list[str], str]:
    """The name of the wheel that is made, the files of the package in it, and what was said."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    done = build(folder, **options)
    assert done.returncode == 0, done.stderr
    (file,) = (folder / "dist").iterdir()
    with ZipFile(file) as packed:
        return (
            file.name,
            sorted(name for name in packed.namelist() if ".dist-info" not in name),
            done.stdout + done.stderr,
        )


def plain(name: str) -> bool:
    return name == "perceptual_ops-1.2.3-py3-none-any.whl"


CODE = ["perceptual_ops/__init__.py", "perceptual_ops/_native.py", "perceptual_ops/networks/data/LICENSE-weights"]


@pytest.mark.parametrize(
    ("torch", "switch", "said"),
    [
        (
            "none",
            "",
            "this build sees no torch; install torch, cmake and ninja, then `pip install --no-build-isolation .`",
        ),
        ("2.9.1+cu128", "", "the compiled library needs torch >= 2.10, this build sees 2.9.1+cu128"),
        ("2.13.0+cpu", "0", "PERCEPTUAL_OPS_NATIVE=0"),
    ],
)
def test_a_wheel_for_any_system(checkout: Path, torch: str, switch: str, said: str) -> None:
    name, files, output = wheel(checkout, torch=torch, NATIVE=switch)
    assert plain(name) and files == CODE
    assert f"perceptual_ops: in plain PyTorch, nothing is compiled: {said}\n" in output


def test_a_wheel_of_this_machine_names_what_is_in_it(checkout: Path) -> None:
    name, files, output = wheel(checkout)
    assert name.startswith("perceptual_ops-1.2.3-0cuda13.0-py3-none-linux_") and files == [
        "perceptual_ops/_C.so",
        *CODE,
    ]
    assert "-DPERCEPTUAL_OPS_CUDA_ARCHS=native " in output and "--build" in output


def test_a_wheel_for_an_index(checkout: Path) -> None:
    name, files, output = wheel(checkout, MANYLINUX="1", NATIVE="1", CUDA_ARCHS="80; 90")
    assert name.startswith("perceptual_ops-1.2.3-py3-none-manylinux_2_28_") and files == ["perceptual_ops/_C.so", *CODE]
    assert "-DPERCEPTUAL_OPS_MANYLINUX=1" in output and "-DPERCEPTUAL_OPS_CUDA_ARCHS=80,90 " in output
    assert plain(wheel(checkout, MANYLINUX="1", NATIVE="0")[0])


@pytest.mark.parametrize(("setting", "passed"), [("", "OFF"), ("1", "1"), ("0", "0")])
def test_the_environment_says_who_is_a_developer(checkout: Path, setting: str, passed: str) -> None:
    said = build(checkout, "build_ext", STRICT=setting).stdout.replace("\n", " ")
    assert f" -DPERCEPTUAL_OPS_STRICT={passed} " in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"torch": "none", "NATIVE": "1"},
            "PERCEPTUAL_OPS_NATIVE=1 asks for the compiled library, but this build sees no",
        ),
        (
            {"torch": "2.4.1", "NATIVE": "1"},
            "asks for the compiled library, but the compiled library needs torch >= 2.10",
        ),
        (
            {"missing": "ninja"},
            "run `pip install ninja`, or set PERCEPTUAL_OPS_NATIVE=0 for the library in plain PyTorch",
        ),
        ({"NATIVE": "off"}, "PERCEPTUAL_OPS_NATIVE: expected "),
        ({"NATIVE": "false", "torch": "none"}, "got 'false' in the environment; set it to one of these, or unset it"),
        ({"missing": "cmake ninja"}, "is compiled by cmake and ninja: run `pip install cmake ninja`, or set"),
    ],
)
def test_a_build_that_cannot_be(checkout: Path, options: dict[str, str], said: str) -> None:
    done = build(checkout, **options)
    assert done.returncode == 1 and said in done.stderr.splitlines()[-1]


def test_an_environment_may_be_moved(checkout: Path) -> None:
    """The script by which pip starts cmake names the Python of its former place."""
    assert "cmake -S " in build(checkout, "build_ext").stdout
    package = checkout.parent / "site" / "cmake"
    program = package / "data" / "bin" / "cmake"
    program.parent.mkdir(parents=True)
    program.touch()
    (package / "__init__.py").touch()
    assert f"{program} -S " in build(checkout, "build_ext").stdout


def test_cmake_forgets_what_it_found_elsewhere(checkout: Path) -> None:
    compiled = checkout / "build" / "cmake" / "compiled.o"
    build(checkout, "build_ext")
    compiled.touch()
    build(checkout, "build_ext")
    assert compiled.exists()
    moved = checkout.rename(checkout.parent / "moved")
    build(moved, "build_ext")
    assert not (moved / "build" / "cmake" / "compiled.o").exists()


@pytest.fixture
def compiled(checkout: Path) -> Path:
    """The library in a checkout, of whose sources it was compiled."""
    (checkout / "csrc").mkdir()
    (checkout / "csrc" / "library.cpp").write_text("int x;")
    assert build(checkout, "build_ext", "--inplace").returncode == 0
    return checkout / "perceptual_ops" / "_C.so"


def changed_source(compiled: Path) -> None:
    (compiled.parents[1] / "csrc" / "library.cpp").write_text("int y;")


def more_sources(compiled: Path) -> None:
    (compiled.parents[1] / "csrc" / "more.h").touch()


def another_library(compiled: Path) -> None:
    compiled.write_text("of another checkout")


def raised_version(compiled: Path) -> None:
    (compiled.parent / "__init__.py").write_text('__version__ = "1.2.4"\n')


def no_record(compiled: Path) -> None:
    shutil.rmtree(compiled.parents[1] / "build")


@pytest.mark.parametrize("torch", ["none", "2.9.1"])
def test_an_editable_install_that_compiles_nothing_keeps_a_library_of_the_same_code(compiled: Path, torch: str) -> None:
    done = build(compiled.parents[1], "editable_wheel", torch=torch)
    assert done.returncode == 0, done.stderr
    assert compiled.read_text() == "compiled"
    assert done.stderr.count(f"perceptual_ops: keeps {compiled}, which was compiled from this code\n") == 1


@pytest.mark.parametrize("change", [changed_source, more_sources, another_library, raised_version, no_record])
def test_an_editable_install_leaves_no_library_of_other_code(compiled: Path, change: Callable[[Path], None]) -> None:
    """It would be loaded."""
    change(compiled)
    done = build(compiled.parents[1], "editable_wheel", torch="none")
    assert done.returncode == 0, done.stderr
    assert not compiled.exists()
    assert f"perceptual_ops: removes {compiled}: it was not compiled here from this code\n" in done.stderr


def test_an_editable_install_in_plain_pytorch_leaves_no_library(compiled: Path) -> None:
    done = build(compiled.parents[1], "editable_wheel", NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert not compiled.exists()
    assert f"perceptual_ops: removes {compiled}: PERCEPTUAL_OPS_NATIVE=0\n" in done.stderr


def test_the_sdist_has_what_a_build_needs(checkout: Path) -> None:
    """All that is compiled and packed, and no tests, which would not run without the rest of the checkout."""
    for name in ("csrc", "cmake", "CHANGELOG.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_setup.py").touch()
    needed = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    needed = {name for name in needed if not name.startswith(("build/", "tests/")) and "_C.so" not in name}
    assert build(checkout, "sdist").returncode == 0
    (file,) = (checkout / "dist").iterdir()
    with tarfile.open(file) as packed:
        names = {name.partition("/")[2] for name in packed.getnames() if packed.getmember(name).isfile()}
    assert {name for name in names if "egg-info" not in name} == needed | {"PKG-INFO", "setup.cfg"}
