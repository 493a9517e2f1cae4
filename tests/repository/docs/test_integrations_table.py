"""The table of integrations in docs/install.md: what is asked for, what was run, and by which tests."""

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
OF_THE_CORE = {  # needed by whoever installs a package, and no integration
    "a2wsgi", "attrs", "cattrs", "croniter", "jinja2", "pluggy", "rich", "typing-extensions", "tzdata",
    "uvicorn",
}  # fmt: skip
SHARED = {"__init__", "__pycache__", "carrier", "request_meta"}  # what integrations have in common


@attrs.frozen
class Row:
    """One line of the table."""

    package: str
    asked: str
    versions: list[str]
    tests: list[str]


def rows():
    """The lines of the table, but for those without a package."""
    text = PAGE.read_text(encoding="utf-8").partition("## What each integration was run with")[2]
    table = [
        line.split("|")[1:-1] for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")
    ]
    return [
        Row(CELL.findall(package)[0], "".join(CELL.findall(asked)), ran.split(","), CELL.findall(by))
        for _, package, asked, ran, by in table[1:]
        if CELL.findall(package)
    ]


ROWS = [pytest.param(row, id=row.package) for row in rows()]


def asked():
    """What the four packages and their extras ask for, by name; not each other."""
    found = {}
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        for need in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            name, versions = ASKED.match(need).groups()
            found[name] = versions
    return {name: versions for name, versions in found.items() if not name.startswith("firelock")}


@pytest.mark.parametrize("row", ROWS)
def test_the_versions_are_those_that_tests_run_with(row):
    """Of the lock, up to the minor one; of Django all that it is tested with."""
    locked = set()
    for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text(encoding="utf-8")):
        if name == row.package:
            locked.add(version)
    expected = set(VERSIONS) if row.package == "django" else locked

    assert expected == {version.strip() for version in row.versions}
    assert locked <= expected


@pytest.mark.parametrize("row", ROWS)
def test_what_is_asked_for_is_what_the_packages_say(row):
    """Nothing for what nobody brings."""
    assert asked().get(row.package, "") == row.asked


@pytest.mark.parametrize("row", ROWS)
def test_each_has_tests_that_are_there(row):
    """Files or folders, by their paths."""
    assert row.tests
    assert [] == [name for name in row.tests if not list(ROOT.glob(name))]


def test_nothing_that_is_brought_is_left_out():
    """Every package that an extra or a storage brings is in the table, and every integration's tests are."""
    named = {row.package for row in rows()}
    text = PAGE.read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "packages/core/src/firelock/integrations").iterdir()} - SHARED
    folder = "tests/core/integrations"

    assert set(asked()) - OF_THE_CORE - named == set()
    folder = "tests/core/integrations"
    assert [] == [
        name
        for name in modules
        if f"{folder}/test_{name}.py" not in text and f"`{folder}/{name}`" not in text
    ]
