"""README and docs: every block of Python runs, every command exists with its options, every link leads somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import docs_stand_ins
import pytest
import torch.distributed as dist
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import perceptual_ops as po
from perceptual_ops import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "bench/NOTES.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = {*re.findall(r"\$\((\w+)\)", MAKEFILE), *re.findall(r"^(?:export )?(\w+) \?=", MAKEFILE, re.MULTILINE)}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def languages(page: Path) -> set[str]:
    return {language for _, language, _ in BLOCK.findall(page.read_text("utf-8"))}


pages = pytest.mark.parametrize("page", PAGES, ids=name)


@pages
def test_no_block_is_left_out(page: Path) -> None:
    """What is no program is "text"; Sphinx's directives are in braces."""
    assert {language for language in languages(page) if language[:1] != "{"} <= {"python", "bash", "text"}


@pages
def test_addresses_are_whole(page: Path) -> None:
    """Of links to elsewhere; `make docs` follows the others."""
    for address in re.findall(r"\]\((\w+://[^)]*)\)|<(\w+://[^>]*)>", page.read_text("utf-8")):
        parts = urlsplit("".join(address))
        assert parts.scheme == "https" and "." in parts.netloc and " " not in parts.geturl(), address


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!https)[^)]*#[^)]+)\)", PAGES[0].read_text("utf-8")))
def test_sections_that_readme_links_to(link: str) -> None:
    """By GitHub's names of headings; `make docs` follows the links of the other pages."""
    path, _, section = link.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / (path or "README.md")).read_text("utf-8"), re.MULTILINE)
    assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Gives code what it takes from its reader."""

    def install(code: str) -> dict[str, Any]:
        docs_stand_ins.install(monkeypatch, code, tmp_path)
        return docs_stand_ins.readers_names()

    yield install
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in languages(page)], ids=name)
def test_examples_run(page: Path, installed: Callable[[str], dict[str, Any]]) -> None:
    """One after the other, as a reader would type them."""
    document = Document.parse(str(page), PythonCodeBlockParser())
    document.namespace.update(installed(document.text))
    for example in document.examples():
        document.namespace["output"] = docs_stand_ins.output_of(document.namespace["decoder"])
        example.evaluate()


def docstring_examples() -> Iterator[Any]:
    for path in sorted((ROOT / "perceptual_ops").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                code = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", f"{ast.get_docstring(node)}\n")
                if code:
                    owner = getattr(node, "name", path.parent.name if path.stem == "__init__" else path.stem)
                    yield pytest.param("\n".join(map(dedent, code)), id=owner)


@pytest.mark.parametrize("code", list(docstring_examples()))
def test_examples_of_docstrings_run(code: str, installed: Callable[[str], dict[str, Any]]) -> None:
    exec(compile(code, "docstring", "exec"), installed(code) | docs_stand_ins.names_of_docstrings())


@pytest.mark.parametrize("room", [po, po.losses, po.distributed], ids=lambda room: room.__name__)
def test_public_names_are_in_the_reference(room: ModuleType) -> None:
    """Modules of compat and recipes are shown with all of their `__all__`."""
    shown = set(re.findall(r"[\w]+", "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").iterdir())))
    assert set(room.__all__) <= shown


def test_readme_is_short() -> None:
    """What it does not say in a few screens belongs to docs/."""
    assert len(PAGES[0].read_text("utf-8").splitlines()) < 150


@pages
def test_commands_exist(page: Path) -> None:
    for block in Document.parse(str(page), CodeBlockParser("bash")).examples():
        for line in block.parsed.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                Command(words).check()
            if words[:1] == ["perceptual-ops"]:
                cli._parser().parse_args(words[1:])


@pages
def test_commands_in_the_text_exist(page: Path) -> None:
    """What stands between backticks and begins with a program's name."""
    prose = BLOCK.sub("", page.read_text("utf-8"))
    for span in re.findall(r"`([^`]+)`", prose):
        if re.match(r"(make|perceptual-ops|torchrun|pip|(\S*/)?python) ", span):
            for command in span.split(" && "):
                Command(shlex.split(command)).check()


class Command:
    """Words of a shell's command: that its program, targets, modules, files and options exist."""

    def __init__(self, words: list[str]) -> None:
        first = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
        self.program, self.arguments = Path(words[first]).name, words[first + 1 :]

    def check(self) -> None:
        known = {
            "make": self.make, "perceptual-ops": self.perceptual_ops, "python": self.python, "torchrun": self.torchrun,
            "pip": lambda: None, "clang-format": lambda: None, "ruff": lambda: None,
        }  # fmt: skip
        assert self.program in known, f"{self.program}: no program that the pages may name"
        known[self.program]()

    def make(self) -> None:
        for word in self.arguments:
            variable, is_one, _ = word.partition("=")
            if is_one:
                assert variable in VARIABLES, f"make has no variable {variable}"
            else:
                assert word in TARGETS, f"make has no target {word}"

    def perceptual_ops(self) -> None:
        parser = cli._parser()
        subcommands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        if not self.arguments[0].startswith("-"):
            parser = subcommands.choices[self.arguments[0]]
        options = {word.partition("=")[0] for word in self.arguments if word.startswith("-")}
        assert options <= set(parser._option_string_actions), f"{self.arguments[0]} has not all of {options}"

    def python(self) -> None:
        if self.arguments[:1] == ["-m"]:
            module = self.arguments[1]
            assert importlib.util.find_spec(module), f"there is no module {module}"
            source, options = ROOT / module.partition(".")[0], self.arguments[2:]
        else:
            source, options = ROOT / self.arguments[0], self.arguments[1:]
            assert source.is_file(), f"there is no file {self.arguments[0]}"
        if source.exists():
            files = source.rglob("*.py") if source.is_dir() else [source]
            code = "".join(file.read_text("utf-8") for file in files)
            known = ("--help", *re.findall(r'"(--[\w-]+)"', code))
            unknown = [word for word in options if word.startswith("--") and word not in known]
            assert not unknown, f"{source.name} has no option {', '.join(unknown)}"

    def torchrun(self) -> None:
        """Its own options have a value each."""
        while self.arguments[0].startswith("--"):
            self.arguments = self.arguments[2:]
        self.python()
        if self.arguments[:2] == ["-m", "perceptual_ops"] and self.arguments[2:] != ["..."]:
            Command(["perceptual-ops", *self.arguments[2:]]).perceptual_ops()
