"""How a run is shared out among its workers: which tests stay together, and which begin."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# One worker has all of these, and what they start or read once: the browser, as Playwright keeps an event
# loop in its thread; the syntax trees of all sources.
_WHOLE = {
    "tests/end_to_end/browser/": "tests/end_to_end/browser/",
    "tests/repository/test_": "tests/repository/",
    "tests/repository/docs/test_hooks_documented.py": "tests/repository/",
}
# Each of these tests brings all that it needs, and takes long: whoever is free takes the next.
_SINGLE = (
    "tests/faults/test_crash_blame.py",
    "tests/faults/test_faults.py",
    "tests/conformance/test_mutants.py",
    "tests/end_to_end/test_",
)
# The longest begin, so that the last worker is not alone with one of them.
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
    """Return what is one for all tests that a worker runs one after the other, by a test's id.

    That is their folder, their class or their module, as far as one server's program goes; so each server is
    started by one worker alone.
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
    """Gives a worker that has nearly done its tests the next ones that belong together."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


def _turn(unit: str) -> int:
    return next((turn for turn, begun in enumerate(_FIRST) if unit.startswith(begun)), len(_FIRST))
