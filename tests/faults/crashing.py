"""A process that dies at the n-th call of a storage's method, before or after its effect.

The tests check the consequences. A small program runs once to count its calls, and then once per point at
which it dies. After each death, a clean server completes the remaining work. Each run is a fork of this
process, which never opens the storage itself.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import attrs

from firelock import Every, Firelock, JobContext, Retry, Settings
from firelock.model.state import FINAL_STATES, State
from firelock.plugins.loader import open_storage
from firelock.storage import JobFilter
from firelock.testing import FaultyStorage
from tests.faults.checker import is_legal
from tests.faults.forked_processes import in_fork
from tests.faults.ledger import Ledger, read_ledger
from tests.faults.servers import eventually

CRASHED = 86  # the exit code of a process that died at its point
_SETTINGS = Settings(
    session_timeout=0.5, heartbeat=0.1, sweep=0.1, poll=0.05, grace=5, keep_deleted=0, workers=2
)
_NO_POINTS = frozenset({"close", "interrupt", "new_ids", "schema", "describe", "wait"})
_RECURRING = "each second"


@attrs.frozen
class Point:
    """The point at which a process dies."""

    verb: str
    number: int  # the number of the method's call, from 1
    is_after: bool  # the storage has executed the call, but the caller gets no reply


class CrashingStorage(FaultyStorage):
    """A storage that counts each method's calls, and ends the process at one of them."""

    def __init__(self, inside, point):
        super().__init__(inside)
        self.calls = Counter()
        self._point = point
        self._counting = threading.Lock()

    def pass_on(self, verb, *args, **kwargs):
        """Call the wrapped storage, and end the process at the point."""
        with self._counting:
            self.calls[verb] += 1
            here = Point(verb, self.calls[verb], is_after=False)
        if here == self._point:
            os._exit(CRASHED)
        answer = super().pass_on(verb, *args, **kwargs)
        if attrs.evolve(here, is_after=True) == self._point:
            os._exit(CRASHED)
        return answer


# ---- the program -----------------------------------------------------------------------------------------


class App:
    """An app with a task for each path through the code."""

    def __init__(self, storage, folder):
        self.fire = fire = Firelock(storage, settings=_SETTINGS)
        self.folder, self.ledger = folder, Ledger(folder)

        @fire.task(name="plain")
        def plain(job: JobContext) -> None:
            job.log("here")

        @fire.task(name="flaky", retry=Retry.fixed(0.01, attempts=3, jitter=0))
        def flaky(job: JobContext) -> None:
            if job.retries == 0:
                raise ValueError(job.id)

        self.plain, self.flaky = plain, flaky

    def acknowledge(self, *jobs):
        """Record that the jobs were acknowledged to their clients."""
        for job in jobs:
            self.ledger.write("acknowledged", job=job.id)

    def acknowledged(self):
        """Return the ids of jobs that must not be lost."""
        return [event.job for event in read_ledger(self.folder) if event.what == "acknowledged"]

    def unended(self, ids):
        """Return how many of the jobs have not ended."""
        records = self.fire.storage.get(list(ids))
        return sum(record is not None and record.state not in FINAL_STATES for record in records)


def play(url, folder, point):
    """Enqueue, schedule, continue, delete and recur; serve until all jobs have ended; write call counts."""
    storage = CrashingStorage(open_storage(url), point)
    app = App(storage, folder)
    app.plain.recur(_RECURRING, Every(timedelta(seconds=1)))
    app.acknowledge(app.plain.enqueue())
    app.acknowledge(*app.plain.enqueue_many([(), ()]))
    app.acknowledge(app.flaky.enqueue())
    app.acknowledge(app.plain.schedule(timedelta(seconds=0.1)))
    app.acknowledge(parent := app.plain.enqueue())
    app.acknowledge(parent.then(app.plain))
    app.plain.enqueue().delete()
    with app.fire.server(workers=2):
        ids, fired = app.acknowledged(), JobFilter(recurring_id=_RECURRING, state=State.SUCCEEDED)
        eventually(lambda: app.unended(ids) == 0, 10, "the jobs have ended")
        eventually(lambda: bool(storage.inside.find(fired, limit=1).jobs), 10, "a recurring job ran")
    (folder / "calls").write_text(json.dumps(storage.calls))


def recover(url, folder):
    """Complete the remaining work with a clean server, and write the errors that are left to a file."""
    app = App(url, folder)
    ids = app.acknowledged()
    with app.fire.server(workers=2):
        eventually(lambda: app.unended(ids) == 0, 10, "the jobs have ended")
        for recurring in app.fire.recurring.list():
            app.fire.recurring.remove(recurring.id)
        eventually(lambda: _left(app) == 0, 10, "nothing is left")
    (folder / "wrong").write_text(json.dumps(_wrong(app, ids)))
    app.fire.close()


def _left(app):
    counts = app.fire.jobs.counts().by_state
    return sum(count for state, count in counts.items() if state not in FINAL_STATES)


def _wrong(app, ids):
    records = app.fire.storage.get(ids)
    wrong = [f"{job_id} is lost" for job_id, record in zip(ids, records, strict=True) if record is None]
    every = app.fire.storage.find(JobFilter(), limit=500).jobs
    ended_well = {State.SUCCEEDED, State.DELETED}
    wrong += [f"{one.task} {one.id} is {one.state}" for one in every if one.state not in ended_well]
    wrong += [f"{one.id} has an illegal history" for one in every if not is_legal(app.fire, one.id)]
    return wrong + _wrong_instants([one for one in every if one.recurring_id])


def _wrong_instants(runs):
    due_times = sorted(run.nominal_at or 0 for run in runs)
    gaps = [after - before for before, after in pairwise(due_times)]
    return [f"{gap / 1e6:g} s between two recurring instants" for gap in gaps if gap != 1_000_000]


# ---- one run after another -------------------------------------------------------------------------------


def _clear(url):
    storage = open_storage(url)
    storage.clear()
    storage.close()


def _points(calls, most, depth):
    """Return points for the first calls of each method, evenly selected if there are too many."""
    every = [
        Point(verb, number, is_after)
        for verb, count in sorted(calls.items())
        if verb not in _NO_POINTS
        for number in range(1, min(count, depth) + 1)
        for is_after in (False, True)
    ]
    return [every[place * len(every) // most] for place in range(most)] if most < len(every) else every


def _try(url, folder, point):
    """Return the exit code of the program and the errors that were left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert in_fork(lambda: _clear(url)) == 0
    code = in_fork(lambda: play(url, folder, point))
    if in_fork(lambda: recover(url, folder)) != 0:
        return code, ["no clean server could finish"]
    return code, json.loads((folder / "wrong").read_text())


def main(url, folder, most, depth):
    """Return each point with the exit code of the program and the errors that were left."""
    tried = [(None, *_try(url, folder, None))]
    calls = json.loads((folder / "calls").read_text())
    return tried + [
        (attrs.astuple(point), *_try(url, folder, point)) for point in _points(calls, most, depth)
    ]
