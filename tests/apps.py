"""The smallest possible app, for tests that count the cost of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import attrs

from firelock import Firelock, Settings
from firelock.model.state import State
from firelock.task import Task
from firelock.testing import eventually

# Periodic work is so rare that it is not counted with the jobs.
_SELDOM = Settings(poll=60, sweep=60, heartbeat=20, session_timeout=60)


@attrs.frozen
class App:
    """An application with one task that does nothing."""

    fire: Firelock
    noop: Task[[int], None]

    def await_succeeded(self, number: int) -> None:
        """Wait until this number of jobs have succeeded in total."""
        eventually(lambda: self.fire.jobs.counts().by_state.get(State.SUCCEEDED, 0) == number, within=60)


@contextmanager
def app_at(url: str) -> Iterator[App]:
    """Yield the app on the storage at this URL; it is closed afterwards."""
    with closing(Firelock(url, settings=_SELDOM)) as fire:
        yield App(fire, fire.task(name="noop")(lambda number: None))
