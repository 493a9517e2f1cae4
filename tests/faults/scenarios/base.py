"""The base of every scenario: its registration, its sizes, a client, and servers that end with it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import attrs

from firelock import Firelock, StorageUnavailable
from firelock.model.state import FINAL_STATES
from firelock.task import TaskVerbs
from tests.faults.checker import check, stored
from tests.faults.ledger import Ledger, Tail, read_ledger
from tests.faults.servers import Place, Server, eventually


@attrs.frozen
class Size:
    """The size of a run of a scenario; its docstring describes what `jobs` and `rounds` count."""

    jobs: int
    rounds: int  # kills, restarts, repetitions
    seed: int = 0  # for random values, if a scenario accepts a seed


class NotHere(Exception):
    """This machine lacks something that the scenario needs."""


@attrs.frozen
class Scenario:
    """A deliberate fault."""

    name: str
    fault: str  # its number in the catalogue: docs/faults.md
    play: Callable[[Place, Size], list[str]]  # returns the figures; an AssertionError describes a failure
    full: Size  # for manual runs
    short: Size  # for runs with the tests
    schemes: tuple[str, ...]  # the storages for which it is intended; empty: all

    @property
    def title(self):
        """The first line of its docstring."""
        return (self.play.__doc__ or "").splitlines()[0]


SCENARIOS = {}


def scenario(name, fault, *, full, short, schemes=()):
    """Register a function as a scenario."""

    def register(play):
        SCENARIOS[name] = Scenario(name, fault, play, full, short, tuple(schemes))
        return play

    return register


@attrs.define(eq=False)
class Stage:
    """A client of the place's storage, the ledger of the scenario's own process, and its servers."""

    place: Place
    fire: Firelock
    ledger: Ledger
    servers: list[Server] = attrs.field(factory=list)
    acknowledged: set[str] = attrs.field(factory=set)
    _stubs: dict[str, TaskVerbs[Any, Any]] = attrs.field(factory=dict)

    def server(self, *, workers=4, processes=1, app="work", place=None):
        """Return a new server of one of the apps under test, at the stage's place unless another is given."""
        name = f"server-{len(self.servers) + 1}"
        server = Server(
            place or self.place, name, workers=workers, processes=processes,
            app=f"tests.faults.apps.{app}:fire",
        )  # fmt: skip
        self.servers.append(server)
        return server

    def serve(self, number=1, **options):
        """Return a number of new servers that have sessions."""
        servers = [self.server(**options) for _ in range(number)]
        self.up(*servers)
        return servers

    def replace(self, server, **options):
        """Return a server that replaces a server that has ended."""
        self.servers.remove(server)
        server.process.wait()
        return self.server(**options)

    def up(self, *servers, within=30):
        """Wait until every worker process of these servers, by default of all, has a session."""
        named = servers or tuple(self.servers)
        eventually(lambda: self._are_up(named), within, "servers are up")

    def _are_up(self, servers):
        pids = {
            record.session.pid
            for view in self.fire.servers.list()
            for record in view.sessions
            if record.is_alive
        }
        return all(
            len(children := server.children()) == server.processes and pids.issuperset(children)
            for server in servers
        )

    def forgetting_all(self):
        """Allow repeats of everything that the servers run in the block, because the storage loses data."""
        return forgetting(self.ledger, [pid for one in self.servers for pid in (one.pid, *one.family())])

    def note(self, what, *pids, at=None):
        """Write an event of these processes to the ledger, with the current time unless one is given."""
        self.ledger.write(what, note=",".join(map(str, pids)), at=at)

    # ---- jobs --------------------------------------------------------------------------------------------

    def task(self, name):
        """Return a stub of a task, whose code runs in the servers and takes a number of seconds."""
        if name not in self._stubs:

            def stub(seconds: float) -> int: ...

            self._stubs[name] = self.fire.task(name=name, remote=True)(stub)
        return self._stubs[name]

    def enqueue(self, jobs, seconds, *, task="work"):
        """Return the ids of this number of new jobs, acknowledged by the storage."""
        arguments = [(seconds() if callable(seconds) else seconds,) for _ in range(jobs)]
        ids = [job.id for job in self.task(task).enqueue_many(arguments)]
        self.acknowledged.update(ids)
        return ids

    def await_starts(self, ids, *, times=1, within=30):
        """Wait until each of the jobs has started this many times."""

        def have_started():
            starts = Counter(event.job for event in self.events() if event.what == "start")
            return all(starts[job_id] >= times for job_id in ids)

        eventually(have_started, within, f"jobs have started {times} times")

    def await_progress(self, within=30):
        """Return the seconds until a job that is enqueued from now on starts."""
        began, fresh, tail = time.monotonic(), [], Tail(self.place.ledger_folder)

        def has_started():
            if not fresh:
                try:
                    fresh.extend(self.enqueue(1, 0.0))
                except StorageUnavailable:
                    return False
            return tail.has_started(fresh[0])

        eventually(has_started, within, "a new job starts")
        return time.monotonic() - began

    def starts_after(self, at, pids=None, seconds=0.05):
        """Return whether a job has started after a time, in one of these processes if they are given."""
        self.keep_busy(20, seconds, by=20)
        return any(
            event.what == "start" and event.at > at and (pids is None or event.pid in pids)
            for event in self.events()
        )

    def release(self, until=lambda: True):
        """Let the held jobs end; wait until all jobs have ended and `until` holds."""
        mark = self.place.ledger_folder / "released"
        mark.touch()
        eventually(lambda: self.unfinished() == 0 and until(), 30, "released jobs have ended")
        mark.unlink()

    def unfinished(self):
        """Return the number of stored jobs that have not ended."""
        counts = self.fire.jobs.counts().by_state
        return sum(count for state, count in counts.items() if state not in FINAL_STATES)

    def keep_busy(self, least, seconds, *, by=1_000):
        """Enqueue jobs if fewer than `least` are unfinished."""
        if self.unfinished() < least:
            self.enqueue(by, seconds)

    def events(self):
        """Return the current events of the ledger."""
        return read_ledger(self.place.ledger_folder)

    def record(self, job_id):
        """Return a stored job."""
        record = self.fire.storage.get((job_id,))[0]
        assert record is not None, job_id
        return record

    def records(self, named=None):
        """Return the stored jobs with these ids, by default of all acknowledged ones."""
        ids = sorted(self.acknowledged) if named is None else named
        return [record for record in stored(self.fire.storage, ids) if record is not None]

    def await_end(self, within=120):
        """Wait until every job has ended."""
        eventually(lambda: self.unfinished() == 0, within, "all jobs have ended")

    def finish(self, within=120, *, repeats="explained", loses=False):
        """Wait until all jobs have ended well; return the report. Without repeats, no session may be lost."""
        self.await_end(within)
        report = self.report()
        report.assert_well(repeats=repeats, loses=loses)
        assert repeats != "none" or not self.log_count("was lost")
        return report

    def log_count(self, words):
        """Return how often these words occur in the servers' logs."""
        return sum(server.log.read_text().count(words) for server in self.servers)

    def report(self):
        """Return the report on the acknowledged jobs, from the current ledger."""
        return check(self.fire, self.acknowledged, self.events())


