"""Pictures on disk to tensors and back; needs Pillow and numpy, the extra [cli]."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from ._failures import is_out_of_memory, reason
from .files import PathLike, write_whole

if TYPE_CHECKING:
    from PIL import Image

# What a picture may be written as. Pillow knows more suffixes, but those either lose most of the picture (GIF, ICO) or
# are no picture (PDF).
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# What is read: those, and others that data sets come in. No more, as some of Pillow's readers start other programs
# (Ghostscript, for PostScript). The phones' MPO is read as the JPEG that it begins with.
READ_FORMATS = {
    **FORMATS,
    ".avif": "AVIF",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
    ".pgm": "PPM",
    ".ppm": "PPM",
    ".tga": "TGA",
}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Full-resolution chroma: stylised pictures carry their detail in the colour too.
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
SOFTWARE = "perceptual_ops"  # by which a picture that was written here is known
EXIF_SOFTWARE = 0x0131
BAND = 256  # rows of a picture that are worked on at a time
MAX_SIDE = 8192  # pixels; without tiles VGG16's first two layers alone take 34 GB there


def read_image(path: PathLike, size: int | tuple[int, int] | None = None) -> Tensor:
    """A picture as (1, 3, H, W) fp32 in [0, 1].

    The orientation a camera noted (EXIF) is applied, if the note can be read, transparency is composited on white, grey
    is repeated to three channels, and 16 bits of grey keep their precision.

    Args:
        path: A file of one of `READ_FORMATS`, whatever its suffix.
        size: Pixels of the longer side; the other keeps the aspect (Lanczos filter). Or both, (H, W). None: as it is.

    Raises:
        ValueError: A size out of range; a file that is no picture, is damaged or is too large.
        OSError: No such file, or no permission to read it.
        ModuleNotFoundError: Pillow or numpy is not installed.
    """
    if size is not None and not isinstance(size, tuple):
        check_size(size)
    check_installed()
    from PIL import Image

    with _opened(path) as file:
        image = _plain(_upright(file))
        if size is not None:
            fitted = (size[1], size[0]) if isinstance(size, tuple) else _fitted(image.size, size)
            image = image.resize(fitted, Image.Resampling.LANCZOS)
        return _to_tensor(image)


def side_lengths(path: PathLike) -> tuple[int, int]:
    """The sides of a picture in pixels, (W, H) as the file says, without reading the rest. Raises as `read_image`."""
    check_installed()
    with _opened(path) as file:
        return file.size


def write_image(path: PathLike, image: Tensor) -> None:
    """Writes a picture whole or not at all: a file that is already there stays until the new one is complete.

    Args:
        path: Its suffix says the format, see `FORMATS`.
        image: (1, 3, H, W) or (3, H, W) in [0, 1]; values beyond are clamped, rounded to 8 bits.

    Raises:
        TypeError, ValueError: Not a picture, one with NaN or infinity, or an unknown suffix.
        OSError: As `write_whole`.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        raise TypeError(
            f"image: expected a floating-point tensor in [0, 1], got {getattr(image, 'dtype', type(image))}"
        )
    shape = tuple(image.shape)
    if shape[-3:-2] != (3,) or image.dim() not in (3, 4) or (image.dim() == 4 and shape[0] != 1) or 0 in shape:
        raise ValueError(f"image: expected shape (3, H, W) or (1, 3, H, W), got {shape}")
    save_picture(path, to_picture(image))


def to_picture(image: Tensor) -> Image.Image:
    """(1, 3, H, W) or (3, H, W) in [0, 1] -> Pillow's 8-bit RGB. ValueError where there is NaN or infinity."""
    check_installed()
    from PIL import Image

    height, width = image.shape[-2:]
    pixels = torch.empty(height, width, 3, dtype=torch.uint8)
    bands = image.detach().reshape(3, height, width).split(BAND, dim=1), pixels.split(BAND)
    for band, written in zip(*bands, strict=True):  # or what lies between would take several times the picture
        if not band.isfinite().all():
            raise ValueError("image: expected numbers in [0, 1], got NaN or infinity")
        written.copy_(band.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0))
    return Image.fromarray(pixels.numpy())


def drawable(text: str) -> str:
    """A text as fonts take it: bytes of a file's name that are no UTF-8 become question marks."""
    return text.encode(errors="replace").decode()


def save_picture(path: PathLike, picture: Image.Image, software: str = SOFTWARE) -> None:
    """Writes Pillow's image as `write_image` does, with a note of what made it, for `software_of`; BMP holds none."""
    picture_format, encoded = format_of(path), io.BytesIO()
    picture.save(encoded, picture_format, **SAVE_OPTIONS.get(picture_format, {}), **_note(picture_format, software))
    write_whole(path, encoded.getbuffer())


