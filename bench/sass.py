"""The instructions of the built library's kernels, as NVIDIA's nvdisasm reads them."""

from __future__ import annotations

import fcntl
import hashlib
import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from . import cubins

SIZE = 16  # bytes of an instruction on every architecture from sm_70 on
LISTINGS = cubins.ROOT / "build" / "sass"


class Instruction(NamedTuple):
    """One line, such as "@P0 BRA 0x1a0".

    Attributes:
        conditional: Whether it has a predicate.
        opcode: With its modifiers, such as "LDG.E.128".
        operands: What a jump depends on besides, such as "B0" or "P1"; empty for what is no jump.
        jump: Instructions from here to the one that it names; 0 where it names none.
    """

    conditional: bool
    opcode: str
    operands: str = ""
    jump: int = 0

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    def is_a(self, wanted: str) -> bool:
        """Whether it is one of "NAME.MODIFIER|OTHER"; it may have more modifiers, anywhere."""
        return _is_a(self.opcode, wanted)


Code = list[Instruction]

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/ +\{? *(@!?U?P\w+ +)?([A-Z][\w.]*) *([^;]*?) *;")
_JUMPS = ("BRA", "BSSY", "BSYNC", "CALL")


@cache
def _is_a(opcode: str, wanted: str) -> bool:
    has = opcode.split(".")
    return any(set(one.split(".")) <= set(has) and one.split(".")[0] == has[0] for one in wanted.split("|"))


def parse(listing: str) -> Code:
    """Instructions in a listing of nvdisasm."""
    return [
        _jump(bool(predicate), opcode, operands, int(address, 16))
        if opcode.startswith(_JUMPS)
        else _instruction(bool(predicate), opcode)
        for address, predicate, opcode, operands in _LINE.findall(listing)
    ]


_instruction = cache(Instruction)


def _jump(conditional: bool, opcode: str, operands: str, address: int) -> Instruction:
    condition, target = re.fullmatch(r"(.*?),? *(-?0x[0-9a-f]+)?", operands).groups()
    return Instruction(conditional, opcode, condition, (int(target, 16) - address) // SIZE if target else 0)


@cache
def kernels() -> dict[int, dict[str, Code]]:
    """The code of every kernel, of each architecture by symbol.

    Most instructions occur often, and nvdisasm takes 20 us for each. So each is read once for all architectures of a
    major version, whose code is compatible, and a jump is kept as a distance.
    """
    codes = {}
    known: dict[tuple[int, bytes], Instruction] = {}
    for architecture, functions in cubins.functions().items():
        major = architecture // 10
        words = {symbol: _words(function.code) for symbol, function in functions.items()}
        news = [word for word in dict.fromkeys(chain(*words.values())) if (major, word) not in known]
        listing = _listing(architecture, b"".join(news))
        known.update(zip(((major, word) for word in news), parse(listing), strict=True))
        codes[architecture] = {symbol: [known[major, word] for word in of] for symbol, of in words.items()}
    return codes


def _words(code: bytes) -> list[bytes]:
    return [code[place : place + SIZE] for place in range(0, len(code), SIZE)]


def _listing(architecture: int, code: bytes) -> str:
    """Made once and kept in build/sass while the code is the same; who comes meanwhile waits."""
    folder = LISTINGS / f"sm_{architecture}"
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / f"{hashlib.sha256(code).hexdigest()[:16]}.sass"
    with (LISTINGS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not listing.exists():
            for other in folder.iterdir():
                other.unlink()
            unfinished = listing.with_suffix(".new")
            unfinished.write_text(disassembly(architecture, code, folder))
            unfinished.rename(listing)
    return listing.read_text()


def disassembly(architecture: int, code: bytes, folder: Path) -> str:
    """Of instructions at address 0; the folder is for a file of them."""
    if not code:  # sm_89 has none that sm_86 has not
        return ""
    binary = folder / f"sm_{architecture}.bin"
    binary.write_bytes(code)
    listing = cubins.run("nvdisasm", "--binary", f"SM{architecture}", str(binary))
    binary.unlink()
    return listing
