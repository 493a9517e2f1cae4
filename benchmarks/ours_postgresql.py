"""Firelock on PostgreSQL."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial

from benchmarks import churn, growth, growth_postgresql, ours, ours_served, postgresql_server
from benchmarks.entry import Figures, Load, ScenarioFunction, run


def grown(load: Load) -> Figures:
    """Compare enqueueing and running with many finished and waiting jobs in the storage to those with few."""
    with postgresql_server.running(load.directory) as server, ours.opened(server.url) as app:
        ours.enqueue_bulk_of(app, jobs=growth.SOURCES, size=ours.CHUNK)
        ours.drained(app, load, jobs=growth.SOURCES)
        growth_postgresql.settle(server)
        empty = ours.grown_verbs(app, load)
        waiting = app.noop.using(queue=growth.WAITING)
        waiting.enqueue_many([(number,) for number in range(growth.SOURCES)])
        growth_postgresql.fill(server, prefix="firelock_", stored=load.stored, waiting=load.waiting)
        counts = app.fire.jobs.counts()
        succeeded = int(server.query("select count(*) from firelock_jobs where state = 'succeeded'"))
        if (counts.succeeded, counts.enqueued) != (succeeded, load.waiting):
            message = f"{succeeded} succeeded and {load.waiting} waiting jobs are stored, counts: {counts}"
            raise RuntimeError(message)
        lists = {"slowest_list_ms": ours.slowest_list_ms(app)}
        return growth.shares(empty, ours.grown_verbs(app, load)) | lists


def churned(load: Load, *, keeps_old_state: bool) -> Figures:
    """Compare the last tenth of an hour's jobs with the first."""
    with churn.watched(load) as watch, ours.opened(watch.server.url) as app:
        kept = churn.old_state_kept(watch.server.url) if keeps_old_state else nullcontext()
        with kept:
            ours.enqueue_bulk_of(app, jobs=churn.BACKLOG, size=churn.CHUNK)
            stored = churn.BACKLOG
            with ours.serving(load) as worker:
                watch.worker_seconds = worker.cpu_seconds
                while watch.goes_on(ended := ours.count_succeeded(app.fire)):
                    worker.assert_running("everything had run")
                    more = ended + churn.BACKLOG - stored
                    ours.enqueue_bulk_of(app, jobs=more, size=churn.CHUNK)
                    stored += more
                    while not watch.is_due():
                        time.sleep(churn.READING_SECONDS / 10)
                return watch.figures()


SCENARIOS: dict[str, ScenarioFunction] = {
    **ours_served.scenarios(postgresql_server.running),
    "growth": grown,
    "churn": partial(churned, keeps_old_state=False),
    "churn_kept": partial(churned, keeps_old_state=True),
}

if __name__ == "__main__":
    run(SCENARIOS)
