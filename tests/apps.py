"""The smallest app there is, for tests that count what a job costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import attrs

from firelock import Firelock, Settings
from firelock.model.state import State
from firelock.task import Task
from firelock.testing import eventually

# What is done by the clock is so seldom that it is not counted with the jobs.
_SELDOM = Settings(poll=60, sweep=60, heartbeat=20, session_timeout=60)


@attrs.frozen
class App:
    """An application with one task, which does nothing."""

    fire: Firelock
    noop: Task[[int], None]

    def await_succeeded(self, number: int) -> None:
        """So many jobs have succeeded in all."""
        eventually(lambda: self.fire.jobs.counts().by_state.get(State.SUCCEEDED, 0) == number, within=60)


@contextmanager
def app_at(url: str) -> Iterator[App]:
    """Yield the app on the storage at this URL; it is closed afterwards."""
    with closing(Firelock(url, settings=_SELDOM)) as fire:
        yield App(fire, fire.task(name="noop")(lambda number: None))
