"""Writes libraries to link against that hold what the system's held in an older version: FOLDER COMPILER READELF.

A library keeps a symbol in each version in which its meaning changed, and a program is linked to the newest there is.
These stubs have the newest up to a limit, and no symbol that came later: to use one is a link error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# By file name of the stub: the library that it stands for, and the newest version in it. What lay in libpthread,
# libdl and librt before glibc 2.34 is in libc now; it is found there and here, since torch brings them.
STUBS = {
    "libc.so.6": ("libc.so.6", "GLIBC_2.28"),
    "libm.so": ("libm.so.6", "GLIBC_2.28"),
    "libcxxabi.so": ("libstdc++.so.6", "CXXABI_1.3.11"),  # GCC 8's; the rest of it is linked statically
}
TYPES = {"OBJECT": "object", "TLS": "tls_object", "FUNC": "function", "IFUNC": "function"}


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def number(version: str) -> list[int]:
    return [int(part) for part in version.split("_")[1].split(".")]


def symbols(table: str, limit: str) -> dict[str, tuple[str, str]]:
    """Type and version of each symbol that there was at the limit, from what `readelf --dyn-syms` lists."""
    family = limit.split("_")[0]
    found: dict[str, tuple[str, str]] = {}
    defined = rf"({'|'.join(TYPES)}) +(?:GLOBAL|WEAK) +DEFAULT +\d+ (\S+?)@@?({family}_[\d.]+)$"
    for kind, symbol, version in re.findall(defined, table, re.MULTILINE):
        older = symbol in found and number(version) < number(found[symbol][1])
        if number(version) <= number(limit) and not older:
            found[symbol] = kind, version
    return found


def write_stub(file: Path, library: str, found: dict[str, tuple[str, str]], compiler: str) -> None:
    source, versions = file.with_suffix(".s"), file.with_suffix(".map")
    lines = [".data"]
    for i, (symbol, (kind, version)) in enumerate(found.items()):
        lines += [f".globl s{i}", f".type s{i}, %{TYPES[kind]}", f"s{i}: .quad 0", f".size s{i}, 8"]
        lines += [f".symver s{i}, {symbol}@@{version}"]
    source.write_text("\n".join([*lines, ""]))
    versions.write_text(
        "".join(f"{version} {{ }};\n" for version in sorted({v for _, v in found.values()}, key=number))
    )
    named = ["-Wl,-soname," + library, f"-Wl,--version-script={versions}"]
    run(compiler, "-shared", "-nostdlib", *named, str(source), "-o", str(file))


def main(folder: Path, compiler: str, readelf: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def path(name: str) -> str:
        return run(compiler, f"-print-file-name={name}").strip()

    for name, (library, limit) in STUBS.items():
        table = run(readelf, "-W", "--dyn-syms", path(library))
        write_stub(folder / name, library, symbols(table, limit), compiler)
    # libc.so is a list of libraries: the shared one, and what is linked statically everywhere.
    script = Path(path("libc.so")).read_text()
    (folder / "libc.so").write_text(re.sub(r"\S*libc\.so\.6", lambda _: f'"{folder / "libc.so.6"}"', script))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
