"""What every scenario is made of: its registration, its sizes, a client, servers that end with it."""

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
    """How much of a scenario to play: what `jobs` and `rounds` count is said in its docstring."""

    jobs: int
    rounds: int  # kills, restarts, repetitions
    seed: int = 0  # of what is drawn by chance, where a scenario says that it can be given


class NotHere(Exception):
    """This machine has not what the scenario needs."""


@attrs.frozen
class Scenario:
    """A fault on purpose."""

    name: str
    fault: str  # its number in the catalogue: docs/faults.md
    play: Callable[[Place, Size], list[str]]  # returns the figures; an AssertionError says what is wrong
    full: Size  # by hand
    short: Size  # with the tests
    schemes: tuple[str, ...]  # the storages it is for; empty: every one

    @property
    def title(self):
        """The first line of its description."""
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
        """Return a new server of one of the apps under test, at the stage's place unless one is named."""
        name = f"server-{len(self.servers) + 1}"
        server = Server(
            place or self.place, name, workers=workers, processes=processes,
            app=f"tests.faults.apps.{app}:fire",
        )  # fmt: skip
        self.servers.append(server)
        return server

    def serve(self, number=1, **options):
        """Return so many new servers, which are up."""
        servers = [self.server(**options) for _ in range(number)]
        self.up(*servers)
        return servers

    def replace(self, server, **options):
        """Return a server in the place of one that is gone."""
        self.servers.remove(server)
        server.process.wait()
        return self.server(**options)

    def up(self, *servers, within=30):
        """Each child of the servers, of all unless named, holds a session."""
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
        """What the servers run meanwhile may be run again: the storage forgets."""
        return forgetting(self.ledger, [pid for one in self.servers for pid in (one.pid, *one.family())])

    def note(self, what, *pids, at=None):
        """The ledger says what has befallen the processes, now unless an instant is given."""
        self.ledger.write(what, note=",".join(map(str, pids)), at=at)

    # ---- jobs --------------------------------------------------------------------------------------------

    def task(self, name):
        """Return a stub of a task: the code runs in the servers. It takes a number of seconds."""
        if name not in self._stubs:

            def stub(seconds: float) -> int: ...

            self._stubs[name] = self.fire.task(name=name, remote=True)(stub)
        return self._stubs[name]

    def enqueue(self, jobs, seconds, *, task="work"):
        """Return the ids of so many jobs, acknowledged by the storage."""
        arguments = [(seconds() if callable(seconds) else seconds,) for _ in range(jobs)]
        ids = [job.id for job in self.task(task).enqueue_many(arguments)]
        self.acknowledged.update(ids)
        return ids

    def await_starts(self, ids, *, times=1, within=30):
        """Each of the jobs has started so often."""

        def have_started():
            starts = Counter(event.job for event in self.events() if event.what == "start")
            return all(starts[job_id] >= times for job_id in ids)

        eventually(have_started, within, f"jobs have started {times} times")

    def await_progress(self, within=30):
        """Return how long it took until a job started that was enqueued from now on."""
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
        """Tell whether a job has started after an instant, in one of the processes where they are named."""
        self.keep_busy(20, seconds, by=20)
        return any(
            event.what == "start" and event.at > at and (pids is None or event.pid in pids)
            for event in self.events()
        )

    def release(self, until=lambda: True):
        """Jobs that are there until they are let go end now; all have ended, and `until` holds."""
        mark = self.place.ledger_folder / "released"
        mark.touch()
        eventually(lambda: self.unfinished() == 0 and until(), 30, "released jobs have ended")
        mark.unlink()

    def unfinished(self):
        """Return how many stored jobs have not ended."""
        counts = self.fire.jobs.counts().by_state
        return sum(count for state, count in counts.items() if state not in FINAL_STATES)

    def keep_busy(self, least, seconds, *, by=1_000):
        """There are at least so many unfinished jobs."""
        if self.unfinished() < least:
            self.enqueue(by, seconds)

    def events(self):
        """Return what the ledger says by now."""
        return read_ledger(self.place.ledger_folder)

    def record(self, job_id):
        """Return a job as it is stored."""
        record = self.fire.storage.get((job_id,))[0]
        assert record is not None, job_id
        return record

    def records(self, named=None):
        """Return the jobs that are stored, of all that were acknowledged unless named."""
        ids = sorted(self.acknowledged) if named is None else named
        return [record for record in stored(self.fire.storage, ids) if record is not None]

    def await_end(self, within=120):
        """Every job has ended."""
        eventually(lambda: self.unfinished() == 0, within, "all jobs have ended")

    def finish(self, within=120, *, repeats="explained", loses=False):
        """Return the report once all jobs have ended, and well; without repeats no session was lost."""
        self.await_end(within)
        report = self.report()
        report.assert_well(repeats=repeats, loses=loses)
        assert repeats != "none" or not self.said("was lost")
        return report

    def said(self, words):
        """Return how often the servers' logs have these words."""
        return sum(server.log.read_text().count(words) for server in self.servers)

    def report(self):
        """Return the report on what was acknowledged and what the ledger says by now."""
        return check(self.fire, self.acknowledged, self.events())


@contextmanager
def stage(place, **timings):
    """Open a stage; its servers are killed at the end, whatever happens. Timings replace the place's."""
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
    """Open a stage at another storage than the place's, in a folder below the place's where that is named."""
    folder = place.folder / name
    folder.mkdir(exist_ok=True)
    return stage(attrs.evolve(place, storage=storage, folder=folder), **timings)


@contextmanager
def every(pause, act):
    """Meanwhile a thread does it time after time, and once at least."""
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
    """What these processes run meanwhile may be run again, and the ledger says so all the time.

    What the storage forgets of them shows later, and they go on until then.
    """

    def mark():
        ledger.write("freeze", note=",".join(map(str, pids)))

    mark()  # before anything is forgotten: the thread may begin late
    try:
        with every(0.02, mark):
            yield
    finally:
        mark()


BATCH = 10


@attrs.define(eq=False)
class Feed:
    """A client that enqueues all the time, through whatever befalls the storage."""

    on: Stage
    fire: Firelock
    refusals: list[str] = attrs.field(factory=list)
    outages: list[float] = attrs.field(factory=list)  # seconds between two answers, refusals between them
    _over: threading.Event = attrs.field(factory=threading.Event)
    _ended: threading.Event = attrs.field(factory=threading.Event)
    _failed: list[BaseException] = attrs.field(factory=list)

    def run(self):
        """Jobs are stored until it is over; each that was acknowledged counts, no other."""
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
        """The last call has been answered: nothing is enqueued any more."""
        self._over.set()
        self._ended.wait()

    @property
    def outage(self):
        """For how long the client had no answer."""
        return f"the longest outage for a client {max(self.outages, default=0):.1f} s"

    def end(self):
        """What went wrong is raised."""
        if self._failed:
            raise self._failed[0]


def stub(seconds: float) -> int:
    """Stand for the task `work`."""


@contextmanager
def feeding(on, storage=None):
    """Yield a client of its own that enqueues meanwhile."""
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
