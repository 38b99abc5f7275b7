"""Numbers for commands: out of range they are refused, and a run that diverges says so and writes nothing."""

import pytest
import torch

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import (
    DivergenceError,
    TrainingOptions,
    inversion,
    invert,
    style_transfer,
    style_transfer_loss,
    stylize,
)

LAYERS = {"content_layers": ("relu1_2",), "style_layers": ("relu1_1",)}
STYLIZE = "stylize photo.png photo.png -o out.png --size 32 --weights random --layers relu1_1 --content-layers relu1_2"
INVERT = "invert photo.png -o out.png --size 32 --weights random --layers relu1_1"
TRAIN = "--data data -o out.safetensors --weights random --batch 2 --size 32"
COMMANDS = {
    "stylize": STYLIZE,
    "invert": INVERT,
    "train-style": f"train-style photo.png {TRAIN} --layers relu1_1 --content-layers relu1_1",
    "train-sr": f"train-sr {TRAIN} --scale 2 --loss pixel",
    "apply": "apply model photo.png out.png",
    "compare": "compare photo.png photo.png",
}
WHOLE = ("nan", "inf", "1.5", "-1", "", "1e3", str(2**64), "9" * 5000)
NUMBER = ("nan", "inf", "-inf", "-1", "1e39", "1e308", "many")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    blocks = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(0))
    (tmp_path / "data").mkdir()
    for name in ("photo.png", "data/a.png"):
        write_image(tmp_path / name, blocks.repeat_interleave(4, 1).repeat_interleave(4, 2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("out"))


@pytest.mark.parametrize(
    ("commands", "option", "values"),
    [
        ("stylize invert train-style train-sr", "--seed", WHOLE),
        ("stylize invert train-style train-sr", "--steps", (*WHOLE, "0")),
        ("stylize invert train-style train-sr apply compare", "--size", (*WHOLE, "0")),
        ("stylize", "--scales", (*WHOLE, "0")),
        ("train-style train-sr apply", "--batch", (*WHOLE, "0")),
        ("train-style train-sr", "--save-every", (*WHOLE, "0")),
        ("train-style train-sr", "--workers", WHOLE),
        ("train-style", "--style-size", (*WHOLE, "0")),
        ("train-sr", "--scale", ("3", "nan", "-2")),
        ("stylize train-style", "--style-weight", (*NUMBER, "0", "1e-50")),
        ("stylize invert train-style", "--tv-weight", NUMBER),
        ("train-style train-sr", "--lr", (*NUMBER, "0", "1e-50", "1e38")),
        ("compare", "--max", (*NUMBER, "0", "1e-50")),
    ],
)
def test_a_number_out_of_range_is_one_sentence(folder, capsys, commands, option, values):
    for command in commands.split():
        for value in values:
            assert cli.main([*COMMANDS[command].split(), f"{option}={value}"]) == 2, (command, value)
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("perceptual-ops: ") and option in line and len(line) < 250
    assert left(folder) == []


@pytest.mark.parametrize("command", ["stylize", "invert", "train-style", "train-sr", "apply", "compare"])
@pytest.mark.parametrize(
    "device", ["banana", "meta", "mps", "hpu", "cpu:-1", "", *([] if torch.cuda.is_available() else ["cuda"])]
)
def test_a_device_that_is_not_there(folder, capsys, command, device):
    assert cli.main([*COMMANDS[command].split(), f"--device={device}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("perceptual-ops: --device: expected one that torch can use, got") and len(line) < 300
    assert left(folder) == []


@pytest.fixture
def faint(monkeypatch):
    """Pictures that excite next to nothing, by which the weights of a loss are divided."""
    measured = style_transfer.energies_of

    def energies_of(*arguments):
        return {layer: 1e-30 * energy for layer, energy in measured(*arguments).items()}

    monkeypatch.setattr(style_transfer, "energies_of", energies_of)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("command", [STYLIZE, f"{STYLIZE} --size 96 --scales 2 --init noise", INVERT])
def test_a_picture_that_diverges_is_not_written(folder, capsys, monkeypatch, faint, command, optimizer):
    monkeypatch.setattr(inversion, "noise_like", lambda picture, seed: torch.full_like(picture, torch.nan))
    heavy = ["--style-weight", "3e38"] if "stylize" in command else []
    assert cli.main([*command.split(), *heavy, "--steps", "3", "--optimizer", optimizer]) == 1
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert captured.out == "" and "no number any more at evaluation" in last and last.startswith("perceptual-ops: ")
    assert left(folder) == []


@pytest.mark.parametrize(
    ("command", "option", "steps"),
    [
        ("train-style", "--lr=1e30", 2),
        ("train-style", "--lr=1e30", 4),
        ("train-style", "--style-weight=3e38", 2),
        ("train-sr", "--lr=1e30", 2),
        ("train-sr", "--lr=1e30", 4),
    ],
)
def test_a_training_that_diverges_writes_no_model(folder, capsys, faint, command, option, steps):
    assert cli.main([*COMMANDS[command].split(), option, f"--steps={steps}", "--save-every=3"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("perceptual-ops: ") and "any more" in last and "step" in last
    assert left(folder) == []


@pytest.fixture
def picture():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_recipes_raise_one_exception(picture, faint):
    loss = style_transfer_loss(picture, picture.flip(3), weights="random", **LAYERS)
    loss.style_weight = 3e38
    for optimizer in ("lbfgs", "adam"):
        with pytest.raises(DivergenceError, match="no number any more at evaluation"):
            stylize(picture, picture.flip(3), loss=loss, steps=3, optimizer=optimizer)


def test_a_last_step_that_runs_away(picture, monkeypatch):
    loss = style_transfer_loss(picture, picture.flip(3), weights="random", **LAYERS)
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda optimizer: optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)
    )
    with pytest.raises(DivergenceError, match="the picture is no numbers any more after 1 evaluations"):
        stylize(picture, picture.flip(3), loss=loss, steps=1, optimizer="adam")


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None])
def test_seeds_of_recipes(picture, seed):
    loss = style_transfer_loss(picture, picture, weights="random", **LAYERS)
    for run in (
        lambda: stylize(picture, picture, loss=loss, seed=seed),
        lambda: invert(picture, "relu1_1", weights="random", seed=seed),
        lambda: TrainingOptions(seed=seed),
    ):
        with pytest.raises(ValueError, match="seed: expected a whole number"):
            run()
    assert TrainingOptions(seed=2**64 - 1).seed == 2**64 - 1


@pytest.mark.parametrize("weight", [-1.0, 1e39, float("nan")])
def test_weights_of_recipes(picture, weight):
    for name in ("style_weight", "tv_weight"):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            style_transfer_loss(picture, picture, weights="random", **LAYERS, **{name: weight})
    with pytest.raises(ValueError, match="lr: expected at most 1"):
        invert(picture, "relu1_1", weights="random", optimizer="adam", lr=1e30)
