"""The path of a test mirrors the path of its module."""

from __future__ import annotations

import ast

import pytest

from tests.repository.sources import ROOT, sources_of_tests

MARKER = "Across modules: "
PACKAGES = {
    "core": "packages/core/src/firelock",
    "sql": "packages/backend-sql/src/firelock_sql",
    "redis": "packages/backend-redis/src/firelock_redis",
    "dashboard": "packages/dashboard/src/firelock_dashboard",
}
HELP = f"""
The tests of firelock/flows/batch.py are in tests/core/flows/test_batch.py, or, if they are about one aspect
of it, in a file such as tests/core/flows/test_batch_members.py. If a file is not about one module, begin its
docstring with "{MARKER}" and what it tests. No other docstring may begin so.
"""


def module_of(name):
    """Return the path of the module or folder that a test mirrors, or None if there is none.

    A helper of the tests counts as a module too: tests/redis/test_servers.py mirrors tests/redis/servers.py.
    """
    _, package, *folders, file = name.split("/")
    words = file.removeprefix("test_").removesuffix(".py").split("_")
    for number in range(len(words), 0, -1):
        for base in (PACKAGES[package], f"tests/{package}"):
            path = ROOT.joinpath(base, *folders, "_".join(words[:number]))
            for module in (path.with_suffix(".py"), path.with_suffix(".lua"), path):
                if module.is_file() or next(module.glob("*.py"), None):
                    return module.relative_to(ROOT).as_posix()
    return None


def mirroring():
    """Return the test files whose path depends on their module."""
    places = tuple(f"tests/{package}/" for package in PACKAGES)
    return [
        source
        for source in sources_of_tests()
        if source.name.startswith(places) and source.path.name.startswith("test_")
    ]


def test_path_of_a_test_mirrors_its_module():
    """If no module has the path of a file, the file has the marker, so that a reader can find its subject."""
    astray = []
    for source in mirroring():
        module, has_marker = module_of(source.name), ast.get_docstring(source.tree).startswith(MARKER)
        if module is None and not has_marker:
            astray.append(f"{source.name} has no module of its path")
        if module is not None and has_marker:
            astray.append(f"{source.name} has the marker, but also a module: {module}")

    assert not astray, "\n".join([*astray, HELP])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("tests/core/flows/test_batch.py", "packages/core/src/firelock/flows/batch.py"),
        ("tests/core/flows/test_batch_members.py", "packages/core/src/firelock/flows/batch.py"),
        ("tests/core/flows/test_batch_builder.py", "packages/core/src/firelock/flows/batch_builder.py"),
        ("tests/core/compat/test_celery.py", "packages/core/src/firelock/compat/celery"),
        (
            "tests/redis/scripts/functions/test_unique.py",
            "packages/backend-redis/src/firelock_redis/scripts/functions/unique.lua",
        ),
        ("tests/redis/test_servers.py", "tests/redis/servers.py"),
        ("tests/sql/test_servers.py", "tests/sql/servers"),
        ("tests/core/test_batch.py", None),
        ("tests/core/flows/test_batches.py", None),
    ],
)
def test_module_is_found_by_the_path_of_its_test(name, module):
    """The longest matching name of a module is used.

    A folder in another place or a part of a word does not match.
    """
    assert module_of(name) == module
