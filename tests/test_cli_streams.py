"""What commands do where stdout and stderr are closed, full, read by nobody or of few letters, and at Ctrl-C."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perceptual_ops import cli
from perceptual_ops._native import native
from perceptual_ops.images import read_image, write_image

ROOT = Path(__file__).resolve().parent.parent
of_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and streams of POSIX")
of_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no UTF-8")
STYLIZE = (
    "stylize in.png in.png -o out.png --weights random --steps 2 --size 24 --layers relu1_1 --content-layers relu1_2"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_image(tmp_path / "in.png", torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(*arguments, path=(), **settings):
    paths = os.pathsep.join([*map(str, path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, timeout=600, **settings)


SWALLOWING = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    pass
"""


@of_posix
@pytest.mark.parametrize("how", ["module", "script"])
def test_ctrl_c_while_torch_is_imported(tmp_path, how):
    """A torch that swallows it; by `python -m`, and by the script that pip installs."""
    (tmp_path / "torch.py").write_text(SWALLOWING)
    script = tmp_path / "perceptual-ops"
    script.write_text("from perceptual_ops.cli import main\nraise SystemExit(main())\n")
    command = ["-m", "perceptual_ops"] if how == "module" else [str(script)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup, say, has it ignored here and below
    try:
        done = program(*command, "doctor", path=[tmp_path], capture_output=True, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == -signal.SIGINT  # which a shell shows as 130
    assert done.stdout == "" and done.stderr == "perceptual-ops: interrupted, nothing was written\n"


def test_other_programs_keep_their_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    done = program("-c", "import perceptual_ops", path=[tmp_path], capture_output=True, text=True)
    assert "Traceback" in done.stderr


@of_posix
def test_closed_streams(folder):
    """The picture is whole: no file takes the number of a closed stream, into which libraries write."""
    command = f'exec "{sys.executable}" -m perceptual_ops {STYLIZE} <&- >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", command], env=environment, timeout=600)
    assert done.returncode == 0
    assert read_image("out.png").shape == (1, 3, 24, 24)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_behind_stdout(capsys, buffered):
    """Also where Python is to write at once, as under PYTHONUNBUFFERED."""
    raw = open("/dev/full", "wb", buffering=-1 if buffered else 0)  # noqa: SIM115
    with io.TextIOWrapper(raw, write_through=not buffered) as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="2"):
            cli.main(["--version"])
    assert capsys.readouterr().err == (
        "perceptual-ops: stdout: expected a place to write to, it cannot be written (No space left on device)\n"
    )


@of_posix
@pytest.mark.parametrize("arguments", [["doctor"], ["--version"], ["stylize", "--help"]])
def test_nobody_reads_stdout(capsys, monkeypatch, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(arguments) == 141
    assert capsys.readouterr().err == ""


@of_posix
def test_nobody_reads_stderr(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main(["stylize"]) == 141


@of_linux
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_of_any_letters_are_printed_as_they_are_on_disk(folder, monkeypatch, encoding):
    """Of bytes that are no UTF-8, too: the path that is printed is the path that is there."""
    for name in (b"caf\xc3\xa9.png", b"caf\xff.png", "画.png".encode()):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        path = os.fsdecode(name)
        assert cli.main(["apply", "model", path, path]) == 2  # whose error is written to stderr
        assert cli.main([*STYLIZE.replace("out.png", path).split(), "--steps=1"]) == 0
        printed = out.getvalue().rstrip(b"\n")
        assert Path(path).exists()
        assert printed == (name if encoding != "latin-1" or b"\xc3" not in name else "café.png".encode("latin-1"))


@of_linux
def test_folders_and_trainings_of_any_letters(folder, monkeypatch):
    """Maps, tables, logs and plots of names that are no UTF-8."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    data = folder / os.fsdecode(b"d\xff")
    data.mkdir()
    blocks = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 1)
    for name in (b"caf\xff.png", b"caf\xc3\xa9.png"):
        write_image(data / os.fsdecode(name), blocks.repeat_interleave(4, 2))
    places = ["--map", str(data.with_name("maps")), "--csv", os.fsdecode(b"t\xff.csv")]
    compared = [
        "compare",
        str(data),
        str(data),
        "--metric",
        "content",
        "--layers",
        "relu1_1",
        "--weights",
        "random",
        *places,
    ]
    assert cli.main(compared) == 0
    assert b"caf\xff.png" in Path(os.fsdecode(b"t\xff.csv")).read_bytes()
    model = os.fsdecode(b"m\xff$_$.safetensors")
    trained = ["train-sr", "--data", str(data), "-o", model, "--loss", "pixel", "--scale", "2", "--size", "32"]
    assert cli.main([*trained, "--steps", "1", "--batch", "1"]) == 0
    Path(model).rename("m.safetensors")  # safetensors opens names of UTF-8 alone
    assert cli.main(["upscale", "m.safetensors", str(data), os.fsdecode(b"up\xff")]) == 0
    assert len(list(Path(os.fsdecode(b"up\xff")).iterdir())) == 2


@of_posix  # Windows has no such names
@pytest.mark.parametrize("name", ["no\x1b[2J.png", "no\x07\x9b.png", "no\n\r.png", "no\u202e.png", "no\u2028x.png"])
def test_control_characters_of_names_do_not_reach_the_terminal(folder, capsys, name):
    for command in (["invert", name, "-o", "out.png"], ["stylize", "in.png", name, "-o", "out.png"], [name]):
        assert cli.main(command) == 2
        (line, rest) = capsys.readouterr().err.split("\n")
        assert line.isprintable() and rest == "" and "no" in line
    (folder / "data").mkdir()
    (folder / "data" / name).write_text("no picture")
    write_image(folder / "data" / "good.png", torch.rand(3, 24, 24))
    common = ["--loss", "pixel", "--scale", "2", "--size", "16", "--batch", "1", "--steps", "1"]
    assert cli.main(["train-sr", "--data", "data", "-o", "model.safetensors", *common]) == 1
    told = [line for line in capsys.readouterr().err.split("\n") if "perceptual-ops: " in line]
    assert len(told) == 2 and all(line.rpartition("\r")[2].isprintable() for line in told), told


@pytest.mark.parametrize("device", ["mkldnn", "meta", "nonsense", "x\x1b[2J"])
def test_a_device_that_is_not_there_is_one_sentence(folder, capfd, recwarn, device):
    assert cli.main([*STYLIZE.split(), "--device", device]) == 2
    (line,) = capfd.readouterr().err.split("\n")[:-1]
    assert "--device: expected one that torch can use" in line and "ASSERT" not in line and not recwarn.list


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("perceptual-ops ") and torch.__version__ in line
    assert (native.reason or native.cuda_reason or "compiled operators with") in line


def test_doctor_keeps_names_and_values_apart(capsys, monkeypatch):
    cli.main(["doctor"])
    for line in capsys.readouterr().out.splitlines():
        assert line[24] == " " and line[:24].strip(), line
