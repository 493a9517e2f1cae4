"""Jobs that wait for an instant: scheduled ones and recurring ones."""

from __future__ import annotations

from datetime import datetime, timedelta

from firelock.context import JobContext
from firelock.cron import Every
from firelock.testing.conformance.server.stage import ServerFixtures, Stage
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["TimingDuty"]


class TimingDuty(ServerFixtures):
    """What is due at an instant runs then, once, however many servers look."""

    def test_a_scheduled_job_starts_at_its_instant(self, stage: Stage) -> None:
        """Never before it, and without waiting for the next sweep, which is a minute away here."""

        def runs() -> None: ...

        stage.app.task(name="kit.runs")(runs)
        app = stage.another_app(sweep=60)
        task = app.task(name="kit.runs")(runs)
        stage.serve(app)

        job = task.schedule(0.5)

        record = stage.ended(job)
        assert record.nominal_at is not None
        assert record.started_at is not None
        assert record.nominal_at <= record.started_at
        assert [State.SCHEDULED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_a_recurring_instant_makes_one_job_whoever_fires_it(self, stage: Stage) -> None:
        """With two servers each instant has one job, and that runs once."""
        instants: list[datetime] = []

        def ticks(context: JobContext) -> None:
            instants.append(context.due_at)

        task = stage.app.task(name="kit.ticks")(ticks)
        task.recur("tick", Every(timedelta(seconds=1)))

        stage.serve(stage.another_app())
        stage.serve(stage.another_app())
        eventually(lambda: len(set(instants)) >= 3)
        stage.app.recurring.remove("tick")

        jobs = list(stage.app.jobs.iterate(recurring="tick"))
        eventually(lambda: all(stage.record(job).state is State.SUCCEEDED for job in jobs))
        assert len(set(instants)) == len(instants)
        assert len(instants) == len(jobs)
