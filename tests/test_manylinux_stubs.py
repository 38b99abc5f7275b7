"""What is linked to the stubs of cmake/manylinux_stubs.py asks for nothing newer than glibc 2.28."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = """
#include <dlfcn.h>
#include <cmath>
#include <pthread.h>
#include <stdexcept>
extern "C" unsigned arc4random();  // of glibc 2.36
void* sum(void* x) { return dlopen(nullptr, static_cast<int>(std::exp(*static_cast<double*>(x)))); }
__attribute__((constructor)) int start(double* x) {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, sum, x)) throw std::runtime_error("no thread");
  return *x + NEWER;
}
"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("g++") or not shutil.which("readelf"),
    reason="needs Linux, g++ and readelf",
)


def test_symbols_are_the_newest_up_to_the_limit(tmp_path: Path) -> None:
    stubs, library = tmp_path / "the stubs", tmp_path / "library.so"
    subprocess.run([sys.executable, ROOT / "cmake" / "manylinux_stubs.py", stubs, "g++", "readelf"], check=True)
    (tmp_path / "source.cpp").write_text(SOURCE)
    exports = f"-Wl,--version-script={ROOT / 'cmake' / 'exports.map'}"
    link = ["g++", "-shared", "-fPIC", "-static-libstdc++", "-Wl,-z,defs", "-Wl,--gc-sections", exports, "-L", stubs]
    link += ["-o", library]
    sources = [tmp_path / "source.cpp", ROOT / "csrc" / "common" / "older_glibc.cpp", stubs / "libcxxabi.so"]
    subprocess.run([*link, "-DNEWER=0", *sources], check=True)
    listed = subprocess.run(["readelf", "-W", "--dyn-syms", library], check=True, capture_output=True, text=True).stdout
    asked = dict(re.findall(r"UND (\S+?)@(\S+)", listed))
    assert asked["pthread_create"].startswith("GLIBC_2.") and asked["__cxa_throw"] == "CXXABI_1.3"
    newest = {"GLIBC": (2, 28), "CXXABI": (1, 3, 11), "GCC": (4, 8)}
    for symbol, version in asked.items():
        family, _, number = version.partition("_")
        assert tuple(int(part) for part in number.split(".")) <= newest[family], f"{symbol}@{version}"
    refused = subprocess.run([*link, "-DNEWER=arc4random()", *sources], capture_output=True, text=True, check=False)
    assert refused.returncode and "undefined reference to `arc4random" in refused.stderr
