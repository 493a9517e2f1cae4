"""The tests that only `make test-all` runs: those that need more than Python, or take long."""

from __future__ import annotations

import pytest

from tests.redis.programs import Program
from tests.sql.servers.programs import Missing, MysqlProgram, PostgresqlProgram

# Folders and files in which every test is heavy, with the reason.
FOLDERS = {
    "tests/faults/test_faults.py": "kills processes and servers, and waits until all is well again",
    "tests/end_to_end/browser/": "a Chromium",
    "tests/end_to_end/third_party/": "builds two distributions, and runs the kit on them",
}
# Several Redis servers that watch each other, and programs that are not written in Python.
_FIXTURES = {"browser", "cluster", "group", "mariadb", "pgbouncer", "postgresql", "sql_servers"}


def is_heavy(test: pytest.Item) -> bool:
    """Return whether only `make test-all` runs a test.

    This depends on its folder, its mark and the servers that it uses.
    """
    call = getattr(test, "callspec", None)
    return (
        test.get_closest_marker("heavy") is not None
        or test.nodeid.startswith(tuple(FOLDERS))
        or not _FIXTURES.isdisjoint(getattr(test, "fixturenames", ()))
        or (call is not None and any(map(_is_no_python, call.params.values())))
    )


def _is_no_python(parameter: object) -> bool:
    if isinstance(parameter, Program):
        return not parameter.is_of_a_wheel
    return isinstance(parameter, (PostgresqlProgram, MysqlProgram, Missing))
