"""Weight files: reads them, and refuses damaged ones and non-finite values."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
OTHER_FILE = "pass a file that torch.save or safetensors wrote"


def checked_path(argument: str, given: str | os.PathLike[str], names: str) -> Path:
    """The path of a checkpoint that is there; `names` says what else the argument may be."""
    path = Path(given).expanduser()
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise ValueError(
            f"{argument}: expected {names}, a path that ends with {', '.join(CHECKPOINT_SUFFIXES)}, "
            f"or a state dict, got {os.fspath(given)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: expected the path of a file, there is no file at {path.absolute()}")
    return path


def read_checkpoint(path: Path, remedy: str) -> object:
    """What a .pth, .pt or .safetensors file holds; the remedy ends the error of one that cannot be read."""
    damaged = None
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        damaged = _damaged_record(path)
        if not damaged:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (ImportError, PermissionError):  # their own sentence says it
        raise
    except Exception as error:  # damaged bytes can raise anything in the readers
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes): expected a state dict, "
            f"got a file whose reading failed with {type(error).__name__}; {remedy}"
        ) from error
    raise ValueError(
        f"{path} ({path.stat().st_size} bytes): expected a file as it was written, got a damaged one, "
        f"whose record {damaged} has a wrong CRC; {remedy}"
    )


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuses NaN and infinity.

    Args:
        tensors: of any shape, by the name that the error gives.
        origin: what the error calls the file, or whatever else they came in.

    Raises:
        ValueError: a tensor holds NaN or infinity; the message names it.
    """
    for name, tensor in tensors.items():
        # A finite sum has finite terms, and takes a tenth of the time of isfinite on each.
        if not tensor.sum().isfinite() and not (finite := tensor.isfinite()).all():
            count = tensor.numel() - int(finite.sum())
            raise ValueError(
                f"{name} in {origin}: expected finite numbers, got NaN or infinity in {count} of {tensor.numel()}; "
                "use weights without"
            )


def check_finite_state(state: Mapping[str, object], network: nn.Module, origin: str) -> None:
    """`check_finite` for the state of a network, whose buffers may hold infinities: those of a mask are meant.

    Args:
        state: as of `network.state_dict()`.
        network: says which of them are buffers.
        origin: as in `check_finite`.
    """
    buffers = {name for name, _ in network.named_buffers(remove_duplicate=False)}
    dense = {name: x for name, x in state.items() if isinstance(x, Tensor) and x.layout == torch.strided}
    numbers = {name: x for name, x in dense.items() if x.is_floating_point() or x.is_complex()}
    check_finite({name: x[~x.isinf()] if name in buffers else x for name, x in numbers.items()}, origin)


def check_hash(path: Path, expected: str, remedy: str) -> None:
    """Refuses a file whose SHA-256 does not begin with the digits `expected`; the remedy ends the error."""
    status = path.stat()
    digest = _sha256(path.absolute(), status.st_size, status.st_mtime_ns)
    if not digest.startswith(expected):
        raise ValueError(
            f"{path} ({status.st_size} bytes): expected the file whose SHA-256 begins with {expected}, "
            f"got one with {digest}; {remedy}"
        )


@functools.lru_cache
def _sha256(path: Path, size: int, modified: int) -> str:
    """The SHA-256 of a file, once for each of its sizes and times (ns) in a process."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """The digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _damaged_record(path: Path) -> str | None:
    """The first record of a torch.save file whose bytes are not those its CRC-32 is of; torch.load does not look."""
    if not zipfile.is_zipfile(path):  # what torch.save wrote before torch 1.6 has no checksums
        return None
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(record.CRC for record in archive.infolist())
        return archive.testzip() if has_checksums else None  # set_crc32_options(False) of torch writes zeros


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path} needs the package safetensors: pip install safetensors, or pass the state dict itself"
        ) from error
    return load_file(path)
