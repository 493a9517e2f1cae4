"""A claim of every queue ends, even if other transactions unlock rows while it reads."""

from __future__ import annotations

from firelock.storage import ClaimRequest
from firelock_sql.verbs.claim import QueueTurns, ReadyRow, ready_rows

MOST_READS = 20


class TwoQueues:
    """A transaction that finds rows in two queues.

    One row is unlocked after the first read and comes first.
    """

    adds_deltas = True

    def __init__(self):
        self.ready = {"a": ["a1"], "b": ["b1", "b2", "b3"]}
        self.reads = 0

    def one(self, statement, previous):
        """Return the row of the queue after this one, or None after the last."""
        return min(((queue,) for queue in self.ready if queue > previous), default=None)

    def all(self, statement, queue=None, most=0):
        """Return the first rows of a queue; no queue is paused."""
        if queue is None:
            return []
        self.reads += 1
        assert self.reads <= MOST_READS, "it reads without an end"
        found = [row_of(id, queue) for id in self.ready[queue]][:most]
        if queue == "b" and "b0" not in self.ready["b"]:
            self.ready["b"].insert(0, "b0")
        return found


def row_of(id: str, queue: str) -> ReadyRow:
    """Return a row with the columns that the choice reads."""
    return (id, "task", "{}", "json", queue)


def test_job_unlocked_before_claimed_ones_is_claimed_next():
    """Because of this job, the others are one position further back.

    The rows that were read are remembered, so they are not read repeatedly.
    """
    turns = QueueTurns()
    turns.served("b")

    # type: ignore[arg-type]  # all that the function uses
    rows = ready_rows(TwoQueues(), ClaimRequest(None, 4, "one", 0), turns)

    assert ["a1", "b1", "b2", "b0"] == sorted((row[0] for row in rows), key=["a1", "b1", "b2", "b0"].index)


def test_claim_returns_at_most_the_requested_jobs():
    """If rows are read again to find the next job, they are not claimed twice."""
    turns = QueueTurns()
    turns.served("b")

    rows = ready_rows(TwoQueues(), ClaimRequest(None, 3, "one", 0), turns)  # type: ignore[arg-type]

    assert 3 == len(rows) == len({row[0] for row in rows})
