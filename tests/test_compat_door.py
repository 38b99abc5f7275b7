"""Drop-ins use what losses, networks and the engine offer: nothing of theirs that has an underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import perceptual_ops

PACKAGE = Path(perceptual_ops.__file__).parent
OWNERS = ("losses", "networks", "engine")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def trees(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield path, ast.parse(path.read_text())


def defined_by(tree: ast.Module) -> set[str]:
    """Private members of the classes of a module: methods, class attributes, and what is set on self."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(body=body):
                found |= {item.name for item in body if isinstance(item, ast.FunctionDef)}
                found |= {item.target.id for item in body if isinstance(item, ast.AnnAssign)}
                found |= {target.id for item in body if isinstance(item, ast.Assign) for target in item.targets
                          if isinstance(target, ast.Name)}  # fmt: skip
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.Call(func=ast.Attribute(attr="__setattr__"), args=[_, ast.Constant(value=str(name)), *_]):
                found.add(name)
    return {name for name in found if is_private(name)}


THEIRS = {name for folder in OWNERS for _, tree in trees(folder) for name in defined_by(tree)}
OURS = {name for _, tree in trees("compat") for name in defined_by(tree)}


def trespasses(tree: ast.Module) -> list[str]:
    """Where a module of compat takes a private member of losses, networks or engine."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name in THEIRS - OURS:
                found.append(f"line {node.lineno}: self.{name}")
            case (
                ast.Attribute(value=ast.Name(id="self" | "cls"))
                | ast.Attribute(value=ast.Call(func=ast.Name(id="super")))
            ):
                pass
            case ast.Attribute(attr=name) if name in THEIRS:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
            case ast.ImportFrom(module=str(module)) if set(module.split(".")) & set(OWNERS):
                found += [f"line {node.lineno}: {name.name}" for name in node.names if is_private(name.name)]
    return found


@pytest.mark.parametrize("path", [path for path, _ in trees("compat")], ids=lambda path: path.stem)
def test_drop_ins_take_nothing_private(path: Path) -> None:
    assert not trespasses(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "maps = loss._network.features(x)",
        "self._loss._keep_input_map()",
        "self._keep_input_map()",
        "found = net._loss._kept['input']",
        "read = lambda module: module._trunk.key",
        "from ..losses.base import _checked",
    ],
)
def test_what_the_test_above_would_find(line: str) -> None:
    assert trespasses(ast.parse(line))


def test_members_of_the_peers_are_their_own() -> None:
    assert not trespasses(ast.parse("self._update_count += 1; feature_extractor._modules; super()._apply(fn)"))
