"""`python -m bench.kernel_resources`: registers and memory of every kernel, written to results/kernel_resources.csv.

TARGETS says what each kernel may take. A new kernel needs a row there; tests/test_kernel_resources.py compares.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from . import cubins, tables
from .cubins import Resources

TABLE = Path(__file__).parent / "results" / "kernel_resources.csv"

KIB = 1024
WARP = 32
REGISTERS = 64 * KIB  # of an SM, on every architecture from sm_80 on
UNIT = 256  # registers are given to a warp in multiples of this
MAX_REGISTERS = 255  # of a thread
# Threads and KiB of shared memory of an SM, by architecture. A block may take all but what is the system's.
SMS = {80: (2048, 164), 86: (1536, 100), 89: (1536, 100), 90: (2048, 228), 100: (2048, 228), 120: (1536, 100)}
TUNED = 90
SYSTEM = KIB  # of shared memory for each block; in the cubins' numbers from sm_90 on


@dataclass(frozen=True)
class Target:
    """What a kernel is launched with, and how many of its blocks an SM should hold.

    Attributes:
        threads: Of a block, as in __launch_bounds__.
        blocks: On an SM: by registers on every architecture, by shared memory on the tuned one.
        dynamic_shared: Bytes that its launcher asks for.
    """

    threads: int
    blocks: int
    dynamic_shared: int = 0

    @property
    def registers(self) -> int:
        """The most that a thread may take."""
        warps = self.blocks * -(-self.threads // WARP)
        return min(MAX_REGISTERS, REGISTERS // warps // UNIT * UNIT // WARP)

    def shared(self, kernel: Resources) -> int:
        """Bytes of shared memory that a block takes of its SM."""
        return kernel.shared + self.dynamic_shared + (SYSTEM if kernel.architecture < TUNED else 0)

    def excess(self, kernel: Resources) -> list[str]:
        """What the kernel takes beyond the target, as sentences."""
        taken, smallest = self.shared(kernel), min(shared for _, shared in SMS.values())
        most_threads, most_shared = SMS[TUNED]
        limits = {
            f"registers ({self.blocks} blocks of {self.threads} threads on an SM)": (kernel.registers, self.registers),
            "bytes of stack": (kernel.stack, 0),
            "bytes of local memory": (kernel.local, 0),
            "bytes of shared memory (the smallest architecture)": (taken, smallest * KIB),
        }
        if kernel.architecture == TUNED:
            limits["bytes of shared memory (all blocks of an SM)"] = (self.blocks * taken, most_shared * KIB)
            limits["threads of an SM"] = (self.blocks * self.threads, most_threads)
        said = [f"{has} {what}, at most {most}" for what, (has, most) in limits.items() if has > most]
        if kernel.threads != self.threads:
            said.append(f"__launch_bounds__ of {kernel.threads or 'no'} threads, expected {self.threads}")
        return [f"{kernel.kernel} on sm_{kernel.architecture}: {sentence}" for sentence in said]


# By name, * for any text; the first row that fits counts. The headers of the kernels give the reasons.
PANELS = 12 * 8 * KIB
TARGETS = {
    "gram_sum_kernel<float>*": Target(threads=256, blocks=1, dynamic_shared=PANELS),
    "gram_sum_kernel<double>*": Target(threads=256, blocks=1, dynamic_shared=PANELS),
    "gram_sum_kernel<*": Target(threads=256, blocks=2, dynamic_shared=PANELS),
    "gram_gradient_kernel<float>*": Target(threads=256, blocks=1, dynamic_shared=PANELS),
    "gram_gradient_kernel<double>*": Target(threads=256, blocks=1, dynamic_shared=PANELS),
    "gram_gradient_kernel<*": Target(threads=256, blocks=2, dynamic_shared=PANELS),
    "gram_finish_kernel<double>*": Target(threads=256, blocks=2),
    "gram_finish_kernel<*": Target(threads=256, blocks=4),
    "style_finish_kernel<double*": Target(threads=256, blocks=2),
    "style_finish_kernel<*": Target(threads=256, blocks=4),
    "symmetrise_kernel<*": Target(threads=128, blocks=12),
    "narrow_kernel<*": Target(threads=128, blocks=12),
    "feature_loss_kernel<*": Target(threads=256, blocks=2),
    "lpips_kernel<*, 2>": Target(threads=256, blocks=1),
    "lpips_kernel<*": Target(threads=256, blocks=2),
    "dists_*kernel<*": Target(threads=256, blocks=2),
    "channel_statistics_*kernel<*": Target(threads=256, blocks=2),
    "total_variation_kernel<*": Target(threads=256, blocks=2),
    "normalize_*": Target(threads=256, blocks=4),
    "bias_relu_kernel<*": Target(threads=256, blocks=4),
    "bias_relu_backward_kernel<*": Target(threads=256, blocks=3),
    "relu_pool_kernel<double*": Target(threads=256, blocks=2),
    "relu_pool_kernel<*": Target(threads=256, blocks=3),
    "pool_kernel<*": Target(threads=256, blocks=2),
    "blur_kernel<double*": Target(threads=256, blocks=1),
    "blur_kernel<float*": Target(threads=256, blocks=1),
    "blur_kernel<*": Target(threads=256, blocks=2),
    "pool_backward_cell_kernel<double*": Target(threads=256, blocks=1),
    "pool_backward_cell_kernel<float, *Kind)2*": Target(threads=256, blocks=1),
    "pool_backward_cell_kernel<*": Target(threads=256, blocks=2),
    "pool_backward_kernel<double*Kind)2*": Target(threads=256, blocks=1),
    "pool_backward_kernel<*Kind)2*": Target(threads=256, blocks=2),
    "pool_backward_kernel<double*": Target(threads=256, blocks=2),
    "pool_backward_kernel<*": Target(threads=256, blocks=3),
    "l2_pool_*kernel<*": Target(threads=256, blocks=2),
    "loss_scale_kernel*": Target(threads=128, blocks=12),
}


def target_of(kernel: str) -> Target | None:
    return next((target for pattern, target in TARGETS.items() if fnmatchcase(kernel, pattern)), None)


def blocks_of(kernel: Resources) -> int:
    """How many blocks of a kernel an SM holds."""
    target = target_of(kernel.kernel)
    if target is None or kernel.architecture not in SMS:
        raise ValueError(f"{kernel.kernel} on sm_{kernel.architecture}: no row of TARGETS or SMS is for it")
    threads, shared = SMS[kernel.architecture]
    of_warp = -(-kernel.registers * WARP // UNIT) * UNIT
    return min(
        threads // target.threads,
        REGISTERS // of_warp // -(-target.threads // WARP),
        shared * KIB // max(target.shared(kernel), 1),
    )


def rows() -> list[dict[str, str]]:
    """The table of the built library."""
    compiler = cubins.compiler()
    return [
        {"compiler": compiler, **{name: str(value) for name, value in vars(kernel).items()}}
        for kernel in cubins.resources()
    ]


def main() -> None:
    if reason := cubins.missing():
        sys.exit(f"kernel resources: {reason}")
    table = rows()
    tables.write(TABLE, table)
    print(f"{len(table)} rows in {TABLE.relative_to(cubins.ROOT)}")


if __name__ == "__main__":
    main()
