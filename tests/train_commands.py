"""The commands that train, on few small pictures."""

from pathlib import Path

import torch

from perceptual_ops import cli
from perceptual_ops.images import write_image

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--weights", "random", "--batch", "2", "--size", "32", "--device", "cpu"]


def write_folder(tmp_path):
    """style.png, a folder of pictures (72 x 60, one of them in a folder below), and text.png, which is no picture."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("style.png", "data/a.png", "data/b.jpg", "data/more/c.png"):
        blocks = torch.rand(3, 12, 10, generator=generator)
        write_image(tmp_path / name, blocks.repeat_interleave(5, 1).repeat_interleave(7, 2)[..., :60, :70])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def train_style(folder, *options, style="style.png", out="model.safetensors", steps="3"):
    command = [
        "train-style",
        str(folder / style),
        "--data",
        str(folder / "data"),
        "-o",
        str(folder / out),
        "--steps",
        steps,
    ]
    return cli.main([*command, "--layers", "relu1_1,relu2_2", *QUICK, *options])


def train_sr(folder, *options, out="sr.safetensors", steps="3"):
    command = ["train-sr", "--data", str(folder / "data"), "-o", str(folder / out), "--scale", "2", "--steps", steps]
    return cli.main([*command, *QUICK, *options])
