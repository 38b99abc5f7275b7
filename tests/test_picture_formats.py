"""What is read as a picture: the formats that are named, by content, whole or damaged, and nothing else."""

import functools
import io
import os
import random
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_ops import images
from perceptual_ops.images import read_image, side_lengths
from perceptual_ops.picture_folder import SUFFIXES

Image.init()
WRITABLE = sorted(Image.SAVE)
RASTER = sorted(set(images.READ_FORMATS.values()) & set(Image.SAVE))
DAMAGED = 36  # variants of a format


@functools.cache
def encoded(name):
    """A picture of 24 x 20 pixels in a format, or nothing where the format takes no such picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    options = {"MPO": {"save_all": True, "append_images": [picture]}}.get(name, {})
    for candidate in (picture, picture.convert("L"), picture.convert("1"), picture.convert("P")):
        stream = io.BytesIO()
        try:
            candidate.save(stream, name, **options)
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        return stream.getvalue()
    return b""


def damaged(whole, count, seed):
    """Zeroed runs, random runs, single bits, and ends that lack."""
    draw = random.Random(seed)
    for number in range(count):
        data, place = bytearray(whole), draw.randrange(len(whole))
        length = draw.choice((1, 4, 8, 32))
        if number % 4 == 0:
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif number % 4 == 1:
            data[place : place + length] = draw.randbytes(len(data[place : place + length]))
        elif number % 4 == 2:
            data[place] ^= 1 << draw.randrange(8)
        else:
            del data[place:]
        yield bytes(data)


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program `gs` that leaves a note of having been started."""
    note, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch "{note}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # to be looked for anew
    return note


@pytest.mark.parametrize("name", WRITABLE)
def test_a_damaged_file_is_a_picture_or_one_sentence(tmp_path, ghostscript, name):
    """Whatever a decoder raises. The name says .png, as content decides."""
    path, whole = tmp_path / "odd.png", encoded(name)
    if not whole:
        pytest.skip("this format takes no such picture")
    refused = 0
    for data in (whole, *damaged(whole, DAMAGED, seed=name)):
        path.write_bytes(data)
        for read in (read_image, lambda file: read_image(file, 16), side_lengths):
            try:
                found = read(path)
            except (OSError, ValueError) as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
            else:
                assert isinstance(found, tuple) or (found.shape[:2] == (1, 3) and found.isfinite().all())
    assert refused > 0
    assert not ghostscript.exists()


@pytest.mark.parametrize("name", RASTER)
@pytest.mark.parametrize("suffix", [".png", ""])
def test_content_decides_not_the_suffix(tmp_path, name, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encoded(name))
    assert read_image(path).shape == (1, 3, 20, 24) and side_lengths(path) == (24, 20)


@pytest.mark.parametrize("name", sorted(set(WRITABLE) - set(RASTER) - {"DIB", "MPO", "MSP"}))
def test_formats_that_are_not_named_are_refused(tmp_path, ghostscript, name):
    path, whole = tmp_path / "odd.png", encoded(name)
    if not whole:
        pytest.skip("this format takes no such picture")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"odd\.png: expected a picture"):
        read_image(path)
    assert not ghostscript.exists()


def test_postscript_never_reaches_a_program(tmp_path, ghostscript):
    lines = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n{} loop\nshowpage\n%%EOF\n"
    for start in (b"", struct.pack("<III20x", 0xC6D3D0C5, 32, len(lines))):  # plain, and in the frame of DOS
        (tmp_path / "odd.png").write_bytes(start + lines.encode())
        for read in (read_image, side_lengths):
            with pytest.raises(
                ValueError, match=r"odd\.png: expected a picture in PNG, JPEG, .*, this file is in none"
            ):
                read(tmp_path / "odd.png")
    assert not ghostscript.exists()


