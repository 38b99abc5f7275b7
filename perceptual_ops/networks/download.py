"""A file from a server, whole and of the expected hash. A server that falls silent is given up."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

from torch import hub

SILENCE = 60  # seconds after which a server that sends nothing more is given up
BLOCK = 1 << 20  # bytes


class WrongHash(ValueError):
    """The file that came is another one."""


def download(url: str, path: Path, digits: str, progress: bool) -> None:
    """Fetches a file to `path`, where nothing changes before all of it has come. A caller's own limit of sockets stays.

    Args:
        digits: the first ones of its SHA-256.
        progress: whether a bar is drawn on stderr, as torch.hub draws it: by tqdm where that is installed.

    Raises:
        OSError, HTTPException: it cannot be had, or not written; not all of it came.
        WrongHash: another file came.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    request = Request(url, headers={"User-Agent": "perceptual_ops"})
    found = hashlib.sha256()
    try:
        with urlopen(request, timeout=socket.getdefaulttimeout() or SILENCE) as answer, part.open("xb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with hub.tqdm(  # type: ignore[attr-defined]  # torchvision takes it from there, too
                total=size or None, disable=not progress, unit="B", unit_scale=True, unit_divisor=1024
            ) as bar:
                while block := answer.read(BLOCK):
                    file.write(block)
                    found.update(block)
                    bar.update(len(block))
            if file.tell() < size:
                raise ConnectionError(f"the connection ended after {file.tell():,} of {size:,} bytes")
        if not found.hexdigest().startswith(digits):
            raise WrongHash(f"its SHA-256 is {found.hexdigest()}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
