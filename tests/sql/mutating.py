"""A pytest plugin that changes one module of firelock_sql before its import: see `test_locked_mutants`."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path

VARIABLE = "FIRELOCK_SQL_MUTANT"  # the module, the old source and the new source, as JSON


class _Broken(MetaPathFinder, Loader):
    """A finder for the module that executes its source with the change."""

    def __init__(self, module, old, new):
        self._module, self._old, self._new = module, old, new

    def find_spec(self, fullname, path, target=None):
        if fullname != self._module:
            return None
        place = Path(path[0]) / f"{fullname.rpartition('.')[2]}.py"
        return importlib.util.spec_from_file_location(fullname, place, loader=self)

    def exec_module(self, module):
        source = Path(module.__spec__.origin).read_text("utf-8")
        assert source.count(self._old) == 1, f"{self._old!r} is {source.count(self._old)} times in the source"
        exec(compile(source.replace(self._old, self._new), module.__spec__.origin, "exec"), vars(module))


if VARIABLE in os.environ:
    sys.meta_path.insert(0, _Broken(*json.loads(os.environ[VARIABLE])))
