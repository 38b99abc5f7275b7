"""`perceptual-ops doctor`: every operator is checked, a faulty one is named, and the machine is described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import perceptual_ops
from perceptual_ops import _native, cli
from perceptual_ops.cli import doctor, doctor_checks
from perceptual_ops.engine import tile_parts
from perceptual_ops.engine.tiles import Tile, tiles_of

CPU = torch.device("cpu")
Fault = Callable[[Any], Any]  # of a result


class Faulty(TorchDispatchMode):
    """An operator, all of whose results are spoiled, in one dtype or in every one."""

    def __init__(self, name: str, fault: Fault, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.operator = getattr(torch.ops.perceptual_ops, name).default
        self.fault, self.dtype = fault, dtype

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is not self.operator or (self.dtype and self.dtype != dtype_of(args)):
            return result
        if func.name().endswith("_"):  # what it wrote
            args[0].copy_(self.fault(args[0]))
        return of_tensors(self.fault, result)


def dtype_of(arguments: Any) -> torch.dtype:
    """Of the first map among the arguments."""
    return next(one.dtype for one in arguments if isinstance(one, Tensor) and one.dim() == 4)


def of_tensors(fault: Fault, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return fault(value)
    return type(value)(of_tensors(fault, one) for one in value)


def scaled(x: Tensor) -> Tensor:
    return 1.01 * x if x.is_floating_point() else x


def refusing(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel image\nis available")


def nan(x: Tensor) -> Tensor:
    return x * torch.nan if x.is_floating_point() else x


def one_bit(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x ^ 1


class Unsteady:
    """Another last place every second time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.nextafter(x, 2 * x) if self.calls % 2 else x


@pytest.fixture
def grams_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gram_matrix", "gram_matrix_backward")
    monkeypatch.setattr(doctor_checks, "CASES", {name: doctor_checks.CASES[name] for name in names})
    monkeypatch.setattr(doctor_checks, "registered", lambda: list(names))


def test_every_operator_has_a_check() -> None:
    """Those that are registered now, and those that the sources name: of a module that is not imported yet."""
    sources = [path.read_text() for path in Path(perceptual_ops.__file__).parent.rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'"perceptual_ops::(\w+)"', source)}
    assert len(named) > 10
    assert {*named, *doctor_checks.registered()} == set(doctor_checks.CASES)


def test_an_operator_without_a_check_fails() -> None:
    with torch.library._scoped_library("perceptual_ops", "FRAGMENT") as library:
        library.define("unchecked(Tensor[] x) -> Tensor[]")
        assert "unchecked" in doctor_checks.registered()
        assert doctor_checks.row("unchecked", torch.float32, CPU).problem == "doctor has no check of this operator"


