"""What `make check-wheel` checks: that an index takes both wheels, and that each runs where there is no compiler.

With --release, a compiled library without its CUDA part, or without its code for newer processors, is an error.
"""

from __future__ import annotations

import json
import platform
import re
import site
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "wheels"
TAG = f"manylinux_2_28_{platform.machine()}"
# In an environment that sees nothing but the wheel and torch: a loss, its gradient, and who computed it.
EXAMPLE = """
import torch
import perceptual_ops as po
from perceptual_ops._native import native

criterion = po.PerceptualLoss("vgg16", weights="random", content_layers=["relu2_2"])
output = torch.rand(2, 3, 32, 32, requires_grad=True)
criterion(output, torch.rand(2, 3, 32, 32)).backward()
print(po.__file__, torch.__version__, f"gradient norm {output.grad.norm():.3e}", sep=", ", end=", ")
cuda = native.cuda_reason or native.build_info["cuda"]
print(f"plain: {native.reason}" if native.reason else f"compiled, CUDA: {cuda}")
"""

# Instructions that only the code for newer processors has, which a g++ older than 12 leaves out (csrc/common/cpu.h).
NEWER = {"AVX2": r"vfmadd\d+ps\s.*%ymm", "AVX-512": r"vfmadd\d+ps\s.*%zmm", "AMX": r"tdpbf16ps"}


def metadata(wheel: Path) -> dict[str, bytes]:
    """What an index and pip read of a wheel, without the file that says how it was packed."""
    with ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" in name]
        return {name: file.read(name) for name in names if not name.endswith(("/WHEEL", "/RECORD"))}


def code(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if ".dist-info/" not in name}


def check_tag(wheel: Path) -> None:
    """auditwheel's word: for this tag nothing is to be changed but to bring torch along, which the metadata does."""
    show = [sys.executable, "-m", "auditwheel", "show"]
    print(subprocess.run([*show, wheel], check=True, capture_output=True, text=True).stdout)
    said = json.loads(subprocess.run([*show, "--json", wheel], check=True, capture_output=True, text=True).stdout)
    to_eliminate = said["policy_upgrades"].get(TAG, {}).get("libs_to_eliminate")
    assert to_eliminate == ["libtorch_cpu.so"], f"{TAG}: {said}"


def missing_code(library: Path) -> list[str]:
    """The levels of NEWER whose instructions are not in a library."""
    command = ["objdump", "-d", "--no-show-raw-insn", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [level for level, instruction in NEWER.items() if not re.search(instruction, listing)]


def check_release(wheel: Path, said: str) -> None:
    assert "no CUDA part" not in said, "a release needs nvcc: put it on the PATH"
    if platform.machine() != "x86_64":
        return
    library = FOLDER / "_C.so"
    library.write_bytes(code(wheel)["perceptual_ops/_C.so"])
    missing = missing_code(library)
    assert not missing, f"the library has no code for {', '.join(missing)}: a release needs g++ >= 12, named by CXX"


def check_example(wheel: Path) -> str:
    """What the example says. torch comes from the first environment; a compiler, cmake and the sources do not."""
    environment = FOLDER / wheel.stem
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", packages, wheel]
    subprocess.run(pip, check=True)
    (packages / "torch.pth").write_text(site.getsitepackages()[0])
    run = [environment / "bin" / "python", "-c", EXAMPLE]
    variables = {"PATH": "/nowhere", "HOME": "/nowhere"}
    said = subprocess.run(run, cwd=FOLDER, env=variables, check=True, capture_output=True, text=True).stdout
    print(said)
    assert said.startswith(str(packages)), said
    assert ("plain: " if "-any" in wheel.name else "compiled, ") in said, said
    return said


def main() -> None:
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    plain, compiled = wheels
    version = plain.name.split("-")[1]
    assert plain.name == f"perceptual_ops-{version}-py3-none-any.whl", plain
    assert compiled.name == f"perceptual_ops-{version}-py3-none-{TAG}.whl", compiled
    for wheel in wheels:
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
    assert metadata(plain) == metadata(compiled)
    library = {"perceptual_ops/_C.so"}
    assert code(compiled).keys() - code(plain).keys() == library
    assert code(plain) == {name: text for name, text in code(compiled).items() if name not in library}
    check_tag(compiled)
    said = [check_example(wheel) for wheel in wheels]
    if "--release" in sys.argv:
        check_release(compiled, said[1])


if __name__ == "__main__":
    main()
