"""The file of the compiled library: where it lies, and why it does not load, with the remedy.

The dynamic loader's messages are terse, wrong for another architecture ("No such file"), and for a truncated file it
crashes the process. It cannot tell a stale library, built from an older checkout.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import sys
from pathlib import Path

from ._schemas import SCHEMAS

HEADER = 64  # bytes of a 64-bit ELF file
TEXTS = 1 << 18  # bytes around the first schema that contain the others
PROCESSORS = {3: "x86", 21: "ppc64", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "RISC-V"}
BUILD = 'run `pip install cmake ninja "setuptools>=77"` and `pip install --no-build-isolation .` in a checkout'


def find_library(own: Path) -> tuple[Path | None, str]:
    """The library to load, or why there is none: the one beside the code, or in an installed copy of the same code.

    Python started in a checkout imports the checkout's folder, whose library `pip install .` puts elsewhere. A library
    of other code may lack operators or take other arguments, so it is left alone.
    """
    if own.exists():
        return own, ""
    here = own.parent
    root = here.parent
    build = f"{BUILD if not (root / 'setup.py').is_file() else BUILD.replace('a checkout', str(root))}, where torch is"
    installed = _installed_copy(own)
    if installed is None:
        return None, f"{own.name} is not built: {build}"
    different = next((file for file in _code(here) if not _is_same(here / file, installed.parent / file)), None)
    if different is None:
        return installed, ""
    return None, (
        f"{here}, which Python imports, has no {own.name}, and {installed} is for other code ({different} differs): "
        f"start Python in another folder, or again {build}"
    )


def _installed_copy(own: Path) -> Path | None:
    """The library of the next copy of the package on Python's path, if it has one."""
    for entry in sys.path:
        package = Path(entry, own.parent.name)
        if os.path.isfile(package / "__init__.py") and not package.samefile(own.parent):  # Path's own may raise
            library = package / own.name
            return library.absolute() if os.path.isfile(library) else None
    return None


def _code(package: Path) -> list[Path]:
    return sorted(path.relative_to(package) for path in package.rglob("*.py"))


def _is_same(one: Path, other: Path) -> bool:
    from filecmp import cmp  # where there is an installed copy alone

    return other.is_file() and cmp(one, other, shallow=False)


def fault_of(library: Path) -> str:
    """Why a file must not be passed to the loader; empty if it may be."""
    try:
        with open(library, "rb") as file:
            header, size = file.read(HEADER), os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"it cannot be read ({error.strerror}): make it readable, or {BUILD}"
    if len(header) < HEADER or not header.startswith(b"\x7fELF"):
        return f"it is damaged, no library of Linux: delete it and {BUILD}"
    if not sys.platform.startswith("linux"):
        return f"it is for Linux, this is {sys.platform}: {BUILD}"
    with contextlib.suppress(FileNotFoundError), open("/proc/self/exe", "rb") as file:  # a chroot may lack /proc
        running = file.read(HEADER)
        if _processor(header) != _processor(running):
            return f"it is for {_processor(header)}, this Python for {_processor(running)}: {BUILD}"
    (sections,), (entry, count) = struct.unpack_from("=Q", header, 40), struct.unpack_from("=HH", header, 58)
    if size < sections + entry * count:  # the table of sections, at its end
        return f"it is cut short, at {size:,} bytes: delete it and {BUILD}"
    operator = _lacking(library)
    return f"it is of other code, whose {operator} is not that of this code: {BUILD}" if operator else ""


def _lacking(library: Path) -> str:
    """The first operator whose schema a library lacks, or an empty string.

    Read from the file's strings: operators of a loaded library cannot be unloaded, and a call by another schema can
    crash.
    """
    texts = [f"{name}{schema}\0".encode() for name, schema in SCHEMAS.items()]
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = max(0, data.find(texts[0]) - TEXTS)
        nearby = data[first : first + 2 * TEXTS]
    return next((name for name, text in zip(SCHEMAS, texts, strict=True) if text not in nearby), "")


def _processor(header: bytes) -> str:
    order, name = ("<", "little") if header[5] == 1 else (">", "big")
    (number,) = struct.unpack_from(f"{order}H", header, 18)
    return f"{32 * header[4]}-bit {name}-endian {PROCESSORS.get(number, f'processor {number}')}"


def explained(said: str, torch_version: str) -> str:
    """Cause and remedy for a message of the loader."""
    if version := re.search(r"version [`'](GLIBC_[\d.]+)'", said):
        return f"it needs {version[1]}, this system has {os.confstr('CS_GNU_LIBC_VERSION')}: {BUILD}"
    if version := re.search(r"(\S+): version [`'](\S+)'", said):
        return f"it needs {version[2]}, which {version[1]} lacks: update that library, or {BUILD}"
    if symbol := re.search(r"undefined symbol: (\w+)", said):
        if re.match(r"(aoti_)?torch_", symbol[1]):
            return f"it needs {symbol[1]}, which torch {torch_version} lacks: update torch, or {BUILD}"
        return f"it needs {symbol[1]}, which no library here has: {BUILD}"
    if missing := re.match(r"([^/\s]+\.so\S*): cannot open shared object file", said):
        return f"it needs {missing[1]}, which is not installed: install it, or {BUILD}"
    return f"{said}; {BUILD}"
