"""What a warp of every main kernel executes, by kind of instruction: results/kernel_counts.csv (`make kernel-model`).

Counted in the machine code, for whole, aligned maps (paths.py says how): no kernel runs, and nothing is measured. ROWS
says which kernels and which stretches of them; a change that makes a stretch longer changes the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from . import cubins, kernel_resources, sass
from .cubins import Resources
from .paths import KINDS, Counts, Paths, Trips, Work

TABLE = Path(__file__).parent / "results" / "kernel_counts.csv"


@dataclass(frozen=True)
class Stage:
    """A round of a main loop: the work of a warp in it, and how often its inner loops run."""

    work: Work
    trips: Trips
    name: str = ""


@dataclass(frozen=True)
class Pipeline:
    """Kernels whose main loops multiply stages that cp.async brings, one loop for each kind of stage and layout.

    Attributes:
        kernels: Pattern of their names, * for any text.
        stages: The kinds.
        after: Work behind the main loop.
        turned: The layout whose panels ldmatrix turns, or which it cannot turn: the loop with the fewest plain LDSM.
        under_way: Stages that are copied while one is multiplied.
    """

    kernels: str
    stages: tuple[Stage, ...]
    after: Work
    turned: str
    under_way: int = 2

    def parts(self, paths: Paths) -> Iterator[tuple[str, Counts]]:
        rounds = {head: self._round(paths, head) for head in paths.pipelines()}
        other = {"nchw": "nhwc", "nhwc": "nchw"}[self.turned]
        for stage in self.stages:
            heads = [head for head, (of, _) in rounds.items() if of is stage]
            if len(heads) != 2:
                raise ValueError(f"{len(heads)} main loops with {dict(stage.work)}, expected one for each layout")
            for layout, head in zip((self.turned, other), sorted(heads, key=paths.plain_matrix_loads), strict=True):
                prefix = f"{layout} {stage.name} " if stage.name else f"{layout} "
                yield f"{prefix}before", paths.before(head, {}, {})
                yield f"{prefix}stage", rounds[head][1]
                yield f"{prefix}after", paths.after(head, self.after, {})

    def _round(self, paths: Paths, head: int) -> tuple[Stage, Counts]:
        """The kind of a loop's stages and what a warp executes in one."""
        sentences = []
        for stage in self.stages:
            try:
                return stage, paths.once(head, stage.work, stage.trips)
            except ValueError as error:
                sentences.append(str(error))
        raise ValueError("; ".join(sentences))


@dataclass(frozen=True)
class Stream:
    """Kernels that read and write maps, from end to end or a loop of them.

    Attributes:
        kernels: Pattern of their names, * for any text.
        needed: Bytes that a thread has to move on the counted way; what it reads again, or others read too, comes from
            a cache.
        work: Its accesses.
        loops: "" for the whole kernel; else the inner loops with as many loads of 16 bytes as walk a map, which are
            "alternatives" (layouts, say) or "passes" over the same bytes.
    """

    kernels: str
    needed: int
    work: Work = field(default_factory=lambda: {"LDG.128": None, "STG.128": None})
    loops: str = ""
    under_way: int = 1

    def parts(self, paths: Paths) -> Iterator[tuple[str, Counts]]:
        if not self.loops:
            yield "kernel", paths.through(self.work, {})
            return
        inner = [head for head, body in paths.loops.items() if not any(other < body for other in paths.loops.values())]
        ways = [paths.once(head, self.work, {}) for head in sorted(inner)]
        yield from ((f"loop {i}", way) for i, way in enumerate(_walking(ways), start=1))


def _walking(ways: Iterable[Counts]) -> list[Counts]:
    """Rounds of loops that walk maps; what ends a sum, or the rest of a line, has fewer loads of 16 bytes."""
    return [way for way in ways if way["LDG.128"] >= 4]


def _groups(kernels: str, maps: int, rest: int, work: dict[str, int | None] | None = None) -> list[Stream]:
    """Kernels that take groups of eight elements of `maps` maps: 16 bytes of each in bf16, twice as much in fp32."""
    work = work or {"LDG.128": None, "STG.128": None}
    wide: Work = {kind: count and 2 * count for kind, count in work.items()}
    return [
        Stream(kernels.replace("T", "__nv_bfloat16"), 16 * maps + rest, work),
        Stream(kernels.replace("T", "float"), 32 * maps + rest, wide),
    ]


def _gram(element: str, products: int) -> Pipeline:
    """`products`: of a warp in a stage. Of fp32 three in TF32 make one."""
    stage = Stage({"HMMA": products, "LDGSTS": 8}, {"HMMA": (1, 2)})
    return Pipeline(f"gram_sum_kernel<{element}>", (stage,), after={"STG.128": 16}, turned="nhwc")


def _gradient(element: str, products: int, stores: int) -> Pipeline:
    """The same, with the stores of a warp's results."""
    stages = [Stage({"HMMA": products, "LDGSTS": n}, {"HMMA": (2,)}, name) for n, name in ((8, ""), (10, "narrow"))]
    return Pipeline(f"gram_gradient_kernel<{element}>", tuple(stages), after={"STG.128": stores}, turned="nchw")


# The gradient of "blur" between the borders, where each window has its code loaded by an instruction of its own.
BETWEEN: dict[str, int | None] = {"LDG.32": None, "LDG.128": 12, "STG.128": 4}

