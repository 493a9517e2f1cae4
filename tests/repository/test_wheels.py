"""The built wheels: the metadata for an index, and the presence and loading of each package's files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import attrs
import pytest
from hatchling.builders.wheel import WheelBuilder
from trove_classifiers import classifiers

from tests.core.fakes import unmeasured
from tests.repository.docs.pages import links, python_blocks
from tests.repository.sources import ROOT

PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

REDIS = ROOT / "packages" / "backend-redis" / "src" / "firelock_redis"
DASHBOARD = ROOT / "packages" / "dashboard" / "src" / "firelock_dashboard"

# Prints what a process loads from the wheels in a folder. The process has no site-packages, so it finds no
# editable install; the dependencies are in the second folder.
LOAD_ALL = """
import json, sys
unpacked, dependencies, icons = sys.argv[1:]
sys.path = [unpacked, *sys.path, dependencies]
from importlib.metadata import distribution

entries = {}
for name in ("firelock", "firelock-sql", "firelock-redis", "firelock-dashboard"):
    for entry in distribution(name).entry_points:
        loaded = entry.load()
        entries[f"{entry.group}: {entry.name}"] = sys.modules[entry.module].__file__

from jinja2 import PackageLoader
from starlette.testclient import TestClient
from firelock import Firelock
from firelock_dashboard import LEVELS, Access, Dashboard
from firelock_dashboard.web.assets import Assets
from firelock_dashboard.web.icons import icon
from firelock_dashboard.web.texts import Texts
from firelock_redis.scripts import TEXTS, script

templates, assets, texts = PackageLoader("firelock_dashboard"), Assets(), Texts()
with Firelock("memory://") as fire:
    visitor = TestClient(Dashboard(fire, auth=lambda request: Access(LEVELS["admin"], "ada")))
    page = visitor.get("/")
    static = [name for name in assets.names if visitor.get("/" + assets.url(name)).status_code == 200]
print(json.dumps({
    "entries": entries,
    "scripts": [name for name in TEXTS if script(name).text],
    "templates": [name for name in templates.list_templates() if templates.get_source(None, name)[0]],
    "static": static,
    "texts": list(texts),
    "icons": [name for name in json.loads(icons) if "<path" in icon(name)],
    "page": page.status_code,
}))
"""


@pytest.fixture(params=PACKAGES, ids=lambda folder: folder.name)
def folder(request):
    """A package's folder."""
    return request.param


def metadata(folder):
    """Return the metadata for the wheel's METADATA file."""
    builder = WheelBuilder(str(folder))
    return message_from_string(builder.config.core_metadata_constructor(builder.metadata))


def description(folder):
    """Return the page that an index would show."""
    return metadata(folder).get_payload()


def test_wheel_has_complete_metadata(folder):
    """The metadata is complete if it contains a summary, a description, keywords and valid classifiers."""
    declared = metadata(folder)
    classified = set(declared.get_all("Classifier", []))

    assert len(declared["Summary"]) > 20
    assert "text/markdown" == declared["Description-Content-Type"]
    assert len(description(folder).split()) > 60
    assert len(declared["Keywords"].split(",")) >= 5
    assert classified - set(classifiers) == set()
    assert classified >= {"Typing :: Typed", "Intended Audience :: Developers"}


def test_wheel_declares_its_python_versions(folder):
    """The first classifier is that of the oldest Python version that can install the wheel."""
    declared = metadata(folder)
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(declared.get_all("Classifier", [])), re.MULTILINE)

    assert f">={pythons[0]}" == declared["Requires-Python"]


def test_wheel_contains_its_licence(folder):
    """The licence is declared as an expression, without a classifier.

    The wheel contains the required text.
    """
    declared = metadata(folder)

    assert "MIT" in declared["License-Expression"].split(" AND ")
    assert not [one for one in declared.get_all("Classifier", []) if one.startswith("License ::")]
    assert ["LICENSE"] == declared.get_all("License-File")
    assert (ROOT / "LICENSE").read_bytes() == (folder / "LICENSE").read_bytes()


def test_description_has_no_relative_links(folder):
    """An index has no other files, so the description must not contain relative links or pictures."""
    text = description(folder)

    assert [] == [link for link in links(text) if not str(link).startswith("https://")]
    assert "![" not in text
    assert "<img" not in text


def test_description_of_the_core_has_the_readme_example():
    """Other tests run this example in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, *_ = python_blocks(text)

    assert first.code in [block.code for block in python_blocks(description(ROOT / "packages" / "core"))]


# ---- contents --------------------------------------------------------------------------------------------


@attrs.frozen
class Built:
    """The wheels of all packages, unpacked into one folder as by an installer."""

    folder: Path
    names: dict[str, set[str]]  # the files of each wheel, by the folder of its package


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All four wheels, built from the sources."""
    wheels, unpacked = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("unpacked")
    names = {}
    for folder in PACKAGES:
        (path,) = WheelBuilder(str(folder)).build(directory=str(wheels), versions=["standard"])
        with zipfile.ZipFile(path) as wheel:
            names[folder.name] = set(wheel.namelist())
            wheel.extractall(unpacked)
    return Built(unpacked, names)


@pytest.fixture(scope="module")
def loaded(built):
    """The objects that a process without the sources loads from the wheels."""
    words = [str(built.folder), sysconfig.get_path("purelib"), json.dumps(sorted(texts_of("icons.toml")))]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LOAD_ALL, *words], cwd=built.folder, env=unmeasured(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files_of(folder):
    """Return the relative paths of the files below a folder, except the files of Python and the build."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".made"
    }


def texts_of(name):
    """Return a TOML file of the dashboard."""
    return tomllib.loads((DASHBOARD / name).read_text(encoding="utf-8"))


def declared_entries():
    """Yield the entry points of all packages as `group: name`."""
    for folder in PACKAGES:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
        yield from (f"{group}: {name}" for group, names in groups.items() for name in names)


def test_wheel_has_every_file_of_its_package(folder, built):
    """All modules, scripts, templates, static files, texts, icons and py.typed are in the wheel.

    The only other files are metadata.
    """
    inside = {name for name in built.names[folder.name] if ".dist-info/" not in name}

    assert {name for name in inside if not name.endswith("/.made")} == files_of(folder / "src")
    assert any(name.endswith("/py.typed") for name in inside)


def test_every_entry_point_loads_from_its_wheel(built, loaded):
    """The entry points are those of Firelock's plugins, the pytest plugin and the program."""
    elsewhere = [file for file in loaded["entries"].values() if not file.startswith(str(built.folder))]

    assert {"console_scripts: firelock", "pytest11: firelock"} < set(loaded["entries"])
    assert sorted(loaded["entries"]) == sorted(declared_entries())
    assert elsewhere == []


def test_every_data_file_loads_from_its_wheel(loaded):
    """Lua scripts, templates, static files, texts and icons can be loaded, and a page is shown."""
    texts = {f"{path.stem}.{key}" for path in DASHBOARD.glob("texts/en/*.toml") for key in texts_of(path)}
    static = files_of(DASHBOARD / "static")

    assert set(loaded["scripts"]) == {path.stem for path in REDIS.glob("scripts/**/*.lua")}
    assert set(loaded["templates"]) == files_of(DASHBOARD / "templates")
    assert set(loaded["static"]) == static
    assert set(loaded["texts"]) == texts
    assert set(loaded["icons"]) == set(texts_of("icons.toml"))
    assert loaded["page"] == 200
