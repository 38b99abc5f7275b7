"""`python tests/host/sanitize.py [plain address undefined thread]`: the kernels on the CPU under the sanitizers.

Every kernel, on small shapes.

First each sanitizer must report faults that are there on purpose; then it must have nothing to say of the kernels.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from host.build import build
from host.primitives.launch import launch, numbers
from host.suite import small_cases
from host.worker import run_apart

# Primitives with a fault that each configuration must report, and in which words.
FAULTS = {
    "plain": {
        "neighbours without barrier": "gives other bits",
        "buffer reuse without barrier": "gives other bits",
        "write outside": "written at byte",
    },
    "address": {"write outside": "AddressSanitizer", "write after shared": "AddressSanitizer"},
    "undefined": {"wide shift": "shift exponent"},
    "thread": {
        "neighbours without barrier": "data race",
        "buffer reuse without barrier": "data race",
        "warp neighbours without barrier": "data race",
    },
}
# The same with their barriers, and the others that threads do together; with their threads.
SOUND = {
    "neighbours": 64,
    "buffer reuse": 64,
    "warp neighbours": 64,
    "copies": 32,
    "matrix load": 32,
    "product bf16": 32,
}


def report(folder: Path, primitive: str, words: int, threads: int) -> str:
    """What is said of a primitive; nothing where it is sound."""
    given = numbers(1024)
    given[0] = 1  # by which the faulty stray
    try:
        (outputs,) = run_apart(folder, [launch(primitive, given, words, threads=threads)])
    except RuntimeError as error:
        return str(error)
    return outputs if isinstance(outputs, str) else ""


def sanitize(configuration: str) -> list[str]:
    """The complaints of one configuration."""
    folder = build(configuration)
    complaints = []
    for primitive, sentence in FAULTS[configuration].items():
        if sentence not in report(folder, primitive, words=64, threads=64):
            complaints.append(f"did not report the fault in the primitive {primitive!r}")
    for primitive, threads in SOUND.items():
        if said := report(folder, primitive, words=512, threads=threads):
            complaints.append(f"primitive {primitive!r}: {said}")
    pairs = [case.make() for case in small_cases()]
    try:
        results = run_apart(folder, [launch for launch, _ in pairs])
    except RuntimeError as error:
        return [*complaints, str(error)]
    for (_, check), outputs in zip(pairs, results, strict=True):
        if isinstance(outputs, str):
            complaints.append(outputs)
        else:
            check(outputs)
    return complaints


def main(configurations: list[str]) -> int:
    failed = 0
    for configuration in configurations or list(FAULTS):
        begin = time.perf_counter()
        complaints = sanitize(configuration)
        failed += bool(complaints)
        verdict = "\n".join(complaints) or f"{len(small_cases())} launches of the kernels, nothing to report"
        print(f"{configuration}: {verdict} ({time.perf_counter() - begin:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
