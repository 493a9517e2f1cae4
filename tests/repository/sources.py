"""The project's files for the architecture tests."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "tests", "benchmarks", "examples", "docs", "deploy", "scripts", ".ci", ".github")
OF_OTHERS = {"vendor", "node_modules"}  # created by the set-up and ignored by git
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
        """The dotted name for the import of a package's file."""
        parts = self.path.with_suffix("").parts
        inside = parts[parts.index("src") + 1 :]
        return ".".join(inside[:-1] if inside[-1] == "__init__" else inside)

    @property
    def tree(self):
        """The syntax tree, parsed once per file and test run."""
        return parsed(self.path)


@cache
def parsed(path):
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def package_sources():
    """Return every module of every package, in order of the paths."""
    return [read(path) for path in sorted(ROOT.glob("packages/*/src/**/*.py"))]


@cache
def sources_of_tests():
    """Return every Python file below tests, in order of the paths."""
    return [read(path) for path in sorted(ROOT.glob("tests/**/*.py"))]


def read(path):
    """Return the file's text with its path."""
    return Source(path, path.read_text(encoding="utf-8"))


def texts():
    """Yield the path and text of every text file that the project keeps."""
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
    """Yield the line and full dotted name of every import, wherever the statement is."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)


def loads(tree):
    """Yield the imports of a running program, without the imports for type checkers only."""
    seen_by_checkers = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
        for line in range(node.lineno, node.body[-1].end_lineno + 1)
    }
    yield from ((line, name) for line, name in imports(tree) if line not in seen_by_checkers)


def calls(tree):
    """Yield every call with the dotted name of the called object; a part that is not a name becomes "?"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def dotted(node):
    """Return `a.b.c` for an attribute of names."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{dotted(value)}.{attribute}"
        case _:
            return "?"