ROWS: list[Pipeline | Stream] = [
    _gram("float", products=3 * 64),
    _gram("__nv_bfloat16", products=64),
    _gradient("float", products=3 * 64, stores=16),
    _gradient("__nv_bfloat16", products=64, stores=8),
    Stream("feature_loss_kernel<*, (Distance)0, (Wanted)0>", needed=8 * 16, loops="alternatives"),
    Stream("feature_loss_kernel<*, (Distance)0, *", needed=12 * 16, loops="alternatives"),
    Stream("lpips_kernel<*, 0>", needed=8 * 16, loops="passes"),
    Stream("lpips_kernel<*, 1>", needed=12 * 16, loops="passes"),
    Stream("lpips_kernel<*, 2>", needed=16 * 16, loops="passes"),
    Stream("dists_kernel<*", needed=6 * 16, loops="alternatives"),
    Stream("dists_backward_kernel<*, (Inputs)2>", needed=12 * 16, loops="alternatives"),
    Stream("channel_statistics_kernel<*", needed=6 * 16, loops="alternatives"),
    # Four groups a thread in bf16, two in fp32; a byte of signs for each. Backward with all terms.
    Stream("bias_relu_kernel<__nv_bfloat16, 8>", needed=4 * (2 * 16 + 1)),
    Stream("bias_relu_kernel<float, 8>", needed=2 * (2 * 32 + 1)),
    Stream("bias_relu_backward_kernel<__nv_bfloat16, 8>", needed=2 * (4 * 16 + 1)),
    Stream("bias_relu_backward_kernel<float, 8>", needed=4 * 32 + 1),
    # A group of the pooled map, and the four of the map that are new to its window; four bits a window and channel.
    *_groups("pool_kernel<T, 8, Window<(PoolKind)0, ?, 2> >", maps=5, rest=4),
    *_groups("pool_kernel<T, 8, Window<(PoolKind)1, 2, 2> >", maps=5, rest=0),
    # A cell of four groups of the map, read and written with its signs, and one of the pooled map with its codes.
    *_groups("relu_pool_kernel<T, (PoolKind)0>", maps=9, rest=4 + 4),
    *_groups("relu_pool_kernel<T, (PoolKind)1>", maps=9, rest=4),
    # Of "blur" the codes of four windows; between the borders, where 16 pixels and the bias are loaded.
    *_groups("blur_kernel<T, 8, Window<(PoolKind)2, 2, 2> >", 5, 16, {"LDG.128": 16 + 1, "STG.128": 1}),
    # A cell of four groups of the map with their signs, a tap and a map below, the gradient of a window, and the codes
    # of one, of "blur" of four.
    *_groups("pool_backward_cell_kernel<T, Window<(PoolKind)0, ?, 2> >", maps=4 * 3 + 1, rest=4 + 4),
    *_groups("pool_backward_cell_kernel<T, Window<(PoolKind)1, 2, 2> >", maps=4 * 3 + 1, rest=4),
    *_groups("pool_backward_cell_kernel<T, Window<(PoolKind)2, 2, 2> >", 4 * 3 + 1, 4 + 16, BETWEEN),
    Stream("l2_pool_kernel<*, [48]>", needed=5 * 16),
    Stream("l2_pool_backward_kernel<*, [48]>", needed=10 * 16),
    Stream("total_variation_kernel<*, (Distance)0, (Wanted)2, [48], [13]>", needed=8 * 16),
]


def row_of(kernel: str) -> Pipeline | Stream | None:
    """The first row for a kernel. bfloat16 stands for both 16-bit types, and fp64 is for checks, not for speed."""
    if "double" in kernel or "__half" in kernel:
        return None
    return next((row for row in ROWS if fnmatchcase(kernel, row.kernels)), None)


def bytes_of(counts: Counts, *names: str) -> int:
    """Bytes that a thread moves by instructions of these names."""
    width = {"": 16, "128": 16, "64": 8, "32": 4}
    kinds = [kind.partition(".") for kind in KINDS]
    return sum(width[modifier] * counts[name + dot + modifier] for name, dot, modifier in kinds if name in names)


def line(kernel: Resources, part: str, counts: Counts, row: Pipeline | Stream) -> dict[str, str]:
    """A line of the table, but for the compiler."""
    instructions = sum(counts[kind] for kind in KINDS)
    moved = bytes_of(counts, "LDGSTS", "LDG", "STG")
    needed = row.needed if isinstance(row, Stream) else moved
    blocks, threads = kernel_resources.blocks_of(kernel), kernel.threads
    return {
        "kernel": kernel.kernel,
        "architecture": str(kernel.architecture),
        "part": part,
        **{kind: str(counts[kind]) for kind in KINDS},
        "instructions": str(instructions),
        "bytes": str(moved),
        "needed": str(needed),
        "per_hmma": f"{instructions / counts['HMMA']:.2f}" if counts["HMMA"] else "",
        "per_16_bytes": f"{16 * instructions / needed:.1f}" if needed else "",
        "blocks": str(blocks),
        "in_flight": str(blocks * threads * row.under_way * bytes_of(counts, "LDGSTS", "LDG")),
    }


def rows() -> list[dict[str, str]]:
    """The table of the built library."""
    of = {(one.kernel, one.architecture): one for one in cubins.resources()}
    found: list[dict[str, str]] = []
    for architecture, codes in sass.kernels().items():
        for kernel, code in zip(cubins.kernel_names(list(codes)), codes.values(), strict=True):
            if wanted := row_of(kernel):
                try:
                    parts = list(wanted.parts(Paths(code)))
                except ValueError as error:
                    raise ValueError(f"{kernel} on sm_{architecture}: {error}") from error
                found += [line(of[kernel, architecture], *part, wanted) for part in parts]
    found.sort(key=lambda row: (row["kernel"], int(row["architecture"])))
    return [{"compiler": cubins.compiler(), **row} for row in found]