def test_the_pictures_of_phones_are_read(tmp_path):
    """MPO: a JPEG with a second picture behind, which cameras write as .jpg."""
    (tmp_path / "phone.jpg").write_bytes(encoded("MPO"))
    assert Image.open(tmp_path / "phone.jpg").format == "MPO"
    assert read_image(tmp_path / "phone.jpg").shape == (1, 3, 20, 24)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "PA"])
def test_modes_of_a_tiff(tmp_path, mode):
    picture = Image.fromarray(np.full((20, 24), 40000, np.uint16)) if mode == "I;16" else Image.new(mode, (24, 20))
    try:
        picture.save(tmp_path / "x.tif")
    except OSError:
        pytest.skip("no TIFF holds this mode")
    assert read_image(tmp_path / "x.tif").shape == (1, 3, 20, 24)


def test_every_suffix_of_a_folder_names_a_format():
    assert set(images.FORMATS.items()) <= set(images.READ_FORMATS.items())
    assert set(SUFFIXES) == set(images.READ_FORMATS)
    assert set(images.READ_FORMATS.values()) <= set(Image.OPEN)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (RuntimeError("decoder: \n broken"), r"odd\.png: expected a picture, this one is damaged \(decoder: broken\)"),
        (AssertionError(), r"damaged \(AssertionError\)"),
        (MemoryError(), r"odd\.png: expected a picture that fits into memory, this one \(24 x 20 pixels\) does not"),
    ],
)
@pytest.mark.parametrize("step", ["load", "convert", "resize"])
def test_each_step_is_one_sentence(tmp_path, monkeypatch, fault, sentence, step):
    (tmp_path / "odd.png").write_bytes(encoded("PNG"))

    def failing(*arguments, **options):
        raise fault

    monkeypatch.setattr(Image.Image, step, failing)
    if step == "load":
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    with pytest.raises(ValueError, match=sentence):
        read_image(tmp_path / "odd.png", 16)


def test_interruption_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / "odd.png").write_bytes(encoded("PNG"))

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_image(tmp_path / "odd.png")


def test_a_bomb_in_any_format_is_refused(tmp_path, monkeypatch):
    for name in RASTER:
        (tmp_path / "bomb.png").write_bytes(encoded(name))
        for limit in (400, 200):  # beyond the limit Pillow warns, beyond twice the limit it raises
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            for read in (read_image, side_lengths):
                with pytest.raises(ValueError, match=r"bomb\.png: expected a picture of a usual size; .*[^.]$"):
                    read(tmp_path / "bomb.png")


def test_what_the_file_system_refuses(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.png: expected a picture, this is a folder"):
        read_image(tmp_path / "folder.png")
    with pytest.raises(OSError, match="expected a picture, it cannot be opened"):
        read_image(tmp_path / ("x" * 300))
    with pytest.raises(OSError, match=r"expected a picture, it cannot be opened .*null"):
        read_image(f"{tmp_path}/a\0b")
    (tmp_path / "dead.png").symlink_to("missing")
    with pytest.raises(FileNotFoundError, match=r"dead\.png: expected a picture, this is a link to one that is not"):
        read_image(tmp_path / "dead.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png: expected a picture in PNG"):
        read_image(tmp_path / "empty.png")


def test_what_is_no_regular_file_is_refused(tmp_path):
    """To open a named pipe would wait for a writer, for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", "/dev/zero"):
        for read in (read_image, side_lengths):
            with pytest.raises(OSError, match=f"{path}: expected a picture, this is no regular file"):
                read(path)


def test_a_pipe_from_another_program_is_read(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, encoded("PNG"))
    os.close(writer)
    assert read_image(f"/dev/fd/{reader}").shape == (1, 3, 20, 24)
    os.close(reader)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0"])
def test_a_damaged_note_of_a_camera_says_nothing_of_the_pixels(tmp_path, name, exif):
    path, plain = tmp_path / "x.png", Image.open(io.BytesIO(encoded(name)))
    pixels = []
    for note in (b"", exif):
        plain.save(path, name, exif=note, lossless=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert side_lengths(path) == (24, 20)
            pixels.append(read_image(path))
    assert torch.equal(*pixels)