def _note(picture_format: str, software: str) -> dict[str, Any]:
    """What Pillow needs to write it: as text in a PNG, as EXIF elsewhere."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if picture_format == "PNG":
        text = PngInfo()
        text.add_text("Software", software)
        return {"pnginfo": text}
    exif = Image.Exif()
    exif[EXIF_SOFTWARE] = software
    return {"exif": exif}


def software_of(path: PathLike) -> str:
    """What a picture says made it, if it does. Raises as `read_image`."""
    check_installed()
    with _opened(path) as file:
        return str(file.info.get("Software") or file.getexif().get(EXIF_SOFTWARE, ""))


def check_size(size: object) -> int:
    """The pixels of a longer side as they are, if they are."""
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"size: expected 1 to {MAX_SIDE} pixels for the longer side, got {size!r}")
    return size


class _Unsuitable(Exception):
    """What is wrong with a picture that is whole."""


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[Image.Image]:
    """The picture, lazily read; one sentence for whatever is wrong with its file or comes up while it is used."""
    from PIL import Image, UnidentifiedImageError

    name, formats, sides = os.fspath(path), _readable_formats(), ""
    with _open_file(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, on metadata that it cannot read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(stream, formats=formats) as picture:
                sides = f" ({picture.width} x {picture.height} pixels)"
                yield picture
        except _Unsuitable as error:
            raise ValueError(f"{name}: {error}") from None
        except UnidentifiedImageError:
            known = f"{', '.join(formats[:-1])} or {formats[-1]}"
            raise ValueError(f"{name}: expected a picture in {known}, this file is in none of them") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"{name}: expected a picture of a usual size; {reason(error).rstrip('.')}") from None
        except Exception as error:  # damaged bytes make decoders raise whatever they like
            if is_out_of_memory(error):
                wanted = "expected a picture that fits into memory"
                raise ValueError(f"{name}: {wanted}, this one{sides} does not") from None
            raise ValueError(f"{name}: expected a picture, this one is damaged ({reason(error)})") from None


def _open_file(path: PathLike) -> BinaryIO:
    """A regular file, or a pipe of this process such as /dev/stdin; to open any other could wait for ever."""
    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(path))):
            return open(path, "rb")
    except FileNotFoundError:
        what = "this is a link to one that is not there" if os.path.islink(path) else "there is no such file"
        raise FileNotFoundError(f"{name}: expected a picture, {what}") from None
    except PermissionError:
        raise PermissionError(f"{name}: expected a picture, there is no permission to read it") from None
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name}: expected a picture, it cannot be opened ({getattr(error, 'strerror', '') or error})"
        ) from None
    if stat.S_ISDIR(mode):
        raise FileNotFoundError(f"{name}: expected a picture, this is a folder")
    raise OSError(f"{name}: expected a picture, this is no regular file but a device, a socket or a named pipe")


def _readable_formats() -> list[str]:
    """Of `READ_FORMATS` those that this Pillow reads, once each."""
    from PIL import Image

    Image.init()  # loads the plugins, so that OPEN is complete
    return [name for name in dict.fromkeys(READ_FORMATS.values()) if name in Image.OPEN]


def format_of(path: PathLike) -> str:
    """The format that the suffix says. ValueError for one that is not written."""
    from PIL import Image

    Image.init()  # loads the plugins, so that SAVE is complete
    suffixes = [suffix for suffix, name in FORMATS.items() if name in Image.SAVE]
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"{os.fspath(path)}: expected a name that ends with {', '.join(suffixes)}; got {suffix!r}")
    return FORMATS[suffix]


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its camera noted; as it lies where the note is damaged, which says nothing of the pixels."""
    from PIL import ImageOps

    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # as in `_opened`
        if is_out_of_memory(error):
            raise
        return picture


def _plain(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as "RGB", or as "F" in [0, 1] for grey of 16 bits."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # "I;16" and its kin; some 16-bit files come as 32-bit "I"
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise _Unsuitable("expected 8 or 16 bits a channel, got 32; save it as one of those")
        return Image.fromarray(values / 65535)
    if image.mode == "F":
        raise _Unsuitable("expected 8 or 16 bits a channel, got floating point; save it as one of those")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _fitted(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(W, H) whose longer side is `size`, with the aspect of `shape`."""
    longer = max(shape)
    return max(1, round(shape[0] * size / longer)), max(1, round(shape[1] * size / longer))


def _to_tensor(image: Image.Image) -> Tensor:
    """ "RGB" or "F" -> (1, 3, H, W) fp32 in [0, 1]."""
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    if image.mode == "F":
        return pixels.clamp(0, 1).expand(1, 3, -1, -1).contiguous()  # Lanczos overshoots at edges
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous().float().div_(255)


def check_installed() -> None:
    """ModuleNotFoundError without what pictures need."""
    if any(find_spec(package) is None for package in ("numpy", "PIL")):
        raise ModuleNotFoundError(
            "pictures need Pillow and numpy, which are not both installed: pip install 'perceptual_ops[cli]'"
        )


def check_matplotlib(what: str) -> None:
    """ModuleNotFoundError without matplotlib, which `what` is drawn by."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{what} needs matplotlib, which is not installed: pip install 'perceptual_ops[cli]'")
