"""Progress bars of the commands: the time that is left, on a terminal or where they are asked for."""

import io
import sys

import pytest
import torch
from tqdm import tqdm

from perceptual_ops import cli
from perceptual_ops.cli import progress
from perceptual_ops.cli.progress import progress_bar, step_bar
from perceptual_ops.images import write_image
from perceptual_ops.recipes import SuperResolutionNet, save_model


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A time that passes as a test says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """What bars tell the time by."""
    clock = Clock()

    class Timed(tqdm):
        def __init__(self, **settings):
            super().__init__(**settings, mininterval=0)
            self._time, self.start_t, self.last_print_t = clock, clock.now, clock.now

    monkeypatch.setattr(progress, "_tqdm", lambda: Timed)
    return clock


def last(captured):
    return captured.err.split("\r")[-1].strip()


@pytest.mark.parametrize(("stream", "wanted", "shown"), [
    (Terminal, None, True), (io.StringIO, None, False), (Terminal, False, False), (io.StringIO, True, True),
])  # fmt: skip
def test_a_bar_is_shown_on_a_terminal_or_where_it_is_asked_for(monkeypatch, stream, wanted, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(2, wanted) as reach:
        assert sys.stderr.getvalue() == ""  # it begins with the first call
        reach(2, "2/2")
    assert ("100%" in sys.stderr.getvalue()) == shown


def test_no_bar_where_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with step_bar(1) as show:
        show(1, {})


def test_the_time_that_is_left_counts_what_steps_cost(clock, capsys):
    """Two short steps and two of four times as long: of a first step of 10 s, 90 s are left."""
    with step_bar(4, True, costs=[(2, 1.0), (2, 4.0)]) as show:
        show(1, {"loss": 0.5, "step": 1.0, "style/relu1_1": 2.0})
        clock.now = 10.0
        show(2, {"loss": 0.25})
        assert "20%" in (line := last(capsys.readouterr())) and "2/4 [00:10<01:20, loss=0.25]" in line
        clock.now = 50.0
        show(3, {})
        assert "60%" in (line := last(capsys.readouterr())) and "3/4 [00:50<00:40]" in line
        show(5, {})  # more than were meant
        assert "100%" in (line := last(capsys.readouterr())) and "5/5" in line


def test_what_was_done_before_does_not_count_for_the_speed(clock, capsys):
    with step_bar(100, True) as show:
        show(90, {})
        clock.now = 10.0
        show(91, {})
        assert "91/100 [00:10<01:30]" in last(capsys.readouterr())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_model(tmp_path / "sr.safetensors", SuperResolutionNet(2, 2, 0), "super-resolution", 2)
    write_image(tmp_path / "in.png", torch.rand(3, 40, 70))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("options", "shown"), [((), False), (("--progress",), True), (("--no-progress",), False)])
def test_tiles_of_one_picture_move_the_bar(folder, capsys, options, shown):
    assert cli.main(["upscale", "sr.safetensors", "in.png", "out.png", "--tile", "20", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out.png\n"
    assert ("100%" in captured.err) == shown and (captured.err == "") == (not shown)


def test_every_long_command_has_the_option(capsys):
    for command in ("stylize", "train-style", "train-sr", "apply", "upscale", "invert", "compare"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        assert "--progress, --no-progress" in capsys.readouterr().out
