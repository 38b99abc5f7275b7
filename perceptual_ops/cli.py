"""The command `perceptual-ops`: each subcommand is a function from its arguments to an exit code."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from . import __version__, gram_matrix, reference
from ._native import LIBRARY, native
from .compare import compare
from .images import check_size, check_writable, read_image, write_image
from .networks.weights import available
from .recipes.comparison import LAYERS, METRICS
from .recipes.style_transfer import INITS, OPTIMIZERS, STYLE_LAYERS, style_transfer_loss, stylize
from .terminal import PROGRAM, checked_device, default_device, progress_bar

EXTRAS = {"cli": ("numpy", "pillow", "tqdm"), "demo": ("matplotlib", "scikit-image")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit code: 0, 2 after one sentence on stderr for anything the user can mend, 130 for Ctrl-C.
    """
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except KeyboardInterrupt as interruption:
        left = str(interruption) or "nothing was written"
        print(f"{PROGRAM}: interrupted, {left}", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError:
        print(f"{PROGRAM}: the device has too little memory for this picture; choose a smaller --size", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, like every other error, in place of the usage and then a sentence."""
        raise ValueError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Perceptual losses for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_stylize(commands)
    _add_compare(commands)
    command = commands.add_parser("doctor", help="say what is installed, what works, and what to do about the rest")
    command.set_defaults(command=_doctor)
    return parser


def _add_stylize(commands: Any) -> None:
    command = commands.add_parser(
        "stylize",
        help="paint one picture in the manner of another",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("content", metavar="CONTENT", help="the picture to paint")
    add("style", metavar="STYLE", help="the picture whose manner is taken")
    add("-o", "--output", metavar="OUT", required=True, help="the picture to write; its suffix says the format")
    add("--size", type=int, default=512, help="pixels of the longer side of both pictures")
    add("--steps", type=int, default=150, help="evaluations of the loss")
    add("--style-weight", type=float, default=10.0, help="weight of the style against 1 for the content")
    add("--tv-weight", type=float, default=1.0, help="weight of smoothness (total variation)")
    add("--weights", default="imagenet", help="of VGG16: imagenet, stlpips, random, or the path of a file")
    add("--layers", type=_names, default=",".join(STYLE_LAYERS), help="style layers, separated by commas")
    add("--optimizer", choices=OPTIMIZERS, default="lbfgs", help="lbfgs reaches a lower loss in as many steps")
    add("--init", choices=INITS, default="content", help="what to start from, in the style's palette")
    add("--device", default=default_device(), help="where to compute")
    add("--seed", type=int, default=0, help="of the noise that --init noise starts from")
    command.set_defaults(command=_stylize)


def _add_compare(commands: Any) -> None:
    command = commands.add_parser("compare", help="say how far pictures are from others, as people see it")
    add = command.add_argument
    add("output", metavar="A", help="the picture to judge, or a folder of them")
    add("target", metavar="B", help="the picture it should be; a folder: those of the same names; or one for all of A")
    add("--metric", choices=METRICS, default="lpips", help="what is measured (default: lpips)")
    networks = "; ".join(f"{metric}: {', '.join(names)}" for metric, names in METRICS.items())
    add("--network", metavar="NAME", help=f"the network, the first by default: {networks}")
    add("--weights", help="of the network: imagenet (default), stlpips, random, or the path of a file")
    layers = "; ".join(f"{metric}: {','.join(names)}" for metric, names in LAYERS.items())
    add("--layers", type=_names, help=f"layers, separated by commas, of content and style (defaults: {layers})")
    add("--size", type=int, help="pixels of the longer side of both (default: as they are)")
    add("--resize", action="store_true", help="bring B to the size of A")
    add("--map", metavar="OUT", help="write the distance of each pixel as colours over A; for folders, a folder")
    add("--max", type=float, help="where the map's scale ends (default: its largest distance)")
    add("--csv", metavar="OUT.csv", help="write a row for each pair")
    add("--skip-unpaired", action="store_true", help="leave out pictures of a folder that the other lacks")
    add("--device", default=default_device(), help=f"where to compute (default: {default_device()})")
    command.set_defaults(command=compare)


def _stylize(arguments: argparse.Namespace) -> int:
    # Everything that can be refused is refused before minutes are spent.
    check_writable(arguments.output)
    check_size(arguments.size)
    if arguments.steps < 1:
        raise ValueError(f"--steps: expected a whole number above 0, got {arguments.steps}")
    if not 0 < arguments.style_weight < math.inf:
        raise ValueError(f"--style-weight: expected a number above 0, got {arguments.style_weight}")
    if not 0 <= arguments.tv_weight < math.inf:
        raise ValueError(f"--tv-weight: expected a number of at least 0, got {arguments.tv_weight}")
    device = checked_device(arguments.device)
    content = read_image(arguments.content, arguments.size).to(device)
    style = read_image(arguments.style, arguments.size).to(device)
    loss = style_transfer_loss(
        content,
        style,
        weights=arguments.weights,
        style_layers=arguments.layers,
        style_weight=arguments.style_weight,
        tv_weight=arguments.tv_weight,
    )
    with progress_bar(arguments.steps) as bar:
        result = stylize(
            content,
            style,
            loss=loss,
            steps=arguments.steps,
            optimizer=arguments.optimizer,
            init=arguments.init,
            seed=arguments.seed,
            on_step=lambda step, terms: show_terms(bar, terms),
        )
    write_image(arguments.output, result.image)
    print(arguments.output)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """Prints what is there; 1 if the compiled operators are not loaded or fail where they should work."""
    failures = []
    _line("perceptual_ops", __version__)
    _line("torch", f"{torch.__version__}, built {_torch_cuda()}")
    _line("Python", f"{platform.python_version()} on {platform.platform()}")
    _line("library", f"{LIBRARY.name} is loaded" if native.loaded else native.reason)
    if native.loaded:
        info = native.build_info
        _line("  built by", f"{info['compiler']}, for torch >= {info['torch_target']}")
        cuda = f"toolkit {info['cuda']}, architectures {info['cuda_architectures']}"
        _line("  CUDA part", native.cuda_reason or cuda)
    for device, description in _devices():
        failure = _operator_failure(device)
        failures.append(failure and (device.type == "cpu" or not native.cuda_reason))
        _line(str(device), f"{description}; {failure or 'the compiled operators work'}")
    if not torch.cuda.is_available():
        _line("cuda", "no device that torch can use")
    for extra, packages in EXTRAS.items():
        versions = [f"{package} {_version(package)}" for package in packages]
        remedy = f"; pip install 'perceptual_ops[{extra}]'"
        _line(f"extra [{extra}]", ", ".join(versions) + (remedy if "missing" in " ".join(versions) else ""))
    for file in available():
        where = f"missing, {file.remedy}" + (f" to {file.path}" if file.path else "")
        _line(f"{file.source} {file.network}", f"present, {file.path}" if file.present else where)
    return 1 if any(failures) else 0


def _line(name: str, value: str) -> None:
    print(f"{name:<16}{value}")


def _torch_cuda() -> str:
    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _devices() -> list[tuple[torch.device, str]]:
    """Each device torch can use, with its name and capability."""
    processor = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    devices = [(torch.device("cpu"), processor)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"compute capability {properties.major}.{properties.minor}"
        devices.append((torch.device("cuda", index), f"{properties.name}, {capability}, {memory:.0f} GiB"))
    return devices


def _operator_failure(device: torch.device) -> str:
    """Runs one compiled operator against its reference; why that fails, or nothing."""
    refusal = native.refusal(device)
    if refusal:
        return refusal
    try:
        x = torch.linspace(-1, 1, 2 * 8 * 12 * 12, device=device).reshape(2, 8, 12, 12)
        torch.testing.assert_close(gram_matrix(x, backend="native"), reference.gram_matrix(x))
    except Exception as error:  # a driver too old, no kernel for the device: whatever it is belongs in the report
        return f"a compiled operator fails: {' '.join(str(error).split())}"
    return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def show_terms(bar: Any, terms: dict[str, float]) -> None:
    """Moves the bar by one step and writes the weighted parts of the loss beside it."""
    bar.total = max(bar.total, bar.n + 1)  # L-BFGS finishes the line search it is in
    parts = {name: f"{terms[name]:.3g}" for name in ("content", "style", "tv") if name in terms}
    bar.set_postfix(parts, refresh=False)
    bar.update()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
