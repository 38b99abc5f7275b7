"""`make check-install`: what each artefact in dist/ installs on each Python, as a table; exit 1 where one fails.

Each pair gets an empty environment outside the checkout, which pip fills with torch and the artefact; there runs what
`installed.py` does. `--lent-torch` takes torch from the interpreter that is named, and downloads nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("import", "loss + gradient", "engine", "compile")
COLUMNS = ("python", "torch", "system", "artefact", "install", *STEPS)
PINNED_TORCH = re.findall(r"^torch==(\S+)", (ROOT / "requirements-demo.txt").read_text(), re.MULTILINE)[0]
FORMS = {"-any.whl": "any", ".whl": "compiled", ".tar.gz": "sdist"}


def form_of(artefact: Path) -> str:
    return next(form for ending, form in FORMS.items() if artefact.name.endswith(ending))


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The line by which a process says why it failed."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(ERROR|[\w.]*(Error|Exception)): ", line)]
    line = (told or lines or [f"exit status {done.returncode}"])[-1]
    return "FAILED: " + line.replace("|", "/")[:200]  # a cell of the table


def lend_torch(lender: str, python: Path) -> None:
    """Makes the packages of an interpreter visible in the environment of another one, behind its own."""
    where = run(
        lender, "-c", "import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])", check=True
    ).stdout
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", check=True).stdout.strip()
    (Path(own) / "lent.pth").write_text(where)


def check(artefact: Path, interpreter: str, torch: str | None, folder: Path) -> dict[str, str]:
    """The row of one artefact and one Python.

    Args:
        artefact: A wheel or an sdist.
        interpreter: The Python that makes the environment.
        torch: Its version; None: the interpreter's own.
        folder: Where the environment and what runs in it lie.
    """
    row = dict.fromkeys(COLUMNS, "")
    row |= {"system": f"{platform.system()} {platform.machine()}", "artefact": form_of(artefact)}
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PERCEPTUAL_OPS_", "VIRTUAL_ENV"))
    } | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made = run(interpreter, "-m", "venv", folder / "env", env=environment)
    if made.returncode:
        return row | {"python": interpreter, "install": failure(made)}
    row["python"] = run(python, "-c", "import platform; print(platform.python_version())", check=True).stdout.strip()
    if torch is None:
        lend_torch(interpreter, python)
    wanted = [] if torch is None else [f"torch=={torch}"]
    done = run(python, "-m", "pip", "install", *wanted, artefact.resolve(), env=environment, cwd=folder)
    if done.returncode:
        return row | {"install": failure(done)}
    row["install"] = "ok"
    shutil.copy(ROOT / "tests" / "installed.py", folder)
    ran = run(python, "-I", folder / "installed.py", row["artefact"], ROOT / "README.md", cwd=folder, env=environment)
    told = dict(line.split(": ", 1) for line in ran.stdout.splitlines() if line.startswith(STEPS))
    row["torch"] = "".join(re.findall(r"^torch ([^,]+)", told.get("import", "")))
    for step in STEPS:
        if step not in told:
            return row | {step: failure(ran)}
        row[step] = told[step] if told[step].startswith("no ") else "ok"
        print(f"  {step}: {told[step]}", flush=True)
    return row


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", type=Path, nargs="*", help="wheels and sdists (default: all in dist/)")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    torch = parser.add_mutually_exclusive_group()
    torch.add_argument(
        "--torch", default=PINNED_TORCH, help="version to install (default: that of requirements-demo.txt)"
    )
    torch.add_argument("--lent-torch", action="store_true", help="take torch from the interpreters")
    options = parser.parse_args(arguments)
    artefacts = options.artefacts or sorted((ROOT / "dist").glob("*"))
    if not artefacts:
        parser.error("dist/ is empty: run `make wheels`, or name wheels")
    rows = []
    for interpreter in options.python:
        for artefact in artefacts:
            print(f"{interpreter}: {artefact.name}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                rows.append(check(artefact, interpreter, None if options.lent_torch else options.torch, Path(folder)))
    for row in [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in rows)]:
        print(f"| {' | '.join(row)} |")
    return int(any(cell.startswith("FAILED") for row in rows for cell in row.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
