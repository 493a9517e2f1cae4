"""Readings of the app's state, shared by all requests within a few seconds, for example for the overview."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock import FirelockError
from firelock.control.findings import EndedRuns, Readings, longest_duration, take_readings
from firelock.storage import Feature
from firelock_dashboard.stats.causes import NO_HOURS, Cause, Causes, Hours, added, strips
from firelock_dashboard.web.formatting import instant, micros

if TYPE_CHECKING:
    from firelock import Diagnosis, Firelock, LimitView, Operation, Outcome
    from firelock.storage import FailureGroup
    from firelock_dashboard.stats.history import History, TaskStats

log = logging.getLogger(__name__)

T = TypeVar("T")

_KEYS = 500  # the number of limit keys per page
_KEY_PAGES = 4
_CAUSES = 100
_OPERATIONS = 10
_QUICK = 0.02  # seconds; a reading that takes less time is repeated after every change
_WRITTEN_LATE = timedelta(seconds=10)  # maximum time until an ended job is stored


@attrs.frozen
class _Age:
    """The ages at which a thread replaces a reading, and at which the reading is no longer shown."""

    new: float  # seconds
    shown: float  # seconds


_READINGS_AGE = _Age(2.0, 2.0)
_KEYS_AGE = _Age(4.0, 4.0)
_GROUPS = _Age(10.0, 60.0)
_STRIPS = _Age(30.0, 120.0)
_OUTCOMES = _Age(5.0, 5.0)
_READINGS = {  # the ages of the readings of `take_readings`
    "waits": _Age(4.0, 15.0),
    "running": _Age(4.0, 15.0),
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
    """Cached readings of the app's state, shared by requests at about the same time.

    A reading that costs more than a few milliseconds is repeated in a thread while the previous value is
    shown. A request waits for the reading only if the previous value is too old to be shown.
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
        self._lock = threading.RLock()  # reentrant, because a reading can use another one
        self._kept: dict[str, _Reading] = {}
        self.cause_records = Causes(fire, is_read_only=is_read_only)

    def readings(self) -> Readings:
        """Return the state of the app, at most two seconds old."""
        return self._keep("readings", _READINGS_AGE, self._take_readings)

    def failure_groups(self, limit: int = 5) -> list[FailureGroup]:
        """Return the largest groups of failed jobs, about ten seconds old."""
        jobs = self._fire.jobs
        return self._keep(f"groups {limit}", _GROUPS, lambda: jobs.failure_groups(limit))

    def causes(self) -> list[Cause]:
        """Return the hundred largest causes of failures and the muted ones, about ten seconds old."""
        return self._keep("causes", _GROUPS, self._causes)

    def hours_of(self, fingerprint: str) -> tuple[int, ...]:
        """Return the number of jobs of a cause that failed in each of the last 24 hours, up to now."""
        return self._hours(fingerprint).get(fingerprint, NO_HOURS)

    def muted(self) -> set[str]:
        """Return the fingerprints of the muted causes, about ten seconds old."""
        return self._keep("muted", _GROUPS, lambda: self.cause_records.muted(self._now()))

    def outcome(self, operation: Operation) -> Outcome | None:
        """Return the outcome of a requeue if it is known, about five seconds old."""
        if operation.outcome is not None or not operation.changed:
            return operation.outcome
        operations = self._fire.operations
        return self._keep(f"outcome {operation.id}", _OUTCOMES, lambda: operations.outcome(operation.id))

    def operations(self) -> Sequence[Operation]:
        """Return the ten newest operations, about five seconds old."""
        operations = self._fire.operations
        return self._keep("operations", _OUTCOMES, lambda: operations.list(limit=_OPERATIONS).operations)

    def diagnosis(self) -> Diagnosis:
        """Return the diagnosis of the app and its storage, about ten seconds old."""
        return self._keep("diagnosis", _GROUPS, self._fire.diagnose)

    def limit_keys(self) -> Sequence[LimitView]:
        """Return the first 2,000 limit keys, about four seconds old, or none if the storage has no limits."""
        return self._keep("limit keys", _KEYS_AGE, lambda: [*self._limit_keys()])

    def invalidate(self, *, keeps_days: bool = True) -> None:
        """Discard the readings after a change, so that the next request reads again.

        Args:
            keeps_days: whether to keep the hours of causes, which are slow to read and change little after
                one action.
        """
        kept = ("findings", "strips") if keeps_days else ("findings",)
        with self._lock:
            self._kept = {name: self._kept[name] for name in kept if name in self._kept}

    def expire(self) -> None:
        """Discard the state of the app and the fast readings after a change.

        Slow readings are kept until they are old, so that a busy storage is not read all the time.
        """
        with self._lock:
            self._kept = {
                name: reading
                for name, reading in self._kept.items()
                if name != "readings" and reading.took > _QUICK
            }

    # ---- cache ---------------------------------------------------------------------------------------------

    def _keep(self, name: str, age: _Age, read: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept.get(name)
            passed = float("inf") if kept is None else self._monotonic() - kept.read_at
            if kept is None or passed > age.shown:
                kept = self._kept[name] = self._read(read)
            elif passed > age.new and not kept.is_read_again:
                kept.is_read_again = True
                self._read_in_background(name, kept, read)
            value: T = kept.value
        return value

    def _read(self, read: Callable[[], object]) -> _Reading:
        began = self._monotonic()
        value = read()
        ended = self._monotonic()
        return _Reading(value, ended, ended - began)

    def _read_in_background(self, name: str, stale: _Reading, read: Callable[[], object]) -> None:
        def work() -> None:
            found = []
            try:
                found = [(name, self._read(read))]
            except FirelockError as error:
                log.info("Cannot read %s; the next request reads it again: %s", name, error)
            with self._lock:
                if self._kept.get(name) is stale:  # otherwise the reading was discarded in the meantime
                    del self._kept[name]
                    self._kept.update(found)

        threading.Thread(target=work, name="firelock-watch", daemon=True).start()

    # ---- reading -------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return instant(self._fire.client.clock.now())

    def _causes(self) -> list[Cause]:
        groups = self.failure_groups(_CAUSES)
        return self.cause_records.list(groups, self._hours(), self._now())

    def _hours(self, fingerprint: str | None = None) -> Hours:
        """Return the hours of one cause or of all causes: an earlier reading plus the failures since then."""
        fire, now = self._fire, self._now()

        def read() -> tuple[int, Hours]:
            until = micros(now - _WRITTEN_LATE)
            return until, strips(fire, now, fingerprint=fingerprint, until=until)

        name = "strips" if fingerprint is None else f"strips {fingerprint}"
        since, kept = self._keep(name, _STRIPS, read)
        return added(kept, strips(fire, now, fingerprint=fingerprint, since=since))

    def _take_readings(self) -> Readings:
        """Return the core's view of the app; its expensive readings are kept longer than the view itself."""
        fire = self._fire
        knows = any(True for _ in fire.registry)
        return take_readings(fire.runtime, knows_tasks=knows, keep=self._keep_reading)

    def _keep_reading(self, name: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - as it was read
        if name == "lately":
            return _ended_runs(self._history.lately(), {})
        if name == "usually":
            return _ended_runs(self._history.tasks(), self._history.active_hours())
        if name == "storage":  # this reading may be slow, so the first page does not wait for it
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
        task: EndedRuns(
            stats.runs,
            stats.failed_attempts,
            stats.failed,
            hours.get(task, 0),
            longest_duration(stats.histogram),
        )
        for task, stats in by_task.items()
    }
