"""How the house is built: imports lead down, every class and every file has a name of its own."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict

from tests.repository.sources import ROOT, package_sources

# Files here mirror others on purpose: the kit has a file for each part of the contract, and the command line
# one for each part of what people ask for.
MIRRORS = ("firelock.testing.", "firelock.cli.")
# Each dialect has these rooms where it has a form of its own for them; others of its files have no twin.
DIALECTS = ("firelock_sql.sqlite.", "firelock_sql.postgresql.", "firelock_sql.mysql.")
ROOMS = frozenset(
    {"connect", "database", "deltas", "health", "lanes", "memos", "pipeline", "storage", "suspensions"}
)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_LINES = 40


def trees(sources):
    """Return the syntax tree of each module, by its dotted name."""
    return {source.module: source.tree for source in sources}


def arrows(modules):
    """Return for each module those of the product that it names in an import, wherever that stands."""
    found = {}
    for name, tree in modules.items():
        found[name] = set()
        for node in ast.walk(tree):
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
    """Return the nodes from which an arrow leads back to themselves, by whichever way."""
    left = {name: set(others) for name, others in graph.items()}
    while True:  # what nothing points at, or what points at nothing, is in no circle
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


def classes_twice(modules):
    """Return the names that two classes have."""
    found = defaultdict(set)
    for name, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[node.name].add(name)
    return {name for name, places in found.items() if len(places) > 1}


def own_lines(function):
    """Return how many lines a function's body has, without its docstring and the functions inside it."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    inside = {
        line
        for node in ast.walk(function)
        if isinstance(node, FUNCTIONS) and node is not function
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return body[-1].end_lineno - body[0].lineno + 1 - len(inside)


def is_mirror(source):
    """Tell whether the file may have another one's name."""
    is_room = source.module.startswith(DIALECTS) and source.path.stem in ROOMS
    return is_room or source.module.startswith(MIRRORS)


def is_room(path):
    """Tell whether this is a file of code, or a folder of them."""
    return path.suffix in {".py", ".lua"} or (path / "__init__.py").exists()


def files_twice(sources):
    """Return distribution and name of the files that have another one's name; doors of folders have none."""
    found = defaultdict(set)
    for source in sources:
        if source.path.name != "__init__.py" and not is_mirror(source):
            found[f"{source.module.partition('.')[0]}: {source.path.name}"].add(source.name)
    return {name for name, places in found.items() if len(places) > 1}


def test_no_import_leads_in_a_circle():
    """Those for types alone and those inside functions count: no module needs one that needs it."""
    assert set() == in_a_circle(arrows(trees(package_sources())))


def test_no_class_name_is_there_twice():
    """Whoever searches for a class finds one."""
    assert set() == classes_twice(trees(package_sources()))


def test_no_file_name_is_there_twice():
    """Within a distribution, but for what mirrors on purpose."""
    assert set() == files_twice(package_sources())


def test_a_function_is_seen_at_once():
    """No body is longer than 40 lines; its docstring does not count, functions inside it count themselves."""
    long = [
        f"{source.name}:{node.lineno} {node.name} has {own_lines(node)} lines"
        for source in package_sources()
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno > MOST_LINES < own_lines(node)
    ]

    assert long == []


def test_each_room_of_the_dialects_is_in_several():
    """Else it mirrors nothing, and needs no leave to."""
    rooms = [source for source in package_sources() if source.module.startswith(DIALECTS)]
    names = [source.path.stem for source in rooms if source.path.stem in ROOMS]

    assert set() == {room for room in ROOMS if names.count(room) < 2}


def test_a_folders_first_lines_name_its_files():
    """Each file and folder in it, in the order of reading; and what they call a module is one."""
    astray = []
    for source in package_sources():
        if source.path.name == "__init__.py":
            beside = (path for path in source.path.parent.iterdir() if not path.name.startswith("_"))
            there = {path.stem for path in beside if is_room(path)}
            named = set(re.findall(r"`([a-z]\w*)/?`", ast.get_docstring(source.tree)))
            astray += [f"{source.name} does not name {name}" for name in sorted(there - named)]
            astray += [f"{source.name} names {name}, which is no file" for name in sorted(named - there)]

    assert astray == []


def test_the_map_shows_the_layers():
    """Each module of the core stands once in docs/how-it-works.md, from the lowest layer up."""
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


def test_a_circle_is_seen_wherever_its_imports_stand():
    """Those that only type checkers see count, and those inside of functions; what leads there does not."""
    modules = {
        "a": ast.parse("if TYPE_CHECKING:\n    from b import B"),
        "b": ast.parse("def f():\n    from c import d"),
        "c": ast.parse(""),
        "c.d": ast.parse("import a"),
        "e": ast.parse("from a import A"),
    }

    assert in_a_circle(arrows(modules)) == {"a", "b", "c.d"}
