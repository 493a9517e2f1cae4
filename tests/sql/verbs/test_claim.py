"""A claim of every queue ends, whatever others let go of while it looks."""

from __future__ import annotations

from firelock.storage import ClaimRequest
from firelock_sql.verbs.claim import QueueTurns, ReadyRow, ready_rows

MOST_ASKED = 20


class Looking:
    """A transaction that finds rows in two queues; one more comes first once somebody has let go of it."""

    adds_deltas = True

    def __init__(self):
        self.ready = {"a": ["a1"], "b": ["b1", "b2", "b3"]}
        self.asked = 0

    def one(self, statement, former):
        """The row of the next queue behind one, None behind the last."""
        return min(((queue,) for queue in self.ready if queue > former), default=None)

    def all(self, statement, queue=None, most=0):
        """The first rows of a queue; nothing is paused."""
        if queue is None:
            return []
        self.asked += 1
        assert self.asked <= MOST_ASKED, "it asks without an end"
        found = [row_of(id, queue) for id in self.ready[queue]][:most]
        if queue == "b" and "b0" not in self.ready["b"]:
            self.ready["b"].insert(0, "b0")
        return found


def row_of(id: str, queue: str) -> ReadyRow:
    """A row as far as the choice looks at it."""
    return (id, "task", "{}", "json", queue)


def test_a_job_that_comes_free_before_those_taken_is_taken_next():
    """It moves the others on by one: they are known, and are not asked for time after time."""
    turns = QueueTurns()
    turns.served("b")

    rows = ready_rows(Looking(), ClaimRequest(None, 4, "one", 0), turns)  # type: ignore[arg-type]  # all that it asks of one

    assert ["a1", "b1", "b2", "b0"] == sorted((row[0] for row in rows), key=["a1", "b1", "b2", "b0"].index)


def test_no_more_is_taken_than_was_asked_for():
    """What is looked at again to find the next one is not taken twice."""
    turns = QueueTurns()
    turns.served("b")

    rows = ready_rows(Looking(), ClaimRequest(None, 3, "one", 0), turns)  # type: ignore[arg-type]

    assert 3 == len(rows) == len({row[0] for row in rows})
