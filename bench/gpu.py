"""`make gpu`: builds, tests and times on a machine whose Python already has a CUDA torch, and keeps what it found.

No network, no virtual environment. `python -m bench.gpu PART ...`: `quick` takes 4 minutes at most, `build test bench`,
the default, 9; `engine`, `loss` and `sanitize` come on top. A step that reaches its limit is stopped, and what it left
is named.

Results go to $OUT, or bench/results/gpu, as they are made: a CSV as in bench/results, `*-tests.csv` with a row for each
test, `*-parts.csv` with one for each step, and log.txt. Outside a repository they name $GIT_COMMIT as the commit.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .gpu_steps import BenchStep, Results, Step, SuiteStep
from .results import FOLDER, ROOT, this_machine
from .suites.loss import GRAPHS

OF_DEVICE = re.compile(r"\b(device|native|backend|graph_device): str\b|\"on_device\"|mark\.cuda\b")
SHOWN = 40  # lines of each step


def device_tests() -> list[str]:
    """The files with tests that run on each device; the kernels' execution on the CPU is not among them."""
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if OF_DEVICE.search(path.read_text())]
    return [str(path.relative_to(ROOT)) for path in files if not path.name.startswith("test_host_")]


def timed(name: str, limit: float, *options: str) -> Step:
    return BenchStep(name, ("python", "-m", "bench", "--full", "--device=cuda", "--out={folder}", *options), limit)


def sanitized(tool: str) -> Step:
    """Small maps in both layouts, every operator, and the stages of the Gram's pipeline: what a tool that follows each
    thread sees within its limit. Without torch's allocator, which would hide overruns."""
    chosen = (
        "test_tiles_and_stages or (test_memory_layouts and float32 and (nchw or nhwc) and (chw or charbonnier or l1))"
    )
    pytest = ("python", "-m", "pytest", "tests/test_operators.py", "-m", "cuda", "-k", chosen)
    command = ("compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", *pytest)
    return Step(tool, command, 40, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


BUILD = Step("build", ("python", "setup.py", "-q", "build_ext", "--inplace"), 80)
CHECK = Step("check", ("python", "-m", "perceptual_ops", "doctor", "--check", "--device=cuda"), 45)
TEST = ("python", "-m", "pytest", "-m", "cuda", "--tb=short", "-p", "bench.gpu_tests", "--results={tests}")
BRIEF = ("--seconds=0.2", "--variants", "ours", "eager", "--only")
# Every dtype, of a large batch, a usual one, and one that launches bound.
SIZES = ("8x512", "8x256", "1x256")
LOSSES = ("eager fp32", "channels_last bf16", "ours fp32", "ours bf16", "ours fp16", *GRAPHS)
ROWS = (
    timed("head", 45, *BRIEF, *(f"operators head fwd+grad {size}" for size in SIZES)),
    timed("loss", 55, "--variants", *LOSSES, "--only", *(f"loss {size}" for size in (*SIZES, "4x256"))),
)
COMPILED = ("head fwd+grad 8x512x512 NHWC bf16", "head fwd+grad 1x256x256 NHWC bf16")
OPERATORS = ("gram", "tv", "lpips", "dists", "statistics", "head fwd+grad 4x256", "head fwd+grad 1x64")
# What it finds is in log.txt, and its verdict in *-parts.csv.
FUSED = Step("fused conv", ("python", "-m", "bench.fused_convolution"), 80)
PARTS: dict[str, Sequence[Step]] = {
    "quick": (BUILD, CHECK, *ROWS),
    "build": (BUILD,),
    "test": (SuiteStep("test", (*TEST, *device_tests()), 200),),
    "bench": (
        *ROWS,
        timed("operators", 70, *BRIEF, *(f"operators {name}" for name in OPERATORS)),
        timed("compiled head", 60, "--seconds=0.2", "--only", *COMPILED),
    ),
    "engine": (
        timed("metrics", 80, "--only", "vgg 4x256", "alex 4x256", "metrics dists 4x256"),
        timed("any module", 90, "--only", "modules"),
        timed("steps", 50, "--only", "adaptive", "steps"),
    ),
    "loss": (FUSED, timed("whole loss", 400, "--only", "loss ")),
    "sanitize": tuple(sanitized(tool) for tool in ("memcheck", "racecheck", "initcheck")),
}
DEFAULT_PARTS = ("build", "test", "bench")


def main(parts: Sequence[str]) -> int:
    """Runs the parts; 1 where anything failed or is left."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        print(f"PARTS: expected some of {' '.join(PARTS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(f"make gpu: torch {torch.__version__} sees no CUDA device; use make test and make bench", file=sys.stderr)
        return 2
    folder = Path(os.environ.get("OUT") or FOLDER / "gpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").unlink(missing_ok=True)
    results = Results(folder, this_machine(torch.device("cuda")))
    rows: list[dict[str, str]] = []
    good = True
    for step in [step for part in parts or DEFAULT_PARTS for step in PARTS[part]]:
        print(f"\n== {step.name}", flush=True)
        outcome = step.run(results)
        good = good and outcome.status in ("ok", "left out") and not outcome.left
        print("\n".join(outcome.output.rstrip().splitlines()[-SHOWN:]), flush=True)
        found = {"step": step.name, "status": outcome.status, "seconds": f"{outcome.seconds:.1f}"}
        rows.append(found | {"left": "; ".join(outcome.left), "last_line": outcome.last_line})
        results.write("-parts", rows)
        if step == BUILD and outcome.status != "ok":
            print("without kernels nothing else is of use")
            break
    print(f"\n{results.machine.device}, torch {results.machine.torch}, commit {results.machine.commit}: {folder}")
    for row in rows:
        print(f"{row['step']:15} {row['status']:18} {row['seconds']:>6} s  {row['last_line'][:90]}")
        if row["left"]:
            print(f"{'':15} left: {row['left'][:600]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
