"""The structure of the packages: imports lead downwards at run time, and folders name their files."""

from __future__ import annotations

import ast
import re
import tomllib

from tests.repository.sources import ROOT, package_sources


def trees(sources):
    """Return the syntax tree of each module, by its dotted name."""
    return {source.module: source.tree for source in sources}


def run_time_nodes(node):
    """Yield the nodes of a syntax tree, without the bodies of `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for one in child.orelse:
                yield from run_time_nodes(one)
        else:
            yield from run_time_nodes(child)


def arrows(modules):
    """Return, for each module, the project's modules that it imports at run time, also inside functions."""
    found = {}
    for name, tree in modules.items():
        found[name] = set()
        for node in run_time_nodes(tree):
            named = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = [
                    inner if (inner := f"{node.module}.{alias.name}") in modules else node.module
                    for alias in node.names
                ]
            found[name].update(one for one in named if one in modules)
    return found


def in_a_circle(graph):
    """Return the nodes from which a path leads back to themselves."""
    left = {name: set(others) for name, others in graph.items()}
    while True:  # a node without incoming or without outgoing edges is in no cycle
        pointed_at = set().union(*left.values()) if left else set()
        ends = {name for name, others in left.items() if name not in pointed_at or not others}
        if not ends:
            break
        left = {name: others - ends for name, others in left.items() if name not in ends}
    return {name for name in left if _leads_back(left, name)}


def _leads_back(graph, name):
    seen, open_ = set(), list(graph[name])
    while open_:
        if (one := open_.pop()) == name:
            return True
        if one not in seen:
            seen.add(one)
            open_ += graph[one]
    return False


def is_module_or_folder(path):
    """Return whether this is a file of code, or a folder with such files."""
    return path.suffix in {".py", ".lua"} or (path / "__init__.py").exists()


def test_run_time_imports_have_no_cycles():
    """Imports inside functions are included.

    Imports that are used only for type checking may refer to higher layers.
    """
    assert set() == in_a_circle(arrows(trees(package_sources())))


def test_docstring_of_a_folder_names_its_files():
    """The docstring names each file and folder. Everything that it calls a module exists."""
    astray = []
    for source in package_sources():
        if source.path.name == "__init__.py":
            siblings = (path for path in source.path.parent.iterdir() if not path.name.startswith("_"))
            there = {path.stem for path in siblings if is_module_or_folder(path)}
            named = set(re.findall(r"`([a-z]\w*)/?`", ast.get_docstring(source.tree)))
            astray += [f"{source.name} does not name {name}" for name in sorted(there - named)]
            astray += [f"{source.name} names {name}, which is no file" for name in sorted(named - there)]

    assert astray == []


def test_map_shows_the_layers():
    """The map in docs/how-it-works.md lists each module of the core once, from the lowest layer upwards."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [re.split(r" *[:|] *", layer) for layer in contracts[0]["layers"][::-1]]
    height = {module: number for number, layer in enumerate(layers) for module in layer}
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8").partition("\n## A job that succeeds")[0]

    shown = [
        module
        for row in re.findall(r"^\| .*\| (`.*`) \|$", page, re.MULTILINE)
        for module in re.findall(r"`(\w+)/?`", row)
    ]

    assert sorted(height) == sorted(shown)
    assert sorted(shown, key=height.__getitem__) == shown


def test_import_cycle_inside_functions_is_found():
    modules = {
        "a": ast.parse("from b import B"),
        "b": ast.parse("def f():\n    from c import d"),
        "c": ast.parse(""),
        "c.d": ast.parse("import a"),
        "e": ast.parse("from a import A"),
    }

    assert in_a_circle(arrows(modules)) == {"a", "b", "c.d"}


def test_type_checking_import_does_not_close_a_cycle():
    modules = {
        "a": ast.parse("if TYPE_CHECKING:\n    from b import B\nelse:\n    import c"),
        "b": ast.parse("import a"),
        "c": ast.parse("def f():\n    if typing.TYPE_CHECKING:\n        import a"),
    }

    assert arrows(modules) == {"a": {"c"}, "b": {"a"}, "c": set()}
    assert in_a_circle(arrows(modules)) == set()
