"""Pictures on disk to tensors and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_ops import images
from perceptual_ops.picture_outputs import check_writable


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def test_round_trip_is_exact(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "in.png")
    image = images.read_image(tmp_path / "in.png")
    assert image.shape == (1, 3, 12, 20) and image.dtype == torch.float32
    assert torch.equal(image[0], torch.tensor(pixels).permute(2, 0, 1) / 255)
    images.write_image(tmp_path / "out.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels)


def test_writing_rounds_and_clamps(tmp_path):
    image = torch.tensor([-1.0, 0.6 / 255, 7.0]).view(3, 1, 1)
    images.write_image(tmp_path / "out.bmp", image)
    assert Image.open(tmp_path / "out.bmp").getpixel((0, 0)) == (0, 1, 255)


def test_camera_orientation_is_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter turn clockwise shows the picture upright
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(pixels, -1).copy()
    assert torch.equal(images.read_image(tmp_path / "turned.png")[0], torch.tensor(upright).permute(2, 0, 1) / 255)


def test_transparency_is_composited_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(images.read_image(tmp_path / "clear.png"), torch.ones(1, 3, 2, 2))
    Image.new("LA", (2, 2), (0, 51)).save(tmp_path / "faint.png")
    assert torch.allclose(images.read_image(tmp_path / "faint.png"), torch.full((1, 3, 2, 2), 0.8))


def test_grey_fills_three_channels(tmp_path, pixels):
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    image = images.read_image(tmp_path / "grey.png")
    assert torch.equal(image, (torch.tensor(pixels[..., 0]) / 255).expand(1, 3, -1, -1))


def test_sixteen_bits_keep_their_precision(tmp_path):
    values = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = torch.tensor(values.astype(np.float32)) / 65535
    assert torch.allclose(images.read_image(tmp_path / "deep.png")[0, 0], expected, rtol=1e-6, atol=0)


def test_size_is_the_longer_side(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert images.read_image(tmp_path / "wide.png", 10).shape == (1, 3, 6, 10)
    Image.fromarray(pixels.transpose(1, 0, 2).copy()).save(tmp_path / "tall.png")
    assert images.read_image(tmp_path / "tall.png", 40).shape == (1, 3, 40, 24)
    assert images.read_image(tmp_path / "tall.png", (9, 30)).shape == (1, 3, 9, 30)


def test_resized_sixteen_bits_stay_in_range(tmp_path):
    edge = np.zeros((16, 16), dtype=np.uint16)
    edge[:, 8:] = 65535  # Lanczos overshoots here
    Image.fromarray(edge).save(tmp_path / "edge.png")
    image = images.read_image(tmp_path / "edge.png", 40)
    assert image.min() == 0 and image.max() == 1


@pytest.mark.parametrize("size", [0, -1, images.MAX_SIDE + 1, 2.5, True])
def test_impossible_sizes_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match="size: expected 1 to"):
        images.read_image(tmp_path / "any.png", size)


def test_what_is_no_picture_is_refused(tmp_path, pixels):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tiff")
    for name, message in [("text.png", "in none of them"), ("half.png", "damaged"), ("float.tiff", "8 or 16 bits")]:
        with pytest.raises(ValueError, match=message):
            images.read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file"):
        images.read_image(tmp_path / "missing.png")


def test_huge_picture_is_refused_without_a_warning(tmp_path, pixels, monkeypatch, recwarn):
    Image.fromarray(pixels).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ValueError, match="usual size"):
        images.read_image(tmp_path / "huge.png")
    assert not recwarn.list


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, 1, 2, 2), torch.zeros(3, 2)]
)
def test_tensors_that_are_no_pictures_are_refused(tmp_path, bad):
    with pytest.raises((TypeError, ValueError), match="image: expected"):
        images.write_image(tmp_path / "out.png", bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pictures_of_no_numbers_are_refused(tmp_path, bad):
    image = torch.zeros(3, 2, 2)
    image[1, 0, 1] = bad
    with pytest.raises(ValueError, match="image: expected numbers"):
        images.write_image(tmp_path / "out.png", image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, fault):
    (tmp_path / "out.png").write_bytes(b"old")

    def half_written(self, file, *arguments, **options):
        file.write(b"half")
        raise fault

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(type(fault)):
        images.write_image(tmp_path / "out.png", torch.zeros(3, 2, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"old"


def test_checking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "out.png")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.png").mkdir()
    for path, error in [("no/out.png", FileNotFoundError), ("out.xyz", ValueError), ("folder.png", IsADirectoryError)]:
        with pytest.raises(error, match="expected"):
            check_writable(tmp_path / path)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_an_output_replaces_a_picture_and_nothing_else(tmp_path):
    images.write_image(tmp_path / "in.png", torch.zeros(3, 2, 2))
    images.write_image(tmp_path / "earlier.png", torch.zeros(3, 2, 2))
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "link.png").symlink_to("in.png")
    (tmp_path / "dangling.png").symlink_to("new.png")
    for name in ("new.png", "earlier.png", "empty.png", "dangling.png"):
        check_writable(tmp_path / name, [tmp_path / "in.png"])
    with pytest.raises(FileExistsError, match=r"notes\.png: expected a new name or an earlier result"):
        check_writable(tmp_path / "notes.png")
    for name in ("in.png", "link.png"):
        with pytest.raises(ValueError, match=f"{name}: expected a place where no input is"):
            check_writable(tmp_path / name, [tmp_path / "in.png"])
