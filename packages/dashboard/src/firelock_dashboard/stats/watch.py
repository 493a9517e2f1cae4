"""One look at everything, for all who ask within two seconds: the overview, its parts, its banners."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock import FirelockError
from firelock.control.findings import EndedRuns, Sight, look
from firelock.storage import Feature
from firelock_dashboard.stats.causes import NO_HOURS, Cause, Causes, Hours, added, strips
from firelock_dashboard.web.formatting import instant, micros

if TYPE_CHECKING:
    from firelock import Diagnosis, Firelock, LimitView, Operation, Outcome
    from firelock.storage import FailureGroup
    from firelock_dashboard.stats.history import History, TaskStats

log = logging.getLogger(__name__)

T = TypeVar("T")

_KEYS = 500  # of limits, of a page
_KEY_PAGES = 4
_CAUSES = 100
_OPERATIONS = 10
_QUICK = 0.02  # seconds; a reading that took no longer is repeated whenever something has changed
_WRITTEN_LATE = timedelta(seconds=10)  # so long behind its instant the end of a job may be stored


@attrs.frozen
class _Age:
    """How long something counts as new, and how long it is shown while it is read again beside."""

    new: float  # seconds
    shown: float


_SIGHT = _Age(2.0, 2.0)
_KEYS_AGE = _Age(4.0, 4.0)
_GROUPS = _Age(10.0, 60.0)
_STRIPS = _Age(30.0, 120.0)
_OUTCOMES = _Age(5.0, 5.0)
_READINGS = {  # of `findings.look`
    "waits": _Age(4.0, 15.0),
    "muted": _GROUPS,
    "storage": _Age(30.0, float("inf")),
    "samples": _Age(30.0, float("inf")),
}


@attrs.define
class _Reading:
    value: Any
    read_at: float
    took: float  # seconds
    is_read_again: bool = False


class Watch:
    """Snapshots of a dashboard's app, shared by whoever asks at about the same time.

    What costs more than a few milliseconds is read again in a thread while the former value is shown; only
    who comes after a long pause waits for it.
    """

    def __init__(
        self,
        fire: Firelock,
        history: History,
        *,
        is_read_only: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fire = fire
        self._history = history
        self._monotonic = monotonic
        self._lock = threading.RLock()  # what is kept may be made of what is kept
        self._kept: dict[str, _Reading] = {}
        self.remembered = Causes(fire, is_read_only=is_read_only)

    def sight(self) -> Sight:
        """Return what there is to see, at most two seconds old."""
        return self._keep("sight", _SIGHT, self._look)

    def failure_groups(self, limit: int = 5) -> list[FailureGroup]:
        """Return the largest groups of failed jobs, about ten seconds old."""
        jobs = self._fire.jobs
        return self._keep(f"groups {limit}", _GROUPS, lambda: jobs.failure_groups(limit))

    def causes(self) -> list[Cause]:
        """Return the hundred largest causes of failures and those that are muted, about ten seconds old."""
        return self._keep("causes", _GROUPS, self._causes)

    def hours_of(self, fingerprint: str) -> tuple[int, ...]:
        """Return how many jobs of a cause failed in each of the last 24 hours, those of a moment ago too."""
        return self._hours(fingerprint).get(fingerprint, NO_HOURS)

    def muted(self) -> set[str]:
        """Return the fingerprints of the causes that are muted, about ten seconds old."""
        return self._keep("muted", _GROUPS, lambda: self.remembered.muted(self._now()))

    def outcome(self, operation: Operation) -> Outcome | None:
        """Return what came of a requeue as far as it is known, about five seconds old."""
        if operation.outcome is not None or not operation.changed:
            return operation.outcome
        operations = self._fire.operations
        return self._keep(f"outcome {operation.id}", _OUTCOMES, lambda: operations.outcome(operation.id))

    def operations(self) -> Sequence[Operation]:
        """Return the ten newest operations, about five seconds old."""
        operations = self._fire.operations
        return self._keep("operations", _OUTCOMES, lambda: operations.list(limit=_OPERATIONS).operations)

    def diagnosis(self) -> Diagnosis:
        """Return what is right and wrong with the app and its storage, about ten seconds old."""
        return self._keep("diagnosis", _GROUPS, self._fire.diagnose)

    def limit_keys(self) -> Sequence[LimitView]:
        """Return the first 2,000 keys of limits, about four seconds old; none where the storage has none."""
        return self._keep("limit keys", _KEYS_AGE, lambda: [*self._limit_keys()])

    def forget(self, *, keeps_days: bool = True) -> None:
        """What is asked for next is read anew: somebody has just changed something.

        Args:
            keeps_days: the days of causes stay; they take their time, and one action changes little of them.
        """
        kept = ("findings", "strips") if keeps_days else ("findings",)
        with self._lock:
            self._kept = {name: self._kept[name] for name in kept if name in self._kept}

    def expire(self) -> None:
        """Something has changed: forget the sight, and the readings that take a moment only.

        Slow readings stay until they are old, so that a busy storage is not read all the time.
        """
        with self._lock:
            self._kept = {
                name: reading
                for name, reading in self._kept.items()
                if name != "sight" and reading.took > _QUICK
            }

    # ---- keeping -------------------------------------------------------------------------------------------

    def _keep(self, name: str, age: _Age, read: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept.get(name)
            passed = float("inf") if kept is None else self._monotonic() - kept.read_at
            if kept is None or passed > age.shown:
                kept = self._kept[name] = self._read(read)
            elif passed > age.new and not kept.is_read_again:
                kept.is_read_again = True
                self._read_beside(name, kept, read)
            value: T = kept.value
        return value

    def _read(self, read: Callable[[], object]) -> _Reading:
        began = self._monotonic()
        value = read()
        ended = self._monotonic()
        return _Reading(value, ended, ended - began)

    def _read_beside(self, name: str, former: _Reading, read: Callable[[], object]) -> None:
        def work() -> None:
            found = []
            try:
                found = [(name, self._read(read))]
            except FirelockError as error:
                log.info("%s could not be read: %s", name, error)
            with self._lock:
                if self._kept.get(name) is former:  # else somebody has asked to forget it meanwhile
                    del self._kept[name]
                    self._kept.update(found)

        threading.Thread(target=work, name="firelock-watch", daemon=True).start()

    # ---- looking -------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return instant(self._fire.client.clock.now())

    def _causes(self) -> list[Cause]:
        groups = self.failure_groups(_CAUSES)
        return self.remembered.list(groups, self._hours(), self._now())

    def _hours(self, fingerprint: str | None = None) -> Hours:
        """Return the day of one cause or all: as it was read some time ago, and what has failed since."""
        fire, now = self._fire, self._now()

        def read() -> tuple[int, Hours]:
            until = micros(now - _WRITTEN_LATE)
            return until, strips(fire, now, fingerprint=fingerprint, until=until)

        name = "strips" if fingerprint is None else f"strips {fingerprint}"
        since, former = self._keep(name, _STRIPS, read)
        return added(former, strips(fire, now, fingerprint=fingerprint, since=since))

    def _look(self) -> Sight:
        """Return a look of the core, whose dear readings are kept for longer than the look itself."""
        fire = self._fire
        knows = any(True for _ in fire.registry)
        return look(fire.runtime, knows_tasks=knows, keep=self._keep_reading)

    def _keep_reading(self, name: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - as it was read
        if name == "lately":
            return _ended_runs(self._history.lately(), {})
        if name == "usually":
            return _ended_runs(self._history.tasks(), self._history.active_hours())
        if name == "storage":  # it may take its time, and the first page does not wait for it
            with self._lock:
                self._kept.setdefault(name, _Reading((), float("-inf"), float("inf")))
        return self._keep(name, _READINGS[name], read)

    def _limit_keys(self) -> Iterator[LimitView]:
        after = ""
        for _ in range(_KEY_PAGES if Feature.LIMITS in self._fire.storage.features else 0):
            page = self._fire.limits.list(after=after, limit=_KEYS)
            yield from page
            if len(page) < _KEYS:
                return
            after = page[-1].key


def _ended_runs(by_task: Mapping[str, TaskStats], hours: Mapping[str, int]) -> dict[str, EndedRuns]:
    return {
        task: EndedRuns(stats.runs, stats.failed_attempts, stats.failed, hours.get(task, 0))
        for task, stats in by_task.items()
    }
