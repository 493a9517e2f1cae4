"""Mutants of the SQL verbs, with the test that catches each; `test_sql_mutants.py` runs them.

They concern locked rows, so a storage without rows cannot have these faults. Each mutant runs on PostgreSQL.
"""

from __future__ import annotations

import importlib
import inspect
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import attrs

from firelock.plugins.loader import open_storage
from firelock.testing import StorageConformance
from tests.conformance.mutants import Subject, cases, fails, mutated, mutations
from tests.scenes import scene_at
from tests.sql import test_closing_sessions

_TABLE = Path(__file__).with_name("sql_mutations.txt")
_OF_ROWS = "Rows"  # as a part of the kit: the tests that use the tables directly
_GIVEN = frozenset({"scene", "server_database", "lock_job"})  # the fixtures that such a test may use here


def sql_mutations():
    """Return the mutations of the table, in order."""
    return mutations(_TABLE)


@contextmanager
def _changed(mutation):
    """Replace methods of the module's classes with those of the mutant."""
    module = importlib.import_module(f"firelock_sql.verbs.{mutation.module}")
    source = mutated(Path(module.__file__).read_text("utf-8"), mutation)
    mutant = ModuleType(module.__name__)  # where the annotations of its values are resolved
    exec(compile(source, module.__file__, "exec"), vars(mutant))
    originals = []
    for name, kind in vars(mutant).items():
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and name.startswith("Sql"):
            own = getattr(module, name)
            originals.append((own, dict(vars(own))))
            _give(own, vars(kind))
    try:
        yield
    finally:
        for own, attributes in originals:
            _give(own, attributes)


def _give(kind, attributes):
    for name, value in attributes.items():
        if inspect.isfunction(value) or isinstance(value, property):
            setattr(kind, name, value)


@attrs.frozen
class _RowCase:
    """One test of `tests/sql/test_closing_sessions.py`."""

    part: str
    name: str
    database: object
    lock_job: object

    def run(self, subject):
        """Run the test, which raises if it fails."""
        del subject
        test = getattr(test_closing_sessions, self.name)
        with scene_at(self.database.url()) as scene:
            known = {"scene": scene, "server_database": self.database, "lock_job": self.lock_job}
            test(**{name: known[name] for name in inspect.signature(test).parameters})


def _row_cases(database, lock_job):
    tests = {name: test for name, test in vars(test_closing_sessions).items() if name.startswith("test_")}
    return [
        _RowCase(_OF_ROWS, name, database, lock_job)
        for name, test in tests.items()
        if _GIVEN.issuperset(inspect.signature(test).parameters)
    ]


def sql_catcher(mutation, database, lock_job):
    """Return the first test of the mutant's part of the kit that fails with the mutant; None if all pass."""
    subject = Subject(partial(open_storage, database.url()), {"lock_job": lock_job})
    if mutation.detected_by == _OF_ROWS:
        tried = _row_cases(database, lock_job)
    else:
        tried = list(cases(mutation.detected_by, StorageConformance))
    with _changed(mutation):
        return next((case for case in tried if fails(case, subject)), None)
