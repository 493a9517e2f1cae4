"""Which job runs first, and which not at all."""

from __future__ import annotations

from typing import Any

from firelock.task import TaskVerbs
from firelock.testing.conformance.server.stage import ServerFixtures, Stage
from firelock.values import State

__all__ = ["OrderingDuty"]

_MANY = 100


class OrderingDuty(ServerFixtures):
    """Priority within a queue, order or weights among queues, and queues that stand still."""

    def _noted(self, stage: Stage) -> tuple[TaskVerbs[..., Any], list[str]]:
        """Return a task and the list in which it notes the name it is called with."""
        names: list[str] = []

        def notes(name: str) -> None:
            names.append(name)

        return stage.app.task(name="kit.notes")(notes), names

    def test_higher_priority_runs_first_then_the_older_job(self, stage: Stage) -> None:
        """Within a queue only priority passes by age."""
        notes, names = self._noted(stage)
        jobs = [
            notes.using(priority=priority).enqueue(f"{priority} {place}")
            for place in range(2)
            for priority in (0, -5, 5)
        ]

        stage.serve(workers=1)
        for job in jobs:
            stage.ended(job)

        assert ["5 0", "5 1", "0 0", "0 1", "-5 0", "-5 1"] == names

    def test_a_later_queue_waits_until_the_former_is_empty(self, stage: Stage) -> None:
        """Listed queues are a strict order, whatever the priority of a job."""
        notes, names = self._noted(stage)
        jobs = [notes.using(queue="second", priority=100).enqueue("second") for _ in range(5)]
        jobs += [notes.using(queue="first").enqueue("first") for _ in range(5)]

        stage.serve(queues=["first", "second"], workers=1)
        for job in jobs:
            stage.ended(job)

        assert ["first"] * 5 + ["second"] * 5 == names

    def test_weighted_queues_share_and_none_starves(self, stage: Stage) -> None:
        """Of two full queues the heavier one is served more often, and the lighter one meanwhile."""
        notes, names = self._noted(stage)
        calls = [(queue,) for queue in ("light", "heavy")]
        jobs = [
            job for (queue,) in calls for job in notes.using(queue=queue).enqueue_many([(queue,)] * _MANY)
        ]

        stage.serve(queues="heavy:3,light:1", workers=1)
        for job in jobs:
            stage.ended(job)

        first_half = names[:_MANY]
        assert 0 < first_half.count("light") < first_half.count("heavy")

    def test_a_queue_that_no_server_serves_stands_still(self, stage: Stage) -> None:
        """A server takes nothing from a queue that it does not name."""
        notes, names = self._noted(stage)
        other = notes.using(queue="other").enqueue("other")
        job = notes.enqueue("default")

        stage.serve(queues=["default"])
        stage.ended(job)

        assert State.ENQUEUED == stage.record(other).state
        assert ["default"] == names

    def test_a_paused_queue_stands_still_until_it_is_resumed(self, stage: Stage) -> None:
        """Its jobs wait while others run, and run when it is resumed."""
        notes, names = self._noted(stage)
        stage.app.queues.pause("slow", note="a test")
        waiting = notes.using(queue="slow", priority=100).enqueue("slow")
        stage.serve()
        stage.ended(notes.enqueue("fast"))
        assert State.ENQUEUED == stage.record(waiting).state

        stage.app.queues.resume("slow")

        assert State.SUCCEEDED == stage.ended(waiting).state
        assert ["fast", "slow"] == names
