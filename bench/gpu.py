"""`make gpu`: builds, tests, sanitizes and times on a machine whose Python already has a CUDA torch.

No network, no virtual environment; parts by name: `python -m bench.gpu build test sanitize bench`. Each part has its
own time limit, 9 minutes in all, and a log under bench/results/gpu/ (copied to $OUT where that is set). The table comes
last. The parts `loss`, the whole loss, and `metrics`, LPIPS and DISTS, are run when they are named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
LOGS = RESULTS / "gpu"
LIMITS = {"build": 90, "test": 210, "sanitize": 120, "bench": 110, "loss": 400, "metrics": 300}  # seconds

# Small maps in both layouts, every operator, and the stages of the Gram's pipeline: what the sanitizer sees thread by
# thread must end within its limit.
SANITIZED = (
    "cuda and (test_tiles_and_stages or"
    " (test_memory_layouts and float32 and (nchw or nhwc) and (chw or charbonnier or l1)))"
)


@dataclass(frozen=True)
class Outcome:
    part: str
    status: str
    seconds: float
    last_line: str


def run(part: str, command: list[str], seconds: float, environment: dict[str, str]) -> Outcome:
    """Runs one command into its log; its last line says how it went."""
    log, start = LOGS / f"{part}.log", time.monotonic()
    with log.open("w") as file:
        try:
            result = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
            status = "ok" if result.returncode == 0 else f"failed ({result.returncode})"
        except subprocess.TimeoutExpired:
            status = f"stopped at {seconds:.0f} s"
    lines = log.read_text(errors="replace").strip().splitlines()
    return Outcome(part, status, time.monotonic() - start, lines[-1][:90] if lines else "")


def build() -> list[Outcome]:
    """The library for this machine's GPUs alone, in place."""
    import torch

    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    architectures = {"PERCEPTUAL_OPS_CUDA_ARCHS": ",".join(f"{major}{minor}" for major, minor in sorted(found))}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return [run("build", command, LIMITS["build"], architectures if found else {})]


def test() -> list[Outcome]:
    return [run("test", [sys.executable, "-m", "pytest", "--durations=10"], LIMITS["test"], {})]


def sanitize() -> list[Outcome]:
    """memcheck, racecheck and initcheck over the kernels; without torch's allocator, which would hide overruns."""
    if shutil.which("compute-sanitizer") is None:
        return [Outcome("sanitize", "left out", 0.0, "compute-sanitizer is not installed")]
    pytest = [sys.executable, "-m", "pytest", "tests/test_operators.py", "-k", SANITIZED]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    outcomes = []
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", *pytest]
        outcomes.append(run(tool, command, LIMITS["sanitize"] / 3, uncached))
    return outcomes


def bench() -> list[Outcome]:
    """Everything against eager, and the head against torch.compile too, whose compilation takes most of the time."""
    command = [sys.executable, "-m", "bench", "--device", "cuda", "--seconds", "0.2"]
    everything = run("bench", [*command, "--variants", "ours,eager"], LIMITS["bench"] / 2, {})
    return [everything, run("bench-head", [*command, "--only", "head"], LIMITS["bench"] / 2, {})]


def loss() -> list[Outcome]:
    """The whole loss against plain PyTorch, with its memory."""
    return [run("bench-loss", [sys.executable, "-m", "bench.whole", "--device", "cuda"], LIMITS["loss"], {})]


def metrics() -> list[Outcome]:
    """LPIPS and DISTS against the packages people use, where those are installed, with their memory."""
    command = [sys.executable, "-m", "bench.metrics", "--device", "cuda"]
    return [run("bench-metrics", command, LIMITS["metrics"], {})]


PARTS = {"build": build, "test": test, "sanitize": sanitize, "bench": bench, "loss": loss, "metrics": metrics}
DEFAULT_PARTS = ("build", "test", "sanitize", "bench")  # 9 minutes at most


def main(parts: list[str]) -> int:
    import torch

    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        print(f"PARTS: expected some of {' '.join(PARTS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(f"make gpu: torch {torch.__version__} sees no CUDA device; use make test and make bench", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for part in parts or DEFAULT_PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        outcomes += PARTS[part]()
    if out := os.environ.get("OUT"):
        for file in (*LOGS.glob("*.log"), *RESULTS.glob("*.csv")):
            shutil.copy(file, out)
    for log in LOGS.glob("bench*.log"):
        print(log.read_text())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for outcome in outcomes:
        print(f"{outcome.part:10} {outcome.status:18} {outcome.seconds:6.1f} s  {outcome.last_line}")
    return 0 if all(outcome.status in ("ok", "left out") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
