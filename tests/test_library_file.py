"""Why the compiled library does not load, and which one is loaded where the checkout has none: by real files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pytest
import torch

import perceptual_ops as po
from perceptual_ops import _library_file, _native
from perceptual_ops.cli import doctor

PACKAGE = Path(po.__file__).parent
needs_gcc = pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("gcc"), reason="needs gcc")
needs_library = pytest.mark.skipif(not _native.LIBRARY.exists(), reason="the library is not built")


def linked(
    library: Path, source: str, *options: str | Path, schemas: Mapping[str, str] = _library_file.SCHEMAS
) -> Path:
    """A library of C source that is linked without the system's, and holds the schemas of operators."""
    source += "const char texts[] = " + "".join(f'"{name}{schema}\\0"' for name, schema in schemas.items()) + '"";'
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-x", "none", *options, "-o", library]
    subprocess.run(command, input=source, text=True, check=True)
    return library


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A library called `name` whose function is of a version that the real one lacks."""
    (folder / "versions").write_text(f"{version} {{ global: later; }};")
    options = f"-Wl,-soname,{name}", f"-Wl,--version-script,{folder / 'versions'}"
    return linked(folder / f"stand_in_{name}", "int later(void) { return 1; }", *options)


def put_bytes(library: Path, place: int, new: bytes) -> None:
    data = bytearray(library.read_bytes())
    data[place : place + len(new)] = new
    library.write_bytes(data)


def text(library: Path) -> None:
    library.write_text("version https://git-lfs.github.com/spec/v1\n" * 3)


def empty(library: Path) -> None:
    library.touch()


def a_folder(library: Path) -> None:
    library.mkdir()


def of_another_processor(library: Path) -> None:
    put_bytes(linked(library, ""), 18, bytes([183 if os.uname().machine == "x86_64" else 62]))


def of_32_bits(library: Path) -> None:
    put_bytes(linked(library, ""), 4, b"\1")


def cut_short(library: Path) -> None:
    data = linked(library, "char bulk[1 << 16] = {1};").read_bytes()
    library.write_bytes(data[: len(data) // 2])


def of_other_code(library: Path) -> None:
    changed = {"l2_pool": "(Tensor x, int stride) -> Tensor"}
    linked(library, "", schemas={**_library_file.SCHEMAS, **changed})


def with_an_unknown_symbol(library: Path) -> None:
    linked(library, "int of_another_library(void); int f(void) { return of_another_library(); }")


def with_a_symbol_of_a_later_torch(library: Path) -> None:
    linked(library, "int torch_later(void); int f(void) { return torch_later(); }")


def of_a_later_glibc(library: Path) -> None:
    linked(
        library, "int later(void); int f(void) { return later(); }", stand_in(library.parent, "libc.so.6", "GLIBC_9.9")
    )


def of_a_later_libstdcxx(library: Path) -> None:
    other = stand_in(library.parent, "libstdc++.so.6", "GLIBCXX_9.9")
    linked(library, "int later(void); int f(void) { return later(); }", other)


def on_a_missing_library(library: Path) -> None:
    other = stand_in(library.parent, "libnowhere.so.7", "NOWHERE_1")
    linked(library, "int later(void); int f(void) { return later(); }", other)


CAUSES: list[tuple[Callable[[Path], None], str]] = [
    (text, "it is damaged, no library of Linux: delete it and"),
    (empty, "it is damaged, no library of Linux: delete it and"),
    (a_folder, "it cannot be read (Is a directory)"),
    (of_another_processor, ", this Python for 64-bit little-endian "),
    (of_32_bits, "it is for 32-bit little-endian "),
    (cut_short, "it is cut short, at "),
    (of_other_code, "it is of other code, whose l2_pool is not that of this code: "),
    (with_an_unknown_symbol, "it needs of_another_library, which no library here has: "),
    (with_a_symbol_of_a_later_torch, f"it needs torch_later, which torch {torch.__version__} lacks: update torch, or"),
    (of_a_later_glibc, f"it needs GLIBC_9.9, this system has glibc {os.confstr('CS_GNU_LIBC_VERSION').split()[1]}: "),
    (of_a_later_libstdcxx, "libstdc++.so.6 lacks: update that library, or"),
    (on_a_missing_library, "it needs libnowhere.so.7, which is not installed: install it, or"),
]


@needs_gcc
@pytest.mark.parametrize(("make", "cause"), CAUSES, ids=[make.__name__ for make, _ in CAUSES])
def test_the_cause_is_named(make: Callable[[Path], None], cause: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """In one line with the remedy, by doctor too."""
    monkeypatch.setattr(_native, "LIBRARY", tmp_path / "_C.so")
    make(_native.LIBRARY)
    state = _native._load()
    assert not state.loaded and state.cuda_reason == state.reason
    assert state.reason.startswith("_C.so does not load: it ") and cause in state.reason
    assert "\n" not in state.reason and str(tmp_path) not in state.reason
    assert state.reason.endswith('ninja "setuptools>=77"` and `pip install --no-build-isolation .` in a checkout')
    monkeypatch.setattr(doctor, "native", state)
    doctor._print_versions()
    assert f"library                  {state.reason}\n" in capsys.readouterr().out


@needs_gcc
def test_a_library_without_one_of_the_operators_is_of_other_code(tmp_path: Path) -> None:
    """A missing one is found whichever it is, and one more is no harm."""
    schemas = _library_file.SCHEMAS
    for missing in ("gram_matrix", "loss_scale"):
        less = {name: schema for name, schema in schemas.items() if name != missing}
        assert f"whose {missing} is not" in _library_file.fault_of(linked(tmp_path / "less.so", "", schemas=less))
    more = {"of_a_later_version": "() -> ()", **schemas}
    assert _library_file.fault_of(linked(tmp_path / "more.so", "", schemas=more)) == ""


@needs_gcc
def test_a_system_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: str | Path, mode: str) -> IO[bytes]:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return open(path, mode)

    library = linked(tmp_path / "_C.so", "")
    monkeypatch.setattr(_library_file, "open", opened, raising=False)
    assert _library_file.fault_of(library) == ""


def test_the_schemas_are_those_of_the_sources() -> None:
    text = (PACKAGE.parent / "csrc" / "library.cpp").read_text()
    definitions = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', text)
    compiled = ["".join(re.findall(r'"([^"]*)"', literals)) for literals in definitions]
    assert compiled == [f"{name}{schema}" for name, schema in _library_file.SCHEMAS.items()]
    assert len(compiled) == text.count("m.def(")


def test_what_is_not_recognised_is_passed_on() -> None:
    said = "/a b/_C.so: failed to map segment from shared object"
    assert _library_file.explained(said, "2.10").startswith(f"{said}; run `pip install")


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A checkout without its library and an installed copy with one, each a package of two modules."""
    checkout, site = tmp_path / "check out", tmp_path / "site-packages"
    for root in (checkout, site):
        (root / "po" / "networks").mkdir(parents=True)
        (root / "po" / "__init__.py").touch()
        (root / "po" / "networks" / "vgg.py").write_text("layers = 1")
    (checkout / "setup.py").touch()
    (site / "po" / "_C.so").touch()
    nothing = [str(tmp_path / "none"), "cannot be looked into" * 1000]
    monkeypatch.setattr(sys, "path", ["", str(checkout), *nothing, str(site), sysconfig.get_path("stdlib")])
    monkeypatch.chdir(checkout)
    return checkout / "po" / "_C.so", site / "po" / "_C.so"


