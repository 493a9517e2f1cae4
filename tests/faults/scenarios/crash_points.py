"""F04: a process that dies at each call of its storage in turn."""

from __future__ import annotations

from tests.faults.crashing import CRASHED
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario


@scenario("crash-points", "F04", full=Size(1_000, 12), short=Size(6, 2))
def crash_points(place, size):
    """A server and client dies before or after the n-th call of each verb; a clean server finishes the rest.

    `jobs` bounds the points, `rounds` the calls of one verb.
    """
    results = run_program(place, "crashing", size.jobs, size.rounds)
    wrong = [result for result in results if result[2]]
    assert wrong == [], wrong
    assert results[0][1] == 0, "the program without a death"
    reached = sum(code == CRASHED for _, code, _ in results)
    failed = [result for result in results if result[1] not in {0, CRASHED}]
    assert failed == [], failed
    verbs = {point[0] for point, _, _ in results if point is not None}
    return [f"points {len(results) - 1} of {len(verbs)} verbs, died {reached}, lost 0, stuck 0, illegal 0"]
