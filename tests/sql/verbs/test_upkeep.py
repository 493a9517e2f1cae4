"""Upkeep on database servers folds the counts of many queues correctly, and in few round trips."""

from __future__ import annotations

from firelock.storage import State

QUEUES = [f"queue-{number:03}" for number in range(300)]  # enough differences that they are worth folding


def test_fold_does_not_take_a_round_trip_for_each_queue(flow, proxy):
    """The counts of new and of known queues are written together, so a caller hardly waits for a fold.

    Some of the round trips prepare statements.
    """
    for jobs in (1, 2, 3):
        flow.storage.insert([flow.new_job(queue=queue) for queue in QUEUES])
        before = proxy.traffic

        flow.storage.promote(1)

        assert (proxy.traffic - before).trips <= len(QUEUES) // 10
        counted = flow.storage.counts().by_queue
        enqueued = {queue: counts[State.ENQUEUED] for queue, counts in counted.items()}
        assert dict.fromkeys(QUEUES, jobs) == enqueued