def test_the_installed_copy_of_the_same_code_has_the_library(copies: tuple[Path, Path]) -> None:
    own, installed = copies
    (installed.parent / "of_the_copy_alone.py").touch()
    assert _library_file.find_library(own) == (installed, "")
    own.touch()
    assert _library_file.find_library(own) == (own, "")


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_a_library_of_other_code_is_left_alone(change: str, copies: tuple[Path, Path]) -> None:
    own, installed = copies
    module = installed.parent / "networks" / "vgg.py"
    if change == "changed":
        module.write_text("layers = 2")
    else:
        module.unlink()
    library, reason = _library_file.find_library(own)
    assert library is None
    assert f"{own.parent}, which Python imports, has no _C.so" in reason
    assert f"{installed} is for other code ({Path('networks', 'vgg.py')} differs)" in reason
    assert "start Python in another folder, or again run `pip install cmake ninja" in reason
    assert f"in {own.parents[1]}, where torch is" in reason


def test_only_the_next_copy_counts(copies: tuple[Path, Path]) -> None:
    """That is the one that Python imports elsewhere; without a library it is no remedy."""
    own, installed = copies
    installed.unlink()
    last = own.parents[2] / "last" / "po"
    shutil.copytree(own.parent, last)
    (last / "_C.so").touch()
    sys.path.append(str(last.parent))
    assert _library_file.find_library(own)[0] is None
    assert "_C.so is not built: run" in _library_file.find_library(own)[1]
    shutil.rmtree(installed.parent)
    assert _library_file.find_library(own) == (last / "_C.so", "")


def test_a_folder_that_was_removed(copies: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python started in it finds nothing there, and has no path for it."""
    own, installed = copies
    gone = own.parents[2] / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert _library_file.find_library(own) == (installed, "")
    monkeypatch.chdir("/")


@needs_library
def test_python_in_a_checkout_loads_what_pip_installed(tmp_path: Path) -> None:
    for root in ("checkout", "site"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(PACKAGE, tmp_path / root / "perceptual_ops", ignore=ignored)
    installed = tmp_path / "site" / "perceptual_ops" / "_C.so"
    installed.symlink_to(_native.LIBRARY)
    script = """
        import perceptual_ops
        from perceptual_ops._native import LIBRARY, native
        print(LIBRARY.exists(), native.loaded, native.file)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path / "checkout",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == (f"False True {installed}\n", "")
