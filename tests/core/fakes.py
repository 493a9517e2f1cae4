"""What the unit tests share: a storage that fails as told, a worker by hand, waiting with a deadline."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections import defaultdict, deque

import attrs

from firelock import hookimpl
from firelock.context import Console
from firelock.model.clock import HostClocks, StorageClock
from firelock.model.session import ClaimHolder
from firelock.server.attempt import EndedRun, JobRunner
from firelock.storage import Applied, ClaimRequest, NewSession
from firelock.storage.memory import MemoryStorage

DEADLINE = 30.0  # seconds until a condition that does not come true fails its test


def until(is_so, seconds=DEADLINE):
    """Return as soon as the condition holds; it has to within the deadline."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        pause.wait(0.002)
    return found


def unmeasured():
    """The environment, less what has a process measure its coverage: that loads modules of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def plugin(**hooks):
    """A plugin with these functions as its hooks."""
    return type("Plugin", (), {name: staticmethod(hookimpl(hook)) for name, hook in hooks.items()})()


class ForeignTask:
    """A task of another library's, as Django's: its `call` runs the function, here and now."""

    def call(self, *args):
        """Nobody asked for that."""
        raise AssertionError(f"it ran, with {args!r}")


class Host:
    """A host whose clocks a test moves; they go on by themselves, unless they stand still."""

    def __init__(self, *, stands_still=False):
        self.passed = self.suspended = 0.0
        self.set_by = 1_700_000_000.0
        self.now = (lambda: 1_000.0) if stands_still else time.monotonic
        self.clocks = HostClocks(
            wall=lambda: self.now() + self.passed + self.suspended + self.set_by,
            elapsed=lambda: self.now() + self.passed + self.suspended,
            awake=lambda: self.now() + self.passed,
        )

    def wall_nanos(self):
        """The wall clock in nanoseconds, as SQLite's storage reads it."""
        return int(self.clocks.wall() * 1_000_000) * 1_000

    def clock_of(self, storage):
        """The clock of a client on this host."""
        return StorageClock(storage, self.clocks.elapsed, self.clocks)

    def serve(self, fire):
        """The app, as a program on this host has it."""
        fire.client.clock = self.clock_of(fire.storage)
        return fire

    def go_on(self, seconds):
        """So much time passes."""
        self.passed += seconds

    def set_clock(self, seconds):
        """The wall clock is set, forward or back."""
        self.set_by += seconds

    def suspend(self, seconds):
        """The machine is suspended so long: only CLOCK_MONOTONIC stands still."""
        self.suspended += seconds


@attrs.frozen
class Failure:
    """What one call of a verb raises; `is_late` where it has worked before the answer is lost."""

    error: Exception
    is_late: bool = False


class FailingStorage(MemoryStorage):
    """The storage in memory, whose next calls of a verb fail as told; it remembers what was called."""

    def __init__(self, name=""):
        super().__init__(name)
        self.failing = defaultdict(deque)
        self.always = {}
        self.called = defaultdict(list)

    def fail(self, verb, *errors, is_late=False):
        """The next calls of the verb raise these, one each."""
        self.failing[verb].extend(Failure(error, is_late) for error in errors)

    def fail_always(self, verb, error):
        """Every call of the verb raises this until `mend`."""
        self.always[verb] = error

    def mend(self):
        """Nothing fails any more."""
        self.failing.clear()
        self.always.clear()

    def call(self, verb, args, kwargs):
        self.called[verb].append(args)
        if verb in self.always:
            raise self.always[verb]
        failure = self.failing[verb].popleft() if self.failing[verb] else None
        if failure and not failure.is_late:
            raise failure.error
        answer = getattr(MemoryStorage, verb)(self, *args, **kwargs)
        if failure:
            raise failure.error
        return answer


def failing(verb):
    def call(self, *args, **kwargs):
        return self.call(verb, args, kwargs)

    return call


class HostStorage(FailingStorage):
    """The same, with the wall clock of a host for its clock, as it is by default."""

    def __init__(self, host, name=""):
        super().__init__(name)
        self.host = host

    def clock(self):
        return self.host.wall_nanos() // 1_000 + self.clock_offset


for verb, _ in inspect.getmembers(MemoryStorage, inspect.isfunction):
    if not verb.startswith("_"):
        setattr(FailingStorage, verb, failing(verb))


class Worker:
    """Runs an app's jobs here and now, one after another, as a server's thread would."""

    def __init__(self, fire, name="host:a"):
        self.fire = fire
        self.holder = ClaimHolder(f"session of {name}", name)
        self.console = Console(fire.client.clock.now)
        self.runner = JobRunner(fire.runtime, self.console)
        fire.storage.begin_session(
            NewSession(self.holder.session, f"server of {name}", name, "host", 7, 0, 1e9, 1, "*")
        )

    def claim(self, limit=100):
        """What could be claimed."""
        return self.fire.storage.claim(
            ClaimRequest(None, limit, self.holder.session, self.fire.client.clock.now())
        ).jobs

    def attempt(self, job):
        """How one run of a claimed job ended; nothing is written."""
        run = self.runner.prepare(job, self.holder)
        return run if isinstance(run, EndedRun) else self.runner.run(run)

    def run(self, limit=100):
        """Run what is enqueued and settle it; return the ends."""
        ended = [self.attempt(job) for job in self.claim(limit)]
        self.console.flush(self.fire.storage)
        results = self.fire.storage.apply([end.transition for end in ended])
        if Applied.RELEASING in results:
            self.fire.storage.release(1_000)
        return ended
