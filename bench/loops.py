"""The loops in a kernel's code."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from .sass import Code

_ENDS = ("EXIT", "RET", "BRX", "JMX", "JMP", "KILL")


@dataclass(frozen=True)
class Flow:
    """Stretches of code that run from their first instruction to their last, and which of them may follow which.

    Attributes:
        starts: Their first instructions, as places in the code.
        ends: One behind their last.
        followers: Of each.
    """

    starts: list[int]
    ends: list[int]
    followers: list[list[int]]

    def leaders(self) -> list[list[int]]:
        """The blocks before each."""
        leaders: list[list[int]] = [[] for _ in self.starts]
        for block, followers in enumerate(self.followers):
            for follower in followers:
                leaders[follower].append(block)
        return leaders

    def places(self, blocks: set[int]) -> set[int]:
        return {place for block in blocks for place in range(self.starts[block], self.ends[block])}


def flow_of(code: Code) -> Flow:
    """Subroutines are followed where they are called, and not back."""
    jumps = _jumps(code)
    behind = {place + 1 for place in jumps if place + 1 < len(code)}
    starts = sorted({0, *behind, *(target for targets in jumps.values() for target in targets)})
    ends = [*starts[1:], len(code)]
    after = [jumps.get(end - 1, [end] if end < len(code) else []) for end in ends]
    return Flow(starts, ends, [[bisect_right(starts, place) - 1 for place in places] for places in after])


def _jumps(code: Code) -> dict[int, list[int]]:
    """The places that may come after each instruction after which another than the next may come."""
    meeting: dict[str, int] = {}  # where the threads that part at BSSY come together again
    jumps = {}
    for place, one in enumerate(code):
        name, next_ = one.name, [place + 1] if place + 1 < len(code) else []
        if name == "BRA":
            jumps[place] = [place + one.jump, *(next_ if one.conditional or one.operands else [])]
        elif name == "CALL" and one.jump:  # also how the compiler leaves some loops
            jumps[place] = [place + one.jump, *next_]
        elif name == "BSYNC" and one.operands in meeting:
            jumps[place] = [meeting[one.operands], *(next_ if one.conditional else [])]
        elif name in _ENDS:
            jumps[place] = next_ if one.conditional else []
        elif name == "BSSY":
            meeting[one.operands] = place + one.jump
    return jumps


def loops(flow: Flow) -> dict[int, set[int]]:
    """The bodies of the loops by their first blocks: all blocks from which a jump back is reached without its target.

    Addresses alone do not tell: code that rarely runs is laid out at the end of a kernel and jumps back from there.
    """
    leaders = flow.leaders()
    bodies: dict[int, set[int]] = {}
    for jump, followers in enumerate(flow.followers):
        for head in followers:
            if flow.starts[head] >= flow.ends[jump] - 1:  # forward, or the endless loop after the end
                continue
            body, open_ = {head, jump}, [jump] if jump != head else []
            while open_:
                for leader in leaders[open_.pop()]:
                    if leader not in body:
                        body.add(leader)
                        open_.append(leader)
            if head == 0 or 0 not in body:  # else the jump can be reached past its target: no loop
                bodies.setdefault(head, set()).update(body)
    return bodies


def main_loops(code: Code) -> list[list[int]]:
    """The outermost loops with products on tensor cores, one for each way through the kernel; else the largest loop.

    As places in the code.
    """
    flow = flow_of(code)
    bodies = [flow.places(body) for body in loops(flow).values()]
    multiplying = [body for body in bodies if any(code[place].name == "HMMA" for place in body)]
    outermost = [body for body in multiplying if not any(body < other for other in multiplying)]
    return [sorted(body) for body in outermost or [max(bodies, key=len, default=set())]]
