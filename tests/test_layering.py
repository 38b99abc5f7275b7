"""Imports between directories point down only, and the engine's modules have no import cycle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import perceptual_ops

PACKAGE = Path(perceptual_ops.__file__).parent
# Bottom up. Modules of the package itself, such as ops.py, are the lowest layer, and so are the plain operators.
LAYERS = ["", "networks", "engine", "losses", "distributed", "compat", "recipes", "cli"]
ENTRY_POINTS = {"__init__", "__main__"}  # may import everything


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports when it is imported, by their path in it."""
    here = path.relative_to(PACKAGE).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            found |= {base} if node.module else {(*base, alias.name) for alias in node.names}
    return found


def test_directories_import_lower_layers_only() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        layer = parts[0] if len(parts) > 1 and parts[0] != "plain" else ""
        if len(parts) == 1 and parts[0] in ENTRY_POINTS:
            continue
        for target in imports_of(path):
            below = target[0] if target and target[0] in LAYERS else ""
            if LAYERS.index(below) > LAYERS.index(layer):
                upward.append(f"{'/'.join(parts)} imports {'.'.join(target)}")
    assert not upward


def test_the_engine_has_no_import_cycle() -> None:
    graph = {
        path.stem: {target[1] for target in imports_of(path) if len(target) > 1 and target[0] == "engine"}
        for path in (PACKAGE / "engine").glob("*.py")
        if path.stem != "__init__"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)  # raises CycleError
    assert graph["perceptual_op"] >= {"custom_op", "perceptual_head"}