@contextmanager
def stage(place, **timings):
    """Yield a stage whose servers are always killed at the end. `timings` replace the place's timings."""
    changed = {f"FIRELOCK_{name.upper()}": str(value) for name, value in timings.items()}
    place = attrs.evolve(place, timings={**place.timings, **changed})
    fire = Firelock(place.storage, settings=place.settings)
    opened = Stage(place, fire, place.ledger())
    try:
        yield opened
    finally:
        for server in opened.servers:
            server.kill()
        fire.close()


def at(place, storage, name="", **timings):
    """Yield a stage with another storage, in a folder below the place's folder if a name is given."""
    folder = place.folder / name
    folder.mkdir(exist_ok=True)
    return stage(attrs.evolve(place, storage=storage, folder=folder), **timings)


@contextmanager
def every(pause, act):
    """Call a function repeatedly in a thread within the block, at least once."""
    over = threading.Event()

    def run():
        while True:
            act()
            if over.wait(pause):
                return

    thread = threading.Thread(target=run, name="acts")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def forgetting(ledger, pids):
    """Allow repeats of everything that these processes run in the block, with continuous ledger events.

    The effects of lost data become visible only later, and the processes continue until then.
    """

    def mark():
        ledger.write("freeze", note=",".join(map(str, pids)))

    mark()  # before any data is lost, because the thread may start late
    try:
        with every(0.02, mark):
            yield
    finally:
        mark()


BATCH = 10


@attrs.define(eq=False)
class Feed:
    """A client that enqueues continuously, whatever happens to the storage."""

    on: Stage
    fire: Firelock
    refusals: list[str] = attrs.field(factory=list)
    outages: list[float] = attrs.field(factory=list)  # seconds between successes, with refusals between them
    _over: threading.Event = attrs.field(factory=threading.Event)
    _ended: threading.Event = attrs.field(factory=threading.Event)
    _failed: list[BaseException] = attrs.field(factory=list)

    def run(self):
        """Store jobs until stopped; only acknowledged jobs count."""
        task = self.fire.task(name="work", remote=True)(stub)
        answered, is_refused = time.monotonic(), False
        try:
            while not self._over.wait(0.01):
                try:
                    jobs = task.enqueue_many([(0.005,)] * BATCH)
                except StorageUnavailable as error:
                    self.refusals.append(str(error))
                    is_refused = True
                    continue
                if is_refused:
                    self.outages.append(time.monotonic() - answered)
                answered, is_refused = time.monotonic(), False
                self.on.acknowledged.update(job.id for job in jobs)
        except BaseException as error:  # noqa: BLE001 - raised by `feeding`
            self._failed.append(error)
        finally:
            self._ended.set()

    def stop(self):
        """Stop enqueueing, and wait until the last call has returned."""
        self._over.set()
        self._ended.wait()

    @property
    def outage(self):
        """The longest time without a successful call, as a string."""
        return f"the longest outage for a client {max(self.outages, default=0):.1f} s"

    def end(self):
        """Raise the error of the thread, if there was one."""
        if self._failed:
            raise self._failed[0]


def stub(seconds: float) -> int:
    """Represent the task `work`."""


@contextmanager
def feeding(on, storage=None):
    """Yield a separate client that enqueues within the block."""
    with Firelock(storage or on.place.storage) as fire:
        feed = Feed(on, fire)
        thread = threading.Thread(target=feed.run, name="feed")
        thread.start()
        try:
            yield feed
        finally:
            feed.stop()
            thread.join()
        feed.end()
