"""How a run is distributed among its workers: which tests stay together, and which come first."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# One worker runs all tests of such a group, so that it starts or reads shared things only once. These are the
# browser, because Playwright keeps an event loop in its thread, and the syntax trees of all sources.
_WHOLE = {
    "tests/end_to_end/browser/": "tests/end_to_end/browser/",
    "tests/repository/test_": "tests/repository/",
    "tests/repository/docs/test_hooks_documented.py": "tests/repository/",
}
# Each of these tests is independent and takes long, so any free worker takes the next one.
_SINGLE = (
    "tests/faults/test_crash_blame.py",
    "tests/faults/test_faults.py",
    "tests/conformance/test_mutants.py",
    "tests/end_to_end/test_",
)
# The longest tests come first, so that none of them runs alone at the end.
_FIRST = (
    "tests/end_to_end/browser/",
    "tests/faults/",
    "tests/end_to_end/third_party/",
    "tests/conformance/test_redis.py",
    "tests/redis/",
    "tests/repository/",
)
_PROGRAM = re.compile(r"\b(?:(?:redis|valkey|mariadb|mysql)-\d+\.\d+|postgresql-\d+)\b")


def together(test: str) -> str:
    """Return the name of the group of tests that one worker runs one after another, for a test's id.

    A group is a folder, a class or a module, separated by the server program, so only one worker starts each
    server.
    """
    for begun, whole in _WHOLE.items():
        if test.startswith(begun):
            return whole
    if test.startswith(_SINGLE):
        return test
    name, _, parameters = test.partition("[")
    program = _PROGRAM.search(parameters)
    return f"{name.rpartition('::')[0]} {program[0] if program else ''}".rstrip()


class Sharing(LoadScopeScheduling):
    """A scheduler that gives the next group of tests to a worker that has nearly finished its tests."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


def _turn(unit: str) -> int:
    return next((turn for turn, begun in enumerate(_FIRST) if unit.startswith(begun)), len(_FIRST))
