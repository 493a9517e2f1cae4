"""Rules for all sources: no code from storage, and no SQL statements built from strings."""

from __future__ import annotations

import ast
import re

from tests.repository.sources import OF_OTHERS, ROOT, calls, dotted, imports, package_sources

# Modules that turn stored bytes or strings into code.
DANGEROUS_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
DANGEROUS_CALLS = {"eval", "exec", "__import__", "import_module", "yaml.load", "importlib.import_module"}

# File and name of each permitted use, with the reason.
ALLOWED = {
    ("packages/core/src/firelock/__init__.py", "import_module"): (
        "the package loads its own modules, by the names of a table, when they are first used"
    ),
    ("packages/core/src/firelock/app.py", "import_module"): (
        "Firelock(imports=[…]) and --import name modules of the program itself; no name comes from storage"
    ),
    ("packages/core/src/firelock/compat/celery/app.py", "import_module"): (
        "config_from_object, as in Celery, names a module of the program itself"
    ),
    ("packages/core/src/firelock/cli/program.py", "import_module"): (
        "the command line loads the one of its own modules whose command is called, by a table"
    ),
    ("packages/core/src/firelock/integrations/django/__init__.py", "import_module"): (
        "the door of the Django app does as the users' door"
    ),
    ("packages/core/src/firelock/integrations/django/apps.py", "import_module"): (
        "the modules of tasks of the project's own apps, as Django's autodiscover_modules imports them"
    ),
    ("packages/core/src/firelock/integrations/django/project.py", "import_module"): (
        "the block FIRELOCK of the project's own settings names plugins, and an app"
    ),
    ("packages/core/src/firelock/server/loading.py", "import_module"): (
        "`firelock server app:fire` imports the app that its command line names"
    ),
    ("packages/core/src/firelock/testing/__init__.py", "import_module"): (
        "the testers' door does as the users' door"
    ),
    ("packages/dashboard/src/firelock_dashboard/__init__.py", "import_module"): (
        "the dashboard's door does as the users' door"
    ),
}

ASSET_SUFFIXES = {".html", ".js", ".svg", ".jinja", ".j2"}
DANGEROUS_IN_ASSETS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    r"|\sstyle=|\son[a-z]+=|javascript:"
)


def dangers(tree):
    """Yield the line and name of everything in a module that could turn a string into code."""
    for line, name in imports(tree):
        if name.split(".")[0] in DANGEROUS_MODULES:
            yield line, name.split(".")[0]
    for call, name in calls(tree):
        if name in DANGEROUS_CALLS:
            yield call.lineno, name.rpartition(".")[2]


def interpolates(argument):
    """Return whether a string is built from parts: with an f-string, `%`, `+` or format()."""
    match argument:
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Mod() | ast.Add()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "format_map" | "join")):
            return True
        case _:
            return False


def interpolated_statements(tree):
    """Yield the line of every call of text() or a driver whose statement is built from parts."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = dotted(node.func).rpartition(".")[2]
        if name in {"text", "DDL", "exec_driver_sql", "literal_column"} and interpolates(node.args[0]):
            yield node.lineno


def test_stored_data_never_becomes_code():
    """No module unpickles, evaluates or imports by name, unless it is listed with a reason."""
    used = {(source.name, name): line for source in package_sources() for line, name in dangers(source.tree)}

    assert {place: line for place, line in used.items() if place not in ALLOWED} == {}
    assert set(ALLOWED) - set(used) == set(), "an exception that nobody needs any more"
    assert all(ALLOWED.values()), "an exception without a reason"


def test_dangerous_calls_are_reported():
    """The search finds every way to turn a string into code."""
    program = (
        "import pickle\nfrom marshal import loads\neval('1')\nimportlib.import_module('x')\nyaml.load(f)\n"
    )

    found = sorted(dangers(ast.parse(program)))

    assert found == [(1, "pickle"), (2, "marshal"), (3, "eval"), (4, "import_module"), (5, "load")]


def test_no_sql_statement_is_built_from_strings():
    """Values and names are passed to SQL as parameters and constructs, never with an f-string, % or +.

    The dashboard is not checked, because it does not use SQL, and its `text` is text for people.
    """
    interpolated = [
        f"{source.name}:{line}"
        for source in package_sources()
        if not source.module.startswith("firelock_dashboard")
        for line in interpolated_statements(source.tree)
    ]

    assert interpolated == []


def test_interpolated_statements_are_reported():
    """The search finds every way to build a statement from strings, and ignores plain statements."""
    program = (
        "text('select 1')\n"
        "text(f'select {name}')\n"
        "sa.text('select %s' % name)\n"
        "sqlalchemy.text('select ' + name)\n"
        "connection.exec_driver_sql('select {}'.format(name))\n"
    )

    lines = sorted(interpolated_statements(ast.parse(program)))

    assert lines == [2, 3, 4, 5]


def test_pages_contain_no_inline_script_or_style():
    """The dashboard's assets do not need anything that its content security policy forbids."""
    files = [path for path in ROOT.glob("packages/*/src/**/*") if path.suffix in ASSET_SUFFIXES]
    assets = [path for path in files if not OF_OTHERS & set(path.parts)]

    refused = [
        f"{path.relative_to(ROOT).as_posix()}:{number} {found.group()}"
        for path in assets
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := DANGEROUS_IN_ASSETS.search(line))
    ]

    assert refused == []


def test_every_source_can_be_parsed():
    """Each of the four packages contains modules with code, and all of these modules can be parsed."""
    packages = {source.module.split(".")[0] for source in package_sources() if source.tree.body}

    assert packages == {"firelock", "firelock_sql", "firelock_redis", "firelock_dashboard"}
