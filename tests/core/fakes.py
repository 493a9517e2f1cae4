"""Shared helpers of the unit tests: a failing storage, a manual worker, and waits with a deadline."""

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
from firelock.server.run import EndedRun, JobRunner
from firelock.storage import Applied, ClaimRequest, NewSession
from firelock.storage.memory import MemoryStorage

# seconds after which a test fails if its condition is still not true
DEADLINE = 30.0


def until(is_so, seconds=DEADLINE):
    """Wait until the condition is true and return its value; fail after the deadline."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        pause.wait(0.002)
    return found


def unmeasured():
    """Return the environment without the variables that enable coverage, which loads its own modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def plugin(**hooks):
    """Return a plugin with these functions as its hooks."""
    return type("Plugin", (), {name: staticmethod(hookimpl(hook)) for name, hook in hooks.items()})()


class ForeignTask:
    """A task of another library, for example Django. Its `call` runs the function immediately."""

    def call(self, *args):
        """Fail: no test may run the function."""
        raise AssertionError(f"it ran, with {args!r}")


class Host:
    """A host whose clocks a test moves. The clocks advance with real time unless they are stopped."""

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
        """Return the wall clock in nanoseconds, as SQLite's storage reads it."""
        return int(self.clocks.wall() * 1_000_000) * 1_000

    def clock_of(self, storage):
        """Return the clock of a client on this host."""
        return StorageClock(storage, self.clocks.elapsed, self.clocks)

    def serve(self, fire):
        """Return the app with the clock of a program on this host."""
        fire.client.clock = self.clock_of(fire.storage)
        return fire

    def go_on(self, seconds):
        """Advance all clocks by this number of seconds."""
        self.passed += seconds

    def set_clock(self, seconds):
        """Set the wall clock forward or back."""
        self.set_by += seconds

    def suspend(self, seconds):
        """Suspend the machine for this number of seconds. Only CLOCK_MONOTONIC does not advance."""
        self.suspended += seconds


@attrs.frozen
class Failure:
    """The error that a call raises. If `is_late` is true, the call takes effect before it raises."""

    error: Exception
    is_late: bool = False


class FailingStorage(MemoryStorage):
    """A storage in memory whose calls can be made to fail; it records its calls."""

    def __init__(self, name=""):
        super().__init__(name)
        self.failing = defaultdict(deque)
        self.always = {}
        self.called = defaultdict(list)

    def fail(self, verb, *errors, is_late=False):
        """Make the next calls of this method raise these errors, one each."""
        self.failing[verb].extend(Failure(error, is_late) for error in errors)

    def fail_always(self, verb, error):
        """Make every call of this method raise this error until `recover` is called."""
        self.always[verb] = error

    def recover(self):
        """Let all calls succeed again."""
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
    """A failing storage that uses the wall clock of a host, as the memory storage does by default."""

    def __init__(self, host, name=""):
        super().__init__(name)
        self.host = host

    def clock(self):
        return self.host.wall_nanos() // 1_000 + self.clock_offset


for verb, _ in inspect.getmembers(MemoryStorage, inspect.isfunction):
    if not verb.startswith("_"):
        setattr(FailingStorage, verb, failing(verb))


class Worker:
    """A worker that runs an app's jobs in this thread, one after another, as a server's thread does."""

    def __init__(self, fire, name="host:a"):
        self.fire = fire
        self.holder = ClaimHolder(f"session of {name}", name)
        self.console = Console(fire.client.clock.now)
        self.runner = JobRunner(fire.runtime, self.console)
        fire.storage.begin_session(
            NewSession(self.holder.session, f"server of {name}", name, "host", 7, 0, 1e9, 1, "*")
        )

    def claim(self, limit=100):
        """Return the claimed jobs."""
        return self.fire.storage.claim(
            ClaimRequest(None, limit, self.holder.session, self.fire.client.clock.now())
        ).jobs

    def attempt(self, job):
        """Run a claimed job once and return how the run ended, without storing the end."""
        run = self.runner.prepare(job, self.holder)
        return run if isinstance(run, EndedRun) else self.runner.run(run)

    def run(self, limit=100):
        """Run the enqueued jobs, settle them and return their ends."""
        ended = [self.attempt(job) for job in self.claim(limit)]
        self.console.flush(self.fire.storage)
        results = self.fire.storage.apply([end.transition for end in ended])
        if Applied.RELEASE_NEEDED in results:
            self.fire.storage.release(1_000)
        return ended
