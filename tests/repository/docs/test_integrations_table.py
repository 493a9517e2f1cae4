"""The table of integrations in docs/install.md: required versions, tested versions, and the tests."""

from __future__ import annotations

import re
import tomllib

import attrs
import pytest

from tests.core.integrations.django.versions import VERSIONS
from tests.repository.docs.pages import ROOT

PAGE = ROOT / "docs" / "install.md"
CELL = re.compile(r"`([^`]+)`")
LOCKED = re.compile(r"^([a-z0-9-]+)==(\d+\.\d+)", re.MULTILINE)
ASKED = re.compile(r"([a-z0-9-]+)(?:\[[^]]*\])? *([^; ]*)")
OF_THE_CORE = {  # dependencies of the packages themselves, not integrations
    "a2wsgi", "attrs", "cattrs", "croniter", "jinja2", "pluggy", "rich", "typing-extensions", "tzdata",
    "uvicorn",
}  # fmt: skip
SHARED = {"__init__", "__pycache__", "carrier", "request_meta"}  # shared by several integrations


@attrs.frozen
class Row:
    """One line of the table."""

    package: str
    requirements: str
    versions: list[str]
    tests: list[str]


def rows():
    """Return the lines of the table, without those that have no package."""
    text = PAGE.read_text(encoding="utf-8").partition("## What each integration was run with")[2]
    table = [
        line.split("|")[1:-1] for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")
    ]
    return [
        Row(CELL.findall(package)[0], "".join(CELL.findall(requirements)), ran.split(","), CELL.findall(by))
        for _, package, requirements, ran, by in table[1:]
        if CELL.findall(package)
    ]


ROWS = [pytest.param(row, id=row.package) for row in rows()]


def requirements():
    """Return the dependencies of the four packages and their extras by name, except those on each other."""
    found = {}
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        for need in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            name, versions = ASKED.match(need).groups()
            found[name] = versions
    return {name: versions for name, versions in found.items() if not name.startswith("firelock")}


@pytest.mark.parametrize("row", ROWS)
def test_tested_versions_match_the_lock_file(row):
    """Patch numbers are omitted. For Django, all tested versions are listed."""
    locked = set()
    for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text(encoding="utf-8")):
        if name == row.package:
            locked.add(version)
    expected = set(VERSIONS) if row.package == "django" else locked

    assert expected == {version.strip() for version in row.versions}
    assert locked <= expected


@pytest.mark.parametrize("row", ROWS)
def test_required_versions_match_the_packages(row):
    """If a package is not a dependency, the column of required versions is empty."""
    assert requirements().get(row.package, "") == row.requirements


@pytest.mark.parametrize("row", ROWS)
def test_listed_tests_exist(row):
    """Each test in the table is an existing file or folder."""
    assert row.tests
    assert [] == [name for name in row.tests if not list(ROOT.glob(name))]


def test_table_contains_every_dependency():
    """The table contains every dependency of an extra or a storage, and the tests of every integration."""
    named = {row.package for row in rows()}
    text = PAGE.read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "packages/core/src/firelock/integrations").iterdir()} - SHARED
    folder = "tests/core/integrations"

    assert set(requirements()) - OF_THE_CORE - named == set()
    folder = "tests/core/integrations"
    assert [] == [
        name
        for name in modules
        if f"{folder}/test_{name}.py" not in text and f"`{folder}/{name}`" not in text
    ]
