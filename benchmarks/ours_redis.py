"""Firelock on Redis."""

from __future__ import annotations

from benchmarks import growth, ours, ours_served, redis_server
from benchmarks.entry import Figures, Load, run


def grown(load: Load) -> Figures:
    """Compare enqueueing and running with many finished and waiting jobs in the storage to those with few."""
    with redis_server.running(load.directory) as server, ours.opened(server.url) as app:
        ours.enqueue_bulk_of(app, jobs=growth.SOURCES, size=ours.CHUNK)
        ours.drained(app, load, jobs=growth.SOURCES)
        empty = ours.grown_verbs(app, load)
        ours.enqueue_bulk_of(app, jobs=load.stored, size=load.stored)
        ours.drained(app, load, jobs=load.stored)
        app.noop.using(queue=growth.WAITING).enqueue_many([(number,) for number in range(load.waiting)])
        lists = {"slowest_list_ms": ours.slowest_list_ms(app)}
        return growth.shares(empty, ours.grown_verbs(app, load)) | lists


SCENARIOS = {**ours_served.scenarios(redis_server.running), "growth": grown}

if __name__ == "__main__":
    run(SCENARIOS)
