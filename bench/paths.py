"""What a warp executes on its way through a stretch of a kernel, counted from the code.

A way is chosen by its work, such as 64 products and 8 copies, and of the ways with that work it is the one with the
fewest instructions. Loops inside run as often as `Trips` says. Subroutines are not entered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from .loops import flow_of, loops
from .sass import Code

# Instructions of these kinds that a way has; None for as many as any way has.
Work = Mapping[str, int | None]

# How often loops run that hold an instruction of this name, from the outermost on; the first name that fits counts, and
# all others run once, where a way goes through them.
Trips = Mapping[str, Sequence[int]]

WIDTHS = ("128", "64")  # in the modifiers of an access; others move at most four bytes
_BRANCHES = ("BRA", "BRX", "BSSY", "BSYNC", "BREAK", "BMOV", "CALL", "RET", "EXIT", "WARPSYNC", "YIELD")
_BARRIERS = ("BAR", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR", "FENCE", "CCTL")
_FLOATS = ("FADD", "FFMA", "FMUL", "FMNMX", "FSEL", "FSET", "FCHK", "MUFU", "HADD", "HFMA", "HMUL", "HMNMX", "HSET")
_INTEGERS = ("I", "UI", "LOP", "ULOP", "SHF", "USHF", "LEA", "ULEA", "VI", "UVI", "SGXT", "POPC", "FLO", "BREV", "BMSK")

KINDS = (
    *("HMMA", "LDSM", "LDGSTS"),
    *(f"{name}.{width}" for name in ("LDG", "STG") for width in ("128", "64", "32")),
    *("LD", "shared", "float", "integer", "branch", "barrier", "other"),
)


@cache
def kind_of(opcode: str) -> str:
    """One of KINDS."""
    name, *modifiers = opcode.split(".")
    if name in ("HMMA", "LDSM", "LDGSTS", "LD"):
        return name
    if name in ("LDG", "STG"):
        return f"{name}.{next((width for width in WIDTHS if width in modifiers), '32')}"
    if name in ("LDS", "STS"):
        return "shared"
    for kind, names in (("branch", _BRANCHES), ("barrier", _BARRIERS)):
        if name in names:
            return kind
    if name.startswith(_FLOATS):
        return "float"
    return "integer" if name.startswith(_INTEGERS) else "other"


Counts = Counter[str]  # by KINDS
Variants = dict[tuple[int, ...], Counts]  # the best way for each amount of work


class Paths:
    """The ways through a kernel."""

    def __init__(self, code: Code) -> None:
        self.flow = flow_of(code)
        self.loops = loops(self.flow)
        stretches = [code[start:end] for start, end in zip(self.flow.starts, self.flow.ends, strict=True)]
        self.counts = [Counter(kind_of(one.opcode) for one in stretch) for stretch in stretches]
        self.names = [{one.name for one in stretch} for stretch in stretches]
        self._plain = [sum(one.is_a("LDSM.M88") for one in stretch) for stretch in stretches]
        self.blocks = set(range(len(stretches)))
        self.exits = {block for block in self.blocks if stretches[block][-1].name == "EXIT"}
        self.ends = {block for block in self.exits if not stretches[block][-1].conditional}

    def pipelines(self) -> list[int]:
        """The first blocks of the outermost loops that copy (LDGSTS) in rounds of their own and multiply (HMMA).

        A loop that only begins one pipeline after the other is none.
        """

        def having(name: str, region: set[int]) -> bool:
            return any(name in self.names[block] for block in region)

        multiplying = {head: body for head, body in self.loops.items() if having("HMMA", body)}
        copying = {}
        for head, body in multiplying.items():
            inner = [other for other in multiplying.values() if other < body]
            if having("LDGSTS", body.difference(*inner)):
                copying[head] = body
        return [head for head, body in copying.items() if not any(body < other for other in copying.values())]

    def plain_matrix_loads(self, head: int) -> int:
        """How many ldmatrix there are in a loop that do not turn what they load."""
        return sum(self._plain[block] for block in self.loops[head])

    def through(self, work: Work, trips: Trips) -> Counts:
        """From the first instruction to the last."""
        return self._way(self.blocks, {0}, self.ends, work, trips)

    def before(self, head: int, work: Work, trips: Trips) -> Counts:
        """From the first instruction to a loop."""
        outside = self.blocks - self.loops[head]
        return self._way(outside, {0}, self._leading(outside, head), work, trips)

    def once(self, head: int, work: Work, trips: Trips) -> Counts:
        """One round of a loop."""
        body = self.loops[head]
        return self._way(body, {head}, self._leading(body, head), work, trips)

    def after(self, head: int, work: Work, trips: Trips) -> Counts:
        """From a loop to the end."""
        body = self.loops[head]
        next_ = {follower for block in body for follower in self.flow.followers[block]} - body
        return self._way(self.blocks - body, next_, self.exits, work, trips)

    def _leading(self, region: set[int], head: int) -> set[int]:
        return {block for block in region if head in self.flow.followers[block]}

    def _way(self, region: set[int], starts: set[int], ends: set[int], work: Work, trips: Trips) -> Counts:
        ways = _Ways(self, tuple(work), trips).between(region, starts, ends)
        wanted = tuple(work.values())
        fitting = [
            amount for amount in ways if all(want in (None, has) for has, want in zip(amount, wanted, strict=True))
        ]
        if not fitting:
            there = [dict(zip(work, amount, strict=True)) for amount in sorted(ways)]
            raise ValueError(f"no way with {dict(work)}; there are {there}")
        return ways[max(fitting)]


class _Ways:
    """The best way for each amount of work."""

    def __init__(self, paths: Paths, kinds: tuple[str, ...], trips: Trips) -> None:
        self.paths, self.kinds, self.trips = paths, kinds, trips

    def between(self, region: set[int], starts: set[int], ends: set[int], outside: tuple[str, ...] = ()) -> Variants:
        """From any start to any end within the region. `outside`: names of the loops around it."""
        followers = self.paths.flow.followers
        inner = self._loops_in(region, starts)
        of_loop = {block: head for head, body in inner.items() for block in body}
        known: dict[int, Variants] = {}

        def on(node: int) -> Variants:
            if node in known:
                return known[node]
            known[node] = {}  # a way back here leads to no end
            blocks = inner.get(node, {node})
            next_ = {of_loop.get(one, one) for block in blocks for one in followers[block] if one in region}
            tails = self._best(tail for one in sorted(next_ - {node}) for tail in on(one).values())
            if blocks & ends:
                tails = self._best([*tails.values(), Counter()])
            own = self._rounds(node, inner[node], outside) if node in inner else [self.paths.counts[node]]
            known[node] = self._best(one + tail for one in own for tail in tails.values())
            return known[node]

        return self._best(way for start in sorted(starts) for way in on(of_loop.get(start, start)).values())

    def _loops_in(self, region: set[int], starts: set[int]) -> dict[int, set[int]]:
        """The outermost loops within a region, but for the one that it is."""
        inner = {
            head: body
            for head, body in self.paths.loops.items()
            if body <= region and not (body == region and head in starts)
        }
        return {head: body for head, body in inner.items() if not any(body < other for other in inner.values())}

    def _rounds(self, head: int, body: set[int], outside: tuple[str, ...]) -> list[Counts]:
        """All rounds of a loop."""
        names = set().union(*(self.paths.names[block] for block in body))
        name = next((name for name in self.trips if name in names), None)
        rounds, within = 1, outside
        if name is not None:
            level, within = outside.count(name), (*outside, name)
            rounds = self.trips[name][level] if level < len(self.trips[name]) else 1
        once = self.between(body, {head}, self.paths._leading(body, head), within)
        return [Counter({kind: count * rounds for kind, count in way.items()}) for way in once.values()]

    def _best(self, ways: Iterable[Counts]) -> Variants:
        best: Variants = {}
        for way in ways:
            amount = tuple(way[kind] for kind in self.kinds)
            if amount not in best or way.total() < best[amount].total():
                best[amount] = way
        return best
