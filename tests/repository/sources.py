"""The project's files as the architecture tests see them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "tests", "benchmarks", "examples", "docs", "deploy", "scripts", ".ci", ".github")
OF_OTHERS = {"vendor", "node_modules"}  # set-up puts them there, git ignores them
NAMES_WITHOUT_SUFFIX = {"Makefile", "LICENSE", "run", ".gitignore"}
TEXT_SUFFIXES = {
    ".py", ".md", ".toml", ".lock", ".sh", ".html", ".css", ".js", ".lua", ".sql", ".svg", ".yml", ".yaml",
    ".service",
}  # fmt: skip


@attrs.frozen
class Source:
    """A Python file, read once."""

    path: Path
    text: str

    @property
    def name(self):
        """The path from the project's root, with slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self):
        """The dotted name that a package's file is imported by."""
        parts = self.path.with_suffix("").parts
        inside = parts[parts.index("src") + 1 :]
        return ".".join(inside[:-1] if inside[-1] == "__init__" else inside)

    @property
    def tree(self):
        """The syntax tree; parsed once a file and test run."""
        return parsed(self.path)


@cache
def parsed(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def package_sources():
    """Every module of every package, in order of their paths."""
    return [read(path) for path in sorted(ROOT.glob("packages/*/src/**/*.py"))]


@cache
def sources_of_tests():
    """Every Python file below tests, in order of their paths."""
    return [read(path) for path in sorted(ROOT.glob("tests/**/*.py"))]


def read(path):
    """The file's text with its path."""
    return Source(path, path.read_text(encoding="utf-8"))


def texts():
    """Path and text of every text file that the project keeps."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(paths):
        inside = path.relative_to(ROOT)
        is_hidden = any(part.startswith(".") for part in inside.parts[1:-1])
        if is_hidden or OF_OTHERS & set(inside.parts):
            continue
        if path.suffix in TEXT_SUFFIXES or path.name in NAMES_WITHOUT_SUFFIX:
            yield inside.as_posix(), path.read_text(encoding="utf-8")


def imports(tree):
    """Line and full dotted name of everything that is imported, wherever the statement stands."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)


def loads(tree):
    """The imports of a running program: those that only type checkers see are left out."""
    seen_by_checkers = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
        for line in range(node.lineno, node.body[-1].end_lineno + 1)
    }
    yield from ((line, name) for line, name in imports(tree) if line not in seen_by_checkers)


def calls(tree):
    """Every call with the dotted name of what is called; a part that is no name reads as "?"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def dotted(node):
    """`a.b.c` for an attribute of names."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{dotted(value)}.{attribute}"
        case _:
            return "?"
