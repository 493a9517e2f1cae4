"""A storage, with or without servers, on which loads are run one after another.

`python -m benchmarks.composition.loads STORAGE SERVERS FOLDER` is a stage. Each input line is a kind of
load and a number of jobs. The stage runs in the checkout of its interpreter, even in one without batches.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import ours, places, stage
from benchmarks.claimer import Claimer
from benchmarks.entry import Figures, exit_on_signal
from benchmarks.places import Place
from benchmarks.servers import Server

APP = "benchmarks.composition.application"
CLAIM = 100
CHECK_SECONDS = 0.01
LONGEST_SECONDS = 600.0


class Loads:
    """The loads that can be run on a storage."""

    def __init__(self, app: ModuleType, place: Place, group: Sequence[Server]) -> None:
        self._app, self._fire, self._place, self._group = app, app.fire, place, group
        self._claimer = None if group else Claimer(app.fire)

    def run(self, kind: str, number: str) -> Figures:
        """Return the figures of one load."""
        kinds: dict[str, Callable[[int], Figures]] = {
            "plain": partial(self._queued, self._store_plain, 0),
            "members": partial(self._queued, self._store_batch, 1),
            "at-once": self._at_once,
            "batch-at-once": self._batch_at_once,
            "bare": partial(self._bare, self._store_plain),
            "bare-members": partial(self._bare, self._store_batch),
            "fan-in": self._fan_in,
            "steps": self._steps,
            "waits": self._waits,
            "calls": self._calls,
        }
        return kinds[kind](int(number))

    # ---- storing -----------------------------------------------------------------------------------------

    def _store_plain(self, jobs: int) -> None:
        self._app.plain.enqueue_many([(number,) for number in range(jobs)])

    def _store_batch(self, jobs: int, *, follows: bool = False) -> tuple[Any, Any]:
        """Store a batch; return it and its continuation."""
        call, following = self._app.plain.call, None
        with self._fire.batch("measured") as batch:
            batch.add_many([call(number) for number in range(jobs)])
            if follows:
                following = batch.then(self._app.after, 0)
        return batch, following

    # ---- with servers ------------------------------------------------------------------------------------

    def _used(self) -> float:
        servers = sum(server.cpu_seconds() for server in self._group)
        return self._place.cpu_seconds() + servers + time.process_time()

    def _queued(self, store: Callable[[int], object], batches: int, jobs: int) -> Figures:
        """Store all jobs while the queue is paused, then let servers run them."""
        wanted = ours.count_succeeded(self._fire) + jobs + batches
        self._fire.queues.pause(self._app.QUEUE)
        used, begun = self._used(), time.perf_counter()
        store(jobs)
        stored, used_by_storing = time.perf_counter() - begun, self._used() - used
        used, since = self._used(), datetime.now(UTC)
        self._fire.queues.resume(self._app.QUEUE)
        places.wait_for(self._group[0], self._fire, wanted)
        used_by_running = self._used() - used
        ran = (self._end("plain") - self._end("plain", since=since)).total_seconds()
        return {
            "stored_per_s": jobs / stored,
            "run_per_s": (jobs - 1) / ran,
            "whole_per_s": jobs / (stored + ran),
            "stored_cpu_us": used_by_storing / jobs * 1e6,
            "run_cpu_us": used_by_running / jobs * 1e6,
        }

    def _end(self, task: str, *, since: datetime | None = None) -> datetime:
        """Return the time of the last end of a task's job, or of the first end since a time."""
        where: dict[str, Any] = {"task": task, "state": "succeeded", "limit": 1}
        if since is not None:
            where |= {"since": since, "oldest_first": True}
        (job,) = self._fire.jobs.find(**where)
        return ours.end_of(job)

    def _at_once(self, jobs: int) -> Figures:
        """Store plain jobs while servers run them; return the seconds until the last job has ended."""
        wanted, begun = ours.count_succeeded(self._fire) + jobs, datetime.now(UTC)
        self._store_plain(jobs)
        stored = datetime.now(UTC)
        places.wait_for(self._group[0], self._fire, wanted)
        return _seconds(begun, stored, self._end("plain"))

    def _batch_at_once(self, jobs: int) -> Figures:
        """Store a batch while servers run its members; return the seconds until the batch has ended."""
        begun = datetime.now(UTC)
        batch, _ = self._store_batch(jobs)
        stored = datetime.now(UTC)
        self._wait(lambda: batch.refresh().ended_at is not None, f"a batch of {jobs} had ended")
        return _seconds(begun, stored, ours.end_of(batch))

    def _fan_in(self, jobs: int) -> Figures:
        """Return the ms from the last member's end to the batch's end, and to the enqueue of its callback."""
        self._fire.queues.pause(self._app.QUEUE)
        batch, following = self._store_batch(jobs, follows=True)
        self._fire.queues.resume(self._app.QUEUE)
        self._wait(lambda: following.refresh().ended_at is not None, "the callback of the batch had run")
        last, ended = self._end("plain"), ours.end_of(batch.refresh())
        enqueued = next(step.at for step in following.history() if step.state == "enqueued")
        started = following.started_at
        return {
            "batch_ended_ms": (ended - last) / timedelta(milliseconds=1),
            "callback_enqueued_ms": (enqueued - last) / timedelta(milliseconds=1),
            "callback_started_ms": (started - last) / timedelta(milliseconds=1),
        }

    def _steps(self, jobs: int) -> Figures:
        """Run jobs with 20 steps each."""
        wanted = ours.count_succeeded(self._fire) + jobs
        self._fire.queues.pause(self._app.QUEUE)
        self._app.steps.enqueue_many([(number,) for number in range(jobs)])
        used, begun = self._used(), datetime.now(UTC)
        self._fire.queues.resume(self._app.QUEUE)
        places.wait_for(self._group[0], self._fire, wanted)
        used = self._used() - used
        steps = jobs * self._app.STEPS
        return {
            "steps_per_s": steps / (self._end("steps") - begun).total_seconds(),
            "cpu_us_per_step": used / steps * 1e6,
        }

    def _waits(self, jobs: int) -> Figures:
        """Let each job wait for a signal, send all signals, and let the jobs continue."""
        wanted, asleep = ours.count_succeeded(self._fire) + jobs, self._awaiting() + jobs
        self._fire.queues.pause(self._app.QUEUE)
        handles = self._app.waits.enqueue_many([(number,) for number in range(jobs)])
        used, begun = self._used(), time.perf_counter()
        self._fire.queues.resume(self._app.QUEUE)
        self._wait(lambda: self._awaiting() >= asleep, f"{jobs} jobs waited")
        suspended, used_by_suspending = time.perf_counter() - begun, self._used() - used
        self._fire.queues.pause(self._app.QUEUE)
        used, begun = self._used(), time.perf_counter()
        for number, handle in enumerate(handles):
            self._app.word.send(handle, number)
        sent, since = time.perf_counter() - begun, datetime.now(UTC)
        used = self._used() - used
        self._fire.queues.resume(self._app.QUEUE)
        places.wait_for(self._group[0], self._fire, wanted)
        resumed = (self._end("waits") - since).total_seconds()
        return {
            "suspensions_per_s": jobs / suspended,
            "signals_per_s": jobs / sent,
            "resumes_per_s": jobs / resumed,
            "cpu_us_per_suspension": used_by_suspending / jobs * 1e6,
            "cpu_us_per_signal": used / jobs * 1e6,
        }

    def _calls(self, jobs: int) -> Figures:
        """Run jobs that each call another job and wait for it."""
        wanted = ours.count_succeeded(self._fire) + 2 * jobs
        self._fire.queues.pause(self._app.QUEUE)
        self._app.calls.enqueue_many([(number,) for number in range(jobs)])
        used, begun = self._used(), datetime.now(UTC)
        self._fire.queues.resume(self._app.QUEUE)
        places.wait_for(self._group[0], self._fire, wanted)
        used = self._used() - used
        return {
            "calls_per_s": jobs / (self._end("calls") - begun).total_seconds(),
            "cpu_us_per_call": used / jobs * 1e6,
        }

    def _awaiting(self) -> int:
        return int(self._fire.jobs.counts().by_state.get("awaiting", 0))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds, which is checked every 10 ms."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            self._group[0].assert_running(what)
            if time.monotonic() > deadline:
                raise self._group[0].failed(f"{LONGEST_SECONDS:.0f} s passed before {what}")
            time.sleep(CHECK_SECONDS)

    # ---- without servers ---------------------------------------------------------------------------------

    def _bare(self, store: Callable[[int], object], jobs: int) -> Figures:
        """Store jobs, then claim and settle them by the hundred, as servers do."""
        assert self._claimer is not None
        used, begun = self._used(), time.perf_counter()
        store(jobs)
        stored, used_by_storing = time.perf_counter() - begun, self._used() - used
        used, begun, done = self._used(), time.perf_counter(), 0
        while claimed := self._claimer.claim(CLAIM):
            done += len(claimed)
        while self._fire.storage.release(1_000):
            pass
        ran = time.perf_counter() - begun
        if done != jobs:
            message = f"{done} of {jobs} jobs were claimed"
            raise RuntimeError(message)
        return {
            "stored_per_s": jobs / stored,
            "run_per_s": jobs / ran,
            "whole_per_s": jobs / (stored + ran),
            "stored_cpu_us": used_by_storing / jobs * 1e6,
            "run_cpu_us": (self._used() - used) / jobs * 1e6,
        }


def _seconds(begun: datetime, stored: datetime, ended: datetime) -> Figures:
    return {"stored_s": (stored - begun).total_seconds(), "ended_s": (ended - begun).total_seconds()}


def main() -> None:
    """Run the loads that standard input contains, one per line."""
    storage, number, folder = sys.argv[1:]
    exit_on_signal()
    with places.opened(storage, Path(folder)) as place:
        os.environ["FIRELOCK_STORAGE"] = place.url
        from benchmarks.composition import (
            application as app,  # it reads the storage's URL when it is imported
        )

        app.fire.storage.migrate()
        with places.serving(place, f"{APP}:fire", number=int(number)) as group:
            if group:
                places.wait_for_servers(group[0], app.fire, int(number))
            stage.serve(Loads(app, place, group).run)
        app.fire.close()


if __name__ == "__main__":
    main()
