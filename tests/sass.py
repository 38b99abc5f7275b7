"""Kernels in a SASS listing of cuobjdump: their instructions, their loops, and what they must and must not hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Instruction:
    """One line, such as "@P0 BRA 0x1a0".

    Attributes:
        address: In its kernel.
        conditional: Whether it has a predicate.
        opcode: With its modifiers, such as "LDG.E.128".
        operands: The rest of the line.
    """

    address: int
    conditional: bool
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    def is_a(self, wanted: str) -> bool:
        """Whether it is one of "NAME.MODIFIER|OTHER"; it may have more modifiers, anywhere."""
        has = self.opcode.split(".")
        return any(set(one.split(".")) <= set(has) and one.split(".")[0] == has[0] for one in wanted.split("|"))

    @property
    def target(self) -> int:
        """The address that it names last."""
        return int(re.findall(r"0x[0-9a-f]+", self.operands)[-1], 16)


Code = list[Instruction]

_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/ +\{? *(@!?U?P\w+ +)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)


def functions(listing: str) -> dict[str, Code]:
    """The instructions of each function, by symbol."""
    _, *parts = _FUNCTION.split(listing)
    return {
        symbol: [Instruction(int(m[1], 16), m[2] is not None, m[3], m[4]) for m in _LINE.finditer(body)]
        for symbol, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _followers(code: Code) -> list[list[int]]:
    """For each instruction the places of those that may come next. Subroutines are not followed."""
    place = {instruction.address: i for i, instruction in enumerate(code)}
    meeting: dict[str, int] = {}  # where the threads that part at BSSY come together again
    followers = []
    for i, one in enumerate(code):
        next_ = [i + 1] if i + 1 < len(code) else []
        if one.name == "BRA":
            condition = one.conditional or "," in one.operands or one.operands.split()[0].startswith(("P", "UP", "!"))
            followers.append([place[one.target], *(next_ if condition else [])])
        elif one.name == "CALL" and one.target in place:  # also how the compiler leaves some loops
            followers.append([place[one.target], *next_])
        elif one.name == "BSYNC" and (barrier := one.operands.split()[-1]) in meeting:
            followers.append([meeting[barrier], *(next_ if one.conditional else [])])
        elif one.name in ("EXIT", "RET", "BRX", "JMX", "JMP", "KILL") and not one.conditional:
            followers.append([])
        else:
            followers.append(next_)
        if one.name == "BSSY":
            meeting[one.operands.split(",")[0].strip()] = place[one.target]
    return followers


def loops(code: Code) -> list[set[int]]:
    """The bodies of the loops, as places in the code: all from which a jump back is reached without its target.

    Addresses alone do not tell: code that rarely runs is laid out at the end of a kernel and jumps back from there.
    """
    followers = _followers(code)
    leaders: list[list[int]] = [[] for _ in code]
    for place, next_ in enumerate(followers):
        for follower in next_:
            leaders[follower].append(place)
    bodies: dict[int, set[int]] = {}  # by first instruction
    for jump, next_ in enumerate(followers):
        for head in next_:
            if head >= jump:  # forward, or the endless loop after the end
                continue
            body, open_ = {head, jump}, [jump]
            while open_:
                for leader in leaders[open_.pop()]:
                    if leader not in body:
                        body.add(leader)
                        open_.append(leader)
            if head == 0 or 0 not in body:  # else the jump can be reached past its target: no loop
                bodies.setdefault(head, set()).update(body)
    return list(bodies.values())


def main_loops(code: Code) -> list[Code]:
    """The outermost loops with products on tensor cores, one for each way through the kernel; else the largest loop."""
    bodies = loops(code)
    multiplying = [body for body in bodies if any(code[place].name == "HMMA" for place in body)]
    outermost = [body for body in multiplying if not any(body < other for other in multiplying)]
    chosen = outermost or [max(bodies, key=len, default=set())]
    return [[code[place] for place in sorted(body)] for body in chosen]


@dataclass(frozen=True)
class Expected:
    """What the code of some kernels holds. Instructions as Instruction.is_a takes them.

    Attributes:
        kernels: Pattern of their names, * for any text.
        loop: Each must be in every main loop.
        anywhere: Each must be somewhere.
        never: None of these anywhere.
    """

    kernels: str
    loop: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()
    never: tuple[str, ...] = ("LDL", "STL")

    def complaints(self, code: Code) -> list[str]:
        mains = main_loops(code) if self.loop else []
        return [
            *(
                f"no {one} in a main loop of {len(main)} instructions"
                for main in mains
                for one in _absent(self.loop, main)
            ),
            *(f"no {wanted}" for wanted in _absent(self.anywhere, code)),
            *(f"{one.opcode} at {one.address:#x}" for one in code if any(one.is_a(bad) for bad in self.never)),
        ]


def _absent(wanted: Iterable[str], code: Code) -> list[str]:
    return [one for one in wanted if not any(instruction.is_a(one) for instruction in code)]


def expected_of(kernel: str, table: Iterable[Expected]) -> Expected | None:
    """The first row for a kernel."""
    return next((row for row in table if fnmatchcase(kernel, row.kernels)), None)
