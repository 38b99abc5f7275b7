"""Build of the wheels: with perceptual_ops/_C.so, which CMake compiles, or for any system without it.

The library is compiled where a recent torch for Linux is in sight, which it never is of an isolated build, and one file
serves every Python and newer torch. CONTRIBUTING.md says what the environment variables PERCEPTUAL_OPS_* change.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit("perceptual_ops is packaged by setuptools >= 77: run `pip install -U setuptools`")

ROOT = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/OWNER/perceptual_ops"  # OWNER is to be replaced, here alone, before a release
SITE = "https://{}.github.io/{}/".format(*REPOSITORY.split("/")[-2:])  # where a release puts what docs/ makes


def written(file: str, pattern: str) -> str:
    """What a module of the package assigns, which cannot be imported: that takes torch."""
    return re.findall(pattern, (ROOT / "perceptual_ops" / file).read_text("utf-8"), re.MULTILINE)[0]


VERSION = written("__init__.py", r'^__version__ = "(.+)"')
LEAST_TORCH = tuple(map(int, written("_native.py", r"^LEAST_TORCH = ([\d, ]+)").split(",")))
LIBRARY = ROOT / "perceptual_ops" / "_C.so"
BUILD = ROOT / "build" / "cmake"  # the same for wheels and editable installs, so that both build what changed
COMPILED = BUILD / "compiled.txt"  # the `state_of` the library that was compiled last
WITHOUT = "or set PERCEPTUAL_OPS_NATIVE=0 for the library in plain PyTorch"
# cmake and ninja installed by pip lie beside this Python, which need not be an activated environment's.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def switch(name: str) -> str:
    """An environment variable; an empty one is none."""
    return os.environ.get(f"PERCEPTUAL_OPS_{name}", "")


def package_folder(name: str) -> Path | None:
    """Where a package is installed, if one is in sight."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def why_not_compiled() -> str:
    """Why this build compiles nothing; empty where it does."""
    if switch("NATIVE") == "0":
        return "PERCEPTUAL_OPS_NATIVE=0"
    if not sys.platform.startswith("linux"):
        return f"the compiled library is for Linux, this is {sys.platform}"
    folder = package_folder("torch")
    if folder is None:
        return "this build sees no torch; install torch, cmake and ninja, then `pip install --no-build-isolation .`"
    version = re.findall(r"__version__ = '([^']+)'", (folder / "version.py").read_text())[0]
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < LEAST_TORCH:
        return f"the compiled library needs torch >= {'.'.join(map(str, LEAST_TORCH))}, this build sees {version}"
    return ""


def state_of(library: Path) -> str:
    """Digests of what a library is compiled from, as it is now, and of the library."""
    folders = [path for name in ("csrc", "cmake") for path in (ROOT / name).rglob("*") if path.is_file()]
    sources = hashlib.sha256(VERSION.encode())
    for file in sorted([ROOT / "CMakeLists.txt", *folders]):
        sources.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return f"{sources.hexdigest()} {hashlib.sha256(library.read_bytes()).hexdigest()}"


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        settings = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output.parent,
            "PERCEPTUAL_OPS_TORCH_DIR": package_folder("torch"),
            "PERCEPTUAL_OPS_VERSION": self.distribution.get_version(),
            "PERCEPTUAL_OPS_CUDA_ARCHS": re.sub("[; ]+", ",", switch("CUDA_ARCHS")) or "native",
            "PERCEPTUAL_OPS_STRICT": switch("STRICT") or "OFF",
            "PERCEPTUAL_OPS_MANYLINUX": switch("MANYLINUX") or "OFF",
        }
        self.forget_another_configuration()
        self.cmake("-S", ROOT, "-B", BUILD, "-G", "Ninja", *(f"-D{name}={value}" for name, value in settings.items()))
        self.cmake("--build", BUILD)
        COMPILED.write_text(state_of(output))

    @staticmethod
    def forget_another_configuration():
        """CMake keeps what it found, be it of a checkout since moved or of an environment since deleted."""
        programs = {name: os.path.realpath(shutil.which(name, path=PATH) or "") for name in ("cmake", "ninja", "nvcc")}
        variables = {name: os.environ.get(name) for name in ("CXX", "CUDACXX", "CUDAHOSTCXX", "CUDA_HOME", "CUDA_PATH")}
        found = json.dumps({"checkout": str(ROOT), **programs, **variables})
        known = BUILD / "found.json"
        if not known.exists() or known.read_text() != found:
            shutil.rmtree(BUILD, ignore_errors=True)
            BUILD.mkdir(parents=True)
            known.write_text(found)

    @staticmethod
    def cmake(*arguments):
        missing = [name for name in ("cmake", "ninja") if shutil.which(name, path=PATH) is None]
        if missing:
            sys.exit(f"perceptual_ops is compiled by cmake and ninja: run `pip install {' '.join(missing)}`, {WITHOUT}")
        # Past the script that pip makes of it, whose first line names where the environment was when it was made.
        program = (package_folder("cmake") or ROOT) / "data" / "bin" / "cmake"
        command = [program if program.exists() else "cmake", *arguments]
        try:
            subprocess.run([str(part) for part in command], check=True, env={**os.environ, "PATH": PATH})
        except subprocess.CalledProcessError:
            sys.exit(f"perceptual_ops: CMake failed, its messages above say why; mend it, {WITHOUT}")

    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"


