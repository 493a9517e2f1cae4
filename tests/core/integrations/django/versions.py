"""The supported Django versions: the version of the tests, and newer versions in separate environments."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[4]
VERSIONS = ("5.2", "6.0", "6.1")
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
_NEEDED = (
    *(each for name in ("core", "backend-sql") for each in ("--editable", str(ROOT / "packages" / name))),
    "pytest", "pytest-timeout", "anyio",
)  # fmt: skip


@attrs.define
class Djangos:
    """Environments and sources of Django versions, each created once."""

    _folder: Callable[[str], Path]  # creates a new one
    _pythons: dict[str, str] = attrs.field(factory=lambda: {"5.2": sys.executable})
    _sources: dict[str, Path] = attrs.Factory(dict)

    def python(self, version):
        """Return a Python with this Django version, Firelock and its test packages, or skip the test."""
        if version not in self._pythons:
            newer = next(filter(None, map(shutil.which, ("python3.14", "python3.13", "python3.12"))), None)
            if newer is None:
                pytest.skip(f"Django {version} needs Python 3.12 or newer, and none is here")
            folder = self._folder(f"django-{version}-")
            _or_skip([newer, "-m", "venv", str(folder)], f"{newer} makes no environment")
            python = str(folder / "bin" / "python")
            words = [*_PIP, "install", f"django=={version}.*", *_NEEDED]
            _or_skip([python, *words], f"Django {version} cannot be installed")
            self._pythons[version] = python
        return self._pythons[version]

    def own_tests(self, version):
        """Return the folder of Django's own tests of its tasks, or skip the test.

        For version 5.2, these are the tests of 6.1.
        """
        version = "6.1" if version == "5.2" else version
        if version not in self._sources:
            folder = self._folder(f"django-{version}-sources-")
            words = [*_PIP, "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
            why = f"the sources of Django {version} cannot be had"
            _or_skip([self.python(version), *words, f"django=={version}.*"], why)
            (archive,) = folder.glob("*.tar.gz")
            with tarfile.open(archive) as sources:
                tests = [each for each in sources.getmembers() if "/tests/tasks/" in each.name]
                sources.extractall(folder, members=tests, filter="data")
            self._sources[version] = next(folder.glob("*/tests/tasks"))
        return self._sources[version]


def _or_skip(words, why):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{why}: it takes too long")
    if done.returncode:
        pytest.skip(f"{why}: {done.stderr.strip().splitlines()[-1:]}")
