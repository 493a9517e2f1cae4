"""Across modules: the packages work with the oldest versions of their dependencies that they allow."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy("installs the oldest dependencies")

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))


def lower_bounds():
    """Return each dependency of the packages with its lower bound."""
    needs = [
        need
        for package in PACKAGES
        for need in tomllib.loads((package / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    found = (re.match(r"([\w-]+)(?:\[[^]]*\])?>=([\d.]+)", need) for need in needs)
    return sorted({f"{each[1]}>={each[2]}" for each in found if each})


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the packages and the oldest dependencies."""
    folder = tmp_path_factory.mktemp("oldest") / "venv"
    python = folder / "bin" / "python"
    uv = ROOT / "scripts" / "uv.sh"
    for arguments in (
        ["venv", "-q", folder],
        [
            "pip",
            "install",
            "-q",
            "--python",
            python,
            "--resolution",
            "lowest-direct",
            *PACKAGES,
            *lower_bounds(),
        ],
    ):
        subprocess.run([uv, *arguments], cwd=ROOT, check=True, timeout=300)
    return folder


def test_demo_runs_with_the_oldest_dependencies(environment, tmp_path):
    """The demo creates a SQLite storage and runs every kind of job."""
    command = [environment / "bin" / "firelock", "demo", "--seconds", "3", "--json"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert 0 == done.returncode, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("module", ["firelock_redis.storage", "firelock_dashboard.app", "firelock.testing"])
def test_module_is_imported_with_the_oldest_dependencies(environment, module):
    """The import fails if a dependency is too old to provide a name that the module needs."""
    subprocess.run(
        [environment / "bin" / "python", "-W", "error", "-c", f"import {module}"], check=True, timeout=60
    )
