"""One look at everything, for all who ask within two seconds: the overview, its parts, its banners."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock import FirelockError
from firelock.control.doctor import EndedRuns, Sight
from firelock.jobs.blocked_by import HeldHead, held_heads
from firelock.storage import Feature, State
from firelock_dashboard.stats.causes import NO_HOURS, Cause, Causes, Hours, added, muted_share, strips
from firelock_dashboard.web.formatting import instant, micros

if TYPE_CHECKING:
    from firelock import Diagnosis, Firelock, LimitView, Operation, Outcome, QueueView
    from firelock.storage import FailureGroup, Finding, JobRecord
    from firelock_dashboard.stats.history import History, TaskStats

log = logging.getLogger(__name__)

T = TypeVar("T")

_QUEUES = 50  # whose first job is looked at
_FIRST_JOBS = 200  # those that have waited longest
_RECURRING = 500
_PAUSED, _KEYS = 20, 500  # limits that are paused, and keys of each, and of a page
_KEY_PAGES = 4
_CAUSES = 100
_LATELY = timedelta(minutes=15)  # as `history.lately`
_WRITTEN_LATE = timedelta(seconds=10)  # so long behind its instant the end of a job may be stored


@attrs.frozen
class _Age:
    """How long something counts as new, and how long it is shown while it is read again beside."""

    new: float  # seconds
    shown: float


_SIGHT = _Age(2.0, 2.0)
_WAITS = _Age(4.0, 15.0)
_KEYS_AGE = _Age(4.0, 4.0)
_TASKS = _Age(15.0, 60.0)
_GROUPS = _Age(10.0, 60.0)
_STRIPS = _Age(30.0, 120.0)
_OUTCOMES = _Age(5.0, 5.0)
_FINDINGS = _Age(30.0, float("inf"))


@attrs.define
class _Reading:
    value: Any
    read_at: float
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

    def diagnosis(self) -> Diagnosis:
        """Return what is right and wrong with the app and its storage, about ten seconds old."""
        return self._keep("diagnosis", _GROUPS, self._fire.diagnose)

    def limit_keys(self) -> Sequence[LimitView]:
        """Return the first 2,000 keys of limits, about four seconds old; none where the storage has none."""
        return self._keep("limit keys", _KEYS_AGE, lambda: [*self._limit_keys()])

    def forget(self) -> None:
        """What is asked for next is read anew: somebody has just changed something."""
        with self._lock:
            # What takes its time and says little of what was just done stays.
            self._kept = {name: self._kept[name] for name in ("findings", "strips") if name in self._kept}

    # ---- keeping -------------------------------------------------------------------------------------------

    def _keep(self, name: str, age: _Age, read: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept.get(name)
            passed = float("inf") if kept is None else self._monotonic() - kept.read_at
            if kept is None or passed > age.shown:
                kept = self._kept[name] = _Reading(read(), self._monotonic())
            elif passed > age.new and not kept.is_read_again:
                kept.is_read_again = True
                self._read_beside(name, kept, read)
            value: T = kept.value
        return value

    def _read_beside(self, name: str, former: _Reading, read: Callable[[], object]) -> None:
        def work() -> None:
            found = []
            try:
                found = [(name, _Reading(read(), self._monotonic()))]
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

    def _muted_shares(self, tasks: Sequence[str]) -> dict[str, float]:
        """Return which part of each task's failures of late is muted; nothing where nothing is muted."""
        muted, since = self.muted(), self._now() - _LATELY
        return {task: muted_share(self._fire, task, muted, since) for task in tasks if muted}

    def _look(self) -> Sight:
        fire, history = self._fire, self._history
        now = fire.client.clock.now()
        skew = now - time.time_ns() // 1_000
        queues = fire.queues.list()
        oldest, unknown, held = self._keep("waits", _WAITS, lambda: self._waits(queues))
        lately = history.lately()
        failing = [task for task, stats in lately.items() if stats.failed_attempts]
        return Sight(
            now, queues, fire.servers.list(), fire.recurring.list(limit=_RECURRING), skew=skew,
            storage=self._findings(), unknown_tasks=unknown, oldest=oldest, held=held,
            lately=_ended_runs(lately), usually=_ended_runs(history.tasks()),
            muted=self._keep("muted shares", _GROUPS, lambda: self._muted_shares(failing)),
            limits=self._keep("limits", _WAITS, self._paused_limits),
        )  # fmt: skip

    def _paused_limits(self) -> Sequence[LimitView]:
        """Return the keys whose jobs somebody has paused, the first ones of the first names."""
        fire = self._fire
        if Feature.LIMITS not in fire.storage.features:
            return ()
        paused = [one.name for one in fire.limits.names() if one.is_paused][:_PAUSED]
        return [
            view
            for name in paused
            for view in fire.limits.list(name.partition("/")[0], limit=_KEYS)
            if view.is_paused and name in (view.name, view.key)
        ]

    def _limit_keys(self) -> Iterator[LimitView]:
        after = ""
        for _ in range(_KEY_PAGES if Feature.LIMITS in self._fire.storage.features else 0):
            page = self._fire.limits.list(after=after, limit=_KEYS)
            yield from page
            if len(page) < _KEYS:
                return
            after = page[-1].key

    def _waits(
        self, queues: Sequence[QueueView]
    ) -> tuple[dict[str, int], dict[str, int], dict[str, HeldHead]]:
        """Return since when the first job of each queue is there, tasks no server knows, heads limits hold.

        Of fifty queues and two hundred jobs at most. One read tells both for the jobs that have waited
        longest; queues that are not among them are asked one by one.
        """
        waiting = [queue.name for queue in queues if queue.enqueued][:_QUEUES]
        if not waiting:
            return {}, {}, {}
        jobs = self._fire.jobs
        heads: dict[str, JobRecord] = {}
        first = list(jobs.find(state=State.ENQUEUED, limit=_FIRST_JOBS, oldest_first=True))
        others = [name for name in waiting if name not in {job.queue for job in first}]
        for name in others:
            first += jobs.find(state=State.ENQUEUED, queue=name, limit=1, oldest_first=True)
        for job in first:
            heads.setdefault(job.queue, job.record())
        known = self._keep("known tasks", _TASKS, self._known_tasks)
        return (
            {queue: head.changed_at for queue, head in heads.items()},
            Counter(job.task for job in first if known and job.task not in known),
            held_heads(self._fire.storage, heads.values(), self._fire.client.clock.now()),
        )

    def _known_tasks(self) -> frozenset[str]:
        """Return the names that servers told of within 30 days; none where none ever told."""
        told = (entry for entry in self._fire.catalogue.list() if entry.seen_at is not None)
        return frozenset(name for entry in told for name in (entry.name, *entry.aliases))

    def _findings(self) -> Sequence[Finding]:
        """Return what the storage found wrong with itself; at first nothing, since it may take its time."""
        with self._lock:
            self._kept.setdefault("findings", _Reading([], float("-inf")))
        return self._keep("findings", _FINDINGS, self._fire.storage.diagnose)


def _ended_runs(by_task: Mapping[str, TaskStats]) -> dict[str, EndedRuns]:
    return {task: EndedRuns(stats.runs, stats.failed_attempts) for task, stats in by_task.items()}
