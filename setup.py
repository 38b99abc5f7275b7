"""Build of the one compiled file, perceptual_ops/_C.so: CMake compiles it, setuptools puts it into the wheel.

The file holds no Python and only the stable ABI of torch 2.10, so one wheel serves every Python and newer torch.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit("perceptual_ops is packaged by setuptools >= 77: run `pip install -U setuptools`")

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/OWNER/perceptual_ops"  # OWNER is to be replaced, here alone, before a release
VERSION = re.findall(r'^__version__ = "(.+)"', (ROOT / "perceptual_ops" / "__init__.py").read_text(), re.MULTILINE)[0]


def torch_folder() -> Path:
    """The folder of the torch that the library is built against, or an exit that says how to show it to the build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit(
            "perceptual_ops is compiled against the torch you have, which this build does not see: "
            "install torch >= 2.10, ninja and cmake first, then run `pip install --no-build-isolation .`"
        )
    return Path(spec.origin).parent


class StopWithoutTorch(dist_info):
    """Metadata is the first thing pip asks for: without torch in sight, stop before pip fetches gigabytes of it."""

    def run(self):
        torch_folder()
        super().run()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "cmake"  # the same for wheels and editable installs, so that both build what changed
        build.mkdir(parents=True, exist_ok=True)
        architectures = os.environ.get("PERCEPTUAL_OPS_CUDA_ARCHS", "default").replace(";", ",").replace(" ", "")
        settings = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output.parent,
            "PERCEPTUAL_OPS_TORCH_DIR": torch_folder(),
            "PERCEPTUAL_OPS_VERSION": self.distribution.get_version(),
            "PERCEPTUAL_OPS_CUDA_ARCHS": architectures or "default",
            "PERCEPTUAL_OPS_STRICT": os.environ.get("PERCEPTUAL_OPS_STRICT") or "OFF",
        }
        defines = [f"-D{name}={value}" for name, value in settings.items()]
        self.cmake("-S", ROOT, "-B", build, "-G", "Ninja", *defines)
        self.cmake("--build", build)

    @staticmethod
    def cmake(*arguments):
        # cmake and ninja installed by pip lie beside this Python, which need not be an activated environment's.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        try:
            subprocess.run(["cmake", *map(str, arguments)], check=True, env={**os.environ, "PATH": path})
        except FileNotFoundError:
            sys.exit("perceptual_ops is built by CMake, which was not found: run `pip install cmake ninja`")
        except subprocess.CalledProcessError:
            sys.exit("perceptual_ops: CMake failed, its messages above say why")

    def get_ext_filename(self, fullname):
        return fullname.replace(".", "/") + ".so"


class AnyPythonWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def readme_of_the_index() -> str:
    """README, whose pictures and files have addresses at this version's tag: a package index has no files beside it."""

    def absolute(link: re.Match[str]) -> str:
        picture, text, file = link.groups()
        return f"{picture}[{text}]({REPOSITORY}/{'raw' if picture else 'blob'}/v{VERSION}/{file})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^()]+)\)", absolute, (ROOT / "README.md").read_text("utf-8"))


setup(
    version=VERSION,
    long_description=readme_of_the_index(),
    long_description_content_type="text/markdown",
    project_urls={
        "Source": REPOSITORY,
        "Issues": f"{REPOSITORY}/issues",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
    },
    ext_modules=[Extension("perceptual_ops._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel, "dist_info": StopWithoutTorch},
)
