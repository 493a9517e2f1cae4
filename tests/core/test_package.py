"""Across modules: the public names, lazy imports and main program of the package `firelock`."""

from __future__ import annotations

import importlib
import os
import site
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import firelock
from tests.core.fakes import unmeasured


def test_every_public_name_can_be_imported():
    """`dir` returns exactly these names."""
    assert sorted(firelock.__all__) == dir(firelock)
    assert all(getattr(firelock, name) is not None for name in firelock.__all__)


def test_version_is_that_of_the_distribution():
    """The version is defined in only one place, so it cannot differ between places."""
    assert version("firelock") == firelock.__version__


UNKNOWN_TO_PIP = """
import firelock, firelock_dashboard
from firelock import Firelock

fire = Firelock("memory://")
job = fire.task(name="add")(lambda: 42).enqueue()
with fire.server(workers=1, async_workers=1):
    print(job.result(timeout=60))
print([one.session.version for server in fire.servers.list() for one in server.sessions])
print(repr(firelock.__version__), repr(firelock_dashboard.Dashboard(fire, auth=None).version))
"""


def test_uninstalled_package_works_without_a_version(tmp_path):
    """For example, the package is in an archive or a frozen program, or found with PYTHONPATH.

    A server starts, and its version is empty.
    """
    for folder in site.getsitepackages():
        for entry in Path(folder).iterdir():
            if not entry.name.startswith(("firelock", "__", "_firelock")) and entry.suffix != ".pth":
                (tmp_path / entry.name).symlink_to(entry)
    for name in ("firelock", "firelock_dashboard"):
        (tmp_path / name).symlink_to(Path(importlib.import_module(name).__file__).parent)
    environment = {**unmeasured(), "PYTHONPATH": os.fspath(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-S", "-c", UNKNOWN_TO_PIP], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip

    assert ["42", "['']", "'' ''"] == done.stdout.splitlines(), done.stderr


def test_unknown_name_raises_attribute_error():
    """The error is the same as for any module, so `hasattr` and `from … import` behave as usual."""
    with pytest.raises(AttributeError, match="module 'firelock' has no attribute 'Firelok'"):
        firelock.Firelok  # noqa: B018 - the access is under test
    with pytest.raises(ImportError, match="cannot import name 'Firelok'"):
        from firelock import Firelok  # noqa: F401


@pytest.mark.parametrize(
    "name", ["firelock.__main__", "firelock.server.job_process", "firelock.server.worker_process"]
)
def test_importing_a_main_module_does_not_run_it(name):
    """Tools that import every module of a package must not start a program."""
    assert callable(importlib.import_module(name).main)
