"""A pytest plugin that changes the source of modules before their import; `run_changed` does so for a script.

See `tests/sql/test_locked_mutants.py` and the tests of fields that are appended to a record.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path

VARIABLE = "FIRELOCK_CHANGED_SOURCES"  # JSON: a list of changes, each a module, its old and its new source


class _Changer(MetaPathFinder, Loader):
    """A finder for the modules that executes their sources with the changes."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, fullname, path, target=None):
        if all(fullname != module for module, _, _ in self._changes):
            return None
        place = Path(path[0]) / f"{fullname.rpartition('.')[2]}.py"
        return importlib.util.spec_from_file_location(fullname, place, loader=self)

    def exec_module(self, module):
        source = Path(module.__spec__.origin).read_text("utf-8")
        for name, old, new in self._changes:
            if name == module.__name__:
                assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in the source"
                source = source.replace(old, new)
        exec(compile(source, module.__spec__.origin, "exec"), vars(module))


def run_changed(script, *changes):
    """Run the script in another interpreter with these changes, and return its output.

    Raises:
        AssertionError: If the script fails.
    """
    ended = subprocess.run(
        [sys.executable, "-c", f"import tests.mutating\n{script}"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, VARIABLE: json.dumps(changes)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2_000:]
    return ended.stdout


if VARIABLE in os.environ:
    sys.meta_path.insert(0, _Changer(json.loads(os.environ[VARIABLE])))