class FreshBuild(build_py):
    """Modules that were removed since must not come from a former build's folder."""

    def run(self):
        if self.editable_mode:
            if not self.distribution.has_ext_modules() and LIBRARY.exists():
                self.keep_or_remove_library()
        elif ROOT / "build" in Path(self.build_lib).resolve().parents:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    @staticmethod
    def keep_or_remove_library():
        """What a former build left beside the code would be loaded, whatever it was compiled from."""
        is_current = COMPILED.exists() and COMPILED.read_text() == state_of(LIBRARY)
        if is_current and switch("NATIVE") != "0":
            print(f"perceptual_ops: keeps {LIBRARY}, which was compiled from this code", file=sys.stderr)
            return
        LIBRARY.unlink()
        why = "PERCEPTUAL_OPS_NATIVE=0" if is_current else "it was not compiled here from this code"
        print(f"perceptual_ops: removes {LIBRARY}: {why}", file=sys.stderr)


class AnyPythonWheel(bdist_wheel):
    def get_tag(self):
        system = super().get_tag()[2]
        return "py3", "none", f"manylinux_2_28_{platform.machine()}" if self.for_an_index() else system

    def run(self):
        shutil.rmtree(self.bdist_dir, ignore_errors=True)  # left by a build that was interrupted
        self.run_command("build")
        self.skip_build = True
        if self.distribution.has_ext_modules() and not self.for_an_index():
            # Names in the wheel's file name, which pip prints when it prints nothing else, what was built.
            self.build_number = "0" + (BUILD / "part.txt").read_text()
        super().run()

    def for_an_index(self):
        return self.distribution.has_ext_modules() and switch("MANYLINUX") not in ("", "0", "OFF")


def readme_of_the_index() -> str:
    """README, whose pictures and files have addresses at this version's tag: a package index has no files beside it."""

    def absolute(link: re.Match[str]) -> str:
        picture, text, file = link.groups()
        return f"{picture}[{text}]({REPOSITORY}/{'raw' if picture else 'blob'}/v{VERSION}/{file})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^()]+)\)", absolute, (ROOT / "README.md").read_text("utf-8"))


if switch("NATIVE") not in ("", "0", "1"):
    sys.exit(
        f'PERCEPTUAL_OPS_NATIVE: expected "0", which compiles nothing, "1", an error where nothing can be compiled, or '
        f"nothing, got {switch('NATIVE')!r} in the environment; set it to one of these, or unset it"
    )
reason = why_not_compiled()
if reason and switch("NATIVE") == "1":
    sys.exit(f"PERCEPTUAL_OPS_NATIVE=1 asks for the compiled library, but {reason}")
if reason:
    print(f"perceptual_ops: in plain PyTorch, nothing is compiled: {reason}", file=sys.stderr)
setup(
    version=VERSION,
    long_description=readme_of_the_index(),
    long_description_content_type="text/markdown",
    project_urls={
        "Documentation": SITE,
        "Source": REPOSITORY,
        "Issues": f"{REPOSITORY}/issues",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
    },
    ext_modules=[] if reason else [Extension("perceptual_ops._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": FreshBuild, "bdist_wheel": AnyPythonWheel},
)
