"""Downloads a file completely and checks its hash; stops waiting for a silent server."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

from torch import hub

SILENCE = 60  # seconds without data after which a download fails
BLOCK = 1 << 20  # bytes


class WrongHash(ValueError):
    """The file has another hash."""


def download(url: str, path: Path, digits: str, progress: bool) -> None:
    """Downloads to `path`, which changes only when the file is complete. The global socket timeout is left alone.

    Args:
        digits: the first ones of its SHA-256.
        progress: whether a bar is drawn on stderr, as torch.hub draws it: by tqdm where that is installed.

    Raises:
        OSError, HTTPException: the download failed or was cut short, or the file cannot be written.
        WrongHash: the file has another hash.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    request = Request(url, headers={"User-Agent": "perceptual_ops"})
    digest = hashlib.sha256()
    try:
        with urlopen(request, timeout=socket.getdefaulttimeout() or SILENCE) as answer, part.open("xb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with hub.tqdm(  # type: ignore[attr-defined]  # torchvision takes it from there, too
                total=size or None, disable=not progress, unit="B", unit_scale=True, unit_divisor=1024
            ) as bar:
                while block := answer.read(BLOCK):
                    file.write(block)
                    digest.update(block)
                    bar.update(len(block))
            if file.tell() < size:
                raise ConnectionError(f"the connection ended after {file.tell():,} of {size:,} bytes")
        if not digest.hexdigest().startswith(digits):
            raise WrongHash(f"its SHA-256 is {digest.hexdigest()}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
