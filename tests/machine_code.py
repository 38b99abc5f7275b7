"""Machine code written by hand."""

from __future__ import annotations

from bench import sass


def code_of(*lines: str) -> sass.Code:
    """Lines as nvdisasm prints them; "name:" names the next, for jumps."""
    places: dict[str, int] = {}
    instructions: list[str] = []
    for line in lines:
        if line.endswith(":"):
            places[line[:-1]] = len(instructions)
        else:
            instructions.append(line)
    listing = []
    for i, line in enumerate(instructions):
        *words, last = line.split(" ")
        target = f"{sass.SIZE * places[last]:#x}" if last in places else last
        listing.append(f"        /*{sass.SIZE * i:04x}*/    {' '.join([*words, target])} ;")
    return sass.parse("\n".join(listing))
