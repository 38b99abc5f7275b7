"""Imports point down only, from room to room and within the engine."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import perceptual_ops

PACKAGE = Path(perceptual_ops.__file__).parent
# From the ground up. A module of the package itself, such as ops.py, is on the ground, and so are the plain operators.
FLOORS = ["", "networks", "engine", "losses", "distributed", "compat", "recipes", "cli"]
DOORS = {"__init__", "__main__"}  # of the package, through which users come


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports when it is imported, by their path in it."""
    here = path.relative_to(PACKAGE).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            found |= {base} if node.module else {(*base, alias.name) for alias in node.names}
    return found


def test_rooms_import_what_is_below_them() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        floor = parts[0] if len(parts) > 1 and parts[0] != "plain" else ""
        if len(parts) == 1 and parts[0] in DOORS:
            continue
        for target in imports_of(path):
            below = target[0] if target and target[0] in FLOORS else ""
            if FLOORS.index(below) > FLOORS.index(floor):
                upward.append(f"{'/'.join(parts)} imports {'.'.join(target)}")
    assert not upward


def test_modules_of_the_engine_have_an_order() -> None:
    graph = {
        path.stem: {target[1] for target in imports_of(path) if len(target) > 1 and target[0] == "engine"}
        for path in (PACKAGE / "engine").glob("*.py")
        if path.stem != "__init__"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)  # CycleError where there is none
    assert graph["perceptual_op"] >= {"custom_op", "perceptual_head"}
