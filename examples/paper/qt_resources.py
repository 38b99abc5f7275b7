"""`python3 qt_resources.py FILE OUT`: writes the pictures inside a file of Qt resources (.rcc) into a folder."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

DIRECTORY, PACKED = 2, 1 | 4  # flags of an entry; 1 and 4 are zlib and zstd, which pictures do not need
ENTRY = {1: 14, 2: 22, 3: 22}  # bytes of an entry by version; the last eight of 22 are a time


def entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that is not packed.

    Version and three offsets follow the mark "qres": of the tree of entries, the contents and the names. All numbers
    are big-endian. An entry has the offset of its name, flags, and for a directory how many entries it has and which is
    the first, for a file eight bytes that end with the offset of its content.
    """
    mark, version, tree, contents, names = struct.unpack_from(">4s4I", data)
    if mark != b"qres" or version not in ENTRY:
        raise ValueError(f"expected Qt resources of version 1 to 3, got {mark!r} and version {version}")

    def files(first: int, count: int) -> Iterator[tuple[str, bytes]]:
        for number in range(first, first + count):
            name_at, flags, one, other = struct.unpack_from(">IHII", data, tree + number * ENTRY[version])
            if flags & DIRECTORY:
                yield from files(other, one)
            elif not flags & PACKED:
                length = struct.unpack_from(">H", data, names + name_at)[0]
                name = data[names + name_at + 6 :][: 2 * length].decode("utf-16-be")  # after its length and a hash
                size = struct.unpack_from(">I", data, contents + other)[0]
                yield name, data[contents + other + 4 :][:size]

    return files(0, 1)


if __name__ == "__main__":
    for file_name, content in entries(Path(sys.argv[1]).read_bytes()):
        if file_name.endswith((".webp", ".jpg")):
            (Path(sys.argv[2]) / file_name).write_bytes(content)
