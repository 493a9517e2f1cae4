"""The backend under each Django, and under Django's own tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.integrations.django_versions import ROOT, VERSIONS, Djangos

pytestmark = pytest.mark.heavy("installs Djangos into environments of their own")
HERE = Path(__file__).parent
# Fewer would mean that a translation has lost some.
FEWEST = {"5.2": 65, "6.0": 65, "6.1": 70}


@pytest.fixture(scope="module")
def djangos(tmp_path_factory):
    """Environments and sources, had once."""
    return Djangos(tmp_path_factory.mktemp)


def run(python, *words):
    found = os.pathsep.join((str(ROOT / "packages" / "core" / "src"), str(ROOT)))
    return subprocess.run(
        [python, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": found}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_django_s_own_tests_of_its_tasks_pass(djangos, version, tmp_path):
    """Those that ask what every backend owes; `django_tasks_own` names the others, each with its reason."""
    shutil.copytree(djangos.own_tests(version), tmp_path / "tasks")

    done = run(djangos.python(version), "-W", "error", str(HERE / "django_tasks_own.py"), str(tmp_path))

    said = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    assert said, done.stderr
    assert ([], True) == (said["broken"], said["run"] >= FEWEST[version]), done.stderr
    assert said["django"].startswith(version)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_our_tests_pass_with_newer_djangos(djangos, version):
    """Those of the backend, as they run here with the oldest."""
    words = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]

    done = run(djangos.python(version), *words, str(HERE / "test_django_tasks.py"))

    assert 0 == done.returncode, done.stdout[-4000:]
