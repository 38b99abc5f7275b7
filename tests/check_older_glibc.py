"""`make check-older-glibc`: the compiled library computes beside torch on the glibc, libstdc++ and Python of Debian 11.

Debian's packages are fetched by this machine's apt and unpacked beside its own, whose loader is not asked. Python calls
the library through torch's C functions, since no torch for a Python of that time has them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from perceptual_ops._native import LEAST_TORCH

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "older_glibc"
RELEASE = "bullseye"
PACKAGES = (
    *("libc6", "libcrypt1", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi7"),
    *("python3.9-minimal", "libpython3.9-minimal", "libpython3.9-stdlib"),
)
EXAMPLE = """
import ctypes
import os
import sys
from ctypes import byref, c_char_p, c_float, c_int64, c_uint64, c_void_p

torch, library = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(sys.argv[2])
target = c_uint64((int(sys.argv[3]) << 56) + (int(sys.argv[4]) << 48))
pixels, sizes, strides = (c_float * 4)(0, 1, 3, 7), (c_int64 * 4)(1, 1, 2, 2), (c_int64 * 4)(4, 4, 2, 1)


def total_variation(dimensions):
    tensor, kind = c_void_p(), c_void_p()
    cpu, fp32 = torch.aoti_torch_device_type_cpu(), torch.aoti_torch_dtype_float32()
    made = (pixels, c_int64(dimensions), sizes, strides, c_int64(0), fp32, cpu, 0, byref(tensor))
    assert torch.aoti_torch_create_tensor_from_blob(*made) == 0
    assert torch.torch_new_string_handle(b"l1", ctypes.c_size_t(2), byref(kind)) == 0
    stack = (c_uint64 * 2)(tensor.value, kind.value)
    failed = torch.torch_call_dispatcher(b"perceptual_ops::total_variation", b"", stack, target)
    if failed:
        torch.torch_exception_get_what_without_backtrace.restype = c_char_p
        return torch.torch_exception_get_what_without_backtrace().decode()
    value = c_float()
    assert torch.aoti_torch_item_float32(c_void_p(stack[0]), byref(value)) == 0
    return value.value


print("Python", sys.version.split()[0], "on", os.confstr("CS_GNU_LIBC_VERSION"))
print("total variation of 0 1 / 3 7:", total_variation(4))
print("of three dimensions:", total_variation(3))
"""


def apt(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """An apt that knows Debian 11 alone, by the mirror of this machine's, and writes into FOLDER only."""
    own = {"Dir::State": "state", "Dir::State::status": "state/status", "Dir::Cache": "cache"}
    own |= {"Dir::Etc::SourceList": "sources.list", "Dir::Etc::SourceParts": "none"}
    options = ["-oAPT::Sandbox::User=root", *(f"-o{name}={FOLDER / path}" for name, path in own.items())]
    return subprocess.run(["apt-get", "-q", *options, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def mirror() -> str:
    """Where this machine's apt has Debian's packages; empty where it has none."""
    lists = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    found = re.findall(r"^[^#\n]*?(\S+://\S+/debian)/?\s", "\n".join(file.read_text() for file in lists), re.MULTILINE)
    return found[0] if found else ""


def unpack() -> str:
    """Puts the packages of Debian 11 into FOLDER/root; says why not where they cannot be had."""
    root, packages = FOLDER / "root", FOLDER / "packages"
    if root.exists():
        return ""
    for folder in ("state/lists/partial", "cache/archives/partial", "none", "packages"):
        (FOLDER / folder).mkdir(parents=True, exist_ok=True)
    (FOLDER / "state" / "status").touch()
    if not mirror():
        return "this machine's apt has no mirror of Debian"
    (FOLDER / "sources.list").write_text(f"deb {mirror()} {RELEASE} main\n")
    for command in (["update"], ["download", *PACKAGES]):
        done = apt(*command, cwd=packages)
        if done.returncode:
            return f"apt-get {command[0]} says: {done.stderr.strip()}"
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, FOLDER / "unpacked"], check=True)
    (FOLDER / "unpacked").rename(root)
    return ""


def main() -> int:
    if reason := unpack():
        print(f"Nothing was checked, the packages of Debian 11 cannot be had: {reason}")
        return 1
    root, torch = FOLDER / "root", find_spec("torch")
    assert torch is not None and torch.origin is not None
    libraries = [root / folder for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")]
    loader = [libraries[0] / "ld-linux-x86-64.so.2", "--library-path", os.pathsep.join(map(str, libraries))]
    files = [Path(torch.origin).parent / "lib" / "libtorch_cpu.so", ROOT / "perceptual_ops" / "_C.so"]
    run = [*loader, root / "usr/bin/python3.9", "-S", "-c", EXAMPLE, *files, *map(str, LEAST_TORCH)]
    done = subprocess.run(run, env={"PYTHONHOME": str(root / "usr")}, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    wanted = ("on glibc 2.31", "0 1 / 3 7: 14.0", "dimensions: x: expected (N, C, H, W), got 3 dimensions")
    return int(done.returncode != 0 or not all(text in done.stdout for text in wanted))


if __name__ == "__main__":
    sys.exit(main())