def test_all_is_well(native: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--check", "--device", device])
    out = capsys.readouterr().out.splitlines()
    table = out[out.index(doctor_checks.HEADER) + 1 : -1]
    assert [line for line in table if not line.endswith(" ok")] == []
    assert code == 0
    assert len(table) == 4 * len(doctor_checks.CASES) and out[-1] == f"all {len(table)} rows are ok"
    for line in table:
        assert 0 <= float(line.split()[2]) <= float(line.split()[3]) < 0.2, line


FAULTS = {
    "scaled": (scaled, "off"),
    "refusing": (refusing, "no kernel image ("),
    "NaN": (nan, "not finite"),
    "unsteady": (Unsteady(), "other bits the second time"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_operator_is_named(fault: str, grams_alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, problem = FAULTS[fault]
    with Faulty("gram_matrix_backward", spoil, torch.float32):
        assert cli.main(["doctor", "--check", "--device", "cpu"]) == 1
    *_, failed, total = table = [*bad_rows(capsys)]
    assert failed.startswith("gram_matrix_backward ") and " float32 " in failed and problem in failed
    assert len(table) == 2 and total == "1 of 8 rows fail"


def bad_rows(capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    out = capsys.readouterr().out.splitlines()
    return (line for line in out[out.index(doctor_checks.HEADER) + 1 :] if not line.endswith(" ok"))


@pytest.mark.parametrize("name", sorted(doctor_checks.CASES))
def test_every_check_looks_at_its_operator(name: str) -> None:
    with Faulty(name, refusing):
        assert doctor_checks.row(name, torch.float32, CPU).problem.startswith("no kernel image (")
    if name != "check_ranges":  # whose result is 0
        with Faulty(name, scaled):
            assert doctor_checks.row(name, torch.float32, CPU).problem.startswith("off: ")


@pytest.mark.parametrize("name", ["bias_relu_", "bias_relu_pool", "bias_relu_pool_"])
def test_a_wrong_bit_is_noticed(name: str) -> None:
    with Faulty(name, one_bit):
        assert doctor_checks.row(name, torch.bfloat16, CPU).problem.startswith("off")


@pytest.mark.parametrize("name", ["metric_loss", "perceptual_loss", "trunk_styles"])
def test_tiles_are_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def cut(*arguments: Any) -> list[Tile]:
        counts.append(len(found := tiles_of(*arguments)))
        return found

    monkeypatch.setattr(tile_parts, "tiles_of", cut)
    for case in doctor_checks.CASES[name](torch.float32, CPU):
        counts.clear()
        case.run()
        assert set(counts) == ({2 * 3} if name == "trunk_styles" or "in tiles" in case.where else set()), case.where


@pytest.mark.usefixtures("library")
def test_head(grams_alone: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_commit", lambda: "0123abc")
    assert cli.main(["doctor", "--check", "--device", "cpu"]) == 0
    head = capsys.readouterr().out.partition(doctor_checks.HEADER)[0]
    for fact in (torch.__version__, perceptual_ops.__version__, "commit 0123abc", "built by", "threads"):
        assert fact in head


@pytest.mark.usefixtures("library")
def test_head_of_a_gpu(grams_alone: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that is described, and that the operators are not built for."""
    monkeypatch.setattr(doctor, "checked_device", torch.device)
    monkeypatch.setattr(doctor, "_devices", lambda: [(torch.device("cuda", 0), "NVIDIA H200")])
    monkeypatch.setattr(doctor, "driver_version", lambda: (12, 8))
    monkeypatch.setattr(doctor, "native", type(doctor.native)("", "it has no CUDA part", doctor.native.build_info))
    monkeypatch.setattr(doctor, "use_engine", lambda device, backend: True)  # for good, where there is a GPU
    assert cli.main(["doctor", "--check", "--device", "cuda"]) == 1
    out = capsys.readouterr().out
    facts = (
        "NVIDIA H200",
        "serves CUDA 12.8",
        f"TF32 in convolutions {torch.backends.cudnn.allow_tf32}",
        "operators                plain PyTorch: it has no CUDA",
    )
    for fact in facts:
        assert fact in out


@pytest.mark.usefixtures("library")
def test_rocm_has_no_nvidia_driver_to_ask(
    grams_alone: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "use_engine", lambda device, backend: True)
    monkeypatch.setattr(doctor, "checked_device", torch.device)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    library = type(doctor.native)("", "", {**doctor.native.build_info, "cuda": "13.0", "cuda_architectures": "90 +PTX"})
    monkeypatch.setattr(doctor, "native", library)
    _native._gpu_lacks.cache_clear()
    assert cli.main(["doctor", "--check", "--device", "cuda"]) == 1
    _native._gpu_lacks.cache_clear()
    assert "built for CUDA, not for ROCm" in capsys.readouterr().out


def test_device_belongs_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "cpu"]) == 2
    assert "--device: expected beside --check" in capsys.readouterr().err


def test_cache_of_published_networks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def line() -> str:
        cli.main(["doctor"])
        (found,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("Hugging Face cache")]
        return found

    assert str(tmp_path) in line() and "facebook/dinov2-base missing, run hf download" in line()
    folder = tmp_path / "models--facebook--dinov2-base" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert "facebook/dinov2-base present" in line()
    monkeypatch.setattr("perceptual_ops.networks.published.importlib.util.find_spec", lambda name: None)
    assert "huggingface_hub is missing" in line()
