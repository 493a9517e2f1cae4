"""What moved since the last look, and how fast jobs end: readings of the storage, compared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from firelock.storage import Counts, State
from firelock_dashboard.tally import MINUTE

if TYPE_CHECKING:
    from firelock import Firelock

__all__ = ["TOPICS", "Sample", "Sampler"]

TOPICS = ("jobs", "queues", "servers", "recurring", "operations")

_GAP = 3  # looks left out after which rates are unknown rather than means of the pause
_SLOWLY, _SELDOM = 2, 5  # looks between readings of what moves less
_PAGE = 500


@attrs.frozen
class Sample:
    """One look. Rates are a second's, None where there was nothing to compare with."""

    at: float  # seconds since 1970, by the storage's clock
    enqueued: int
    processing: int
    created: float | None
    succeeded: float | None
    failed: float | None
    deleted: float | None
    retried: float | None  # attempts that failed or crashed and are tried again


class Sampler:
    """Looks at the storage when it is told to; for one thread.

    Rates are growths of totals, and totals fall as well: pruning takes ended jobs away and a requeue takes
    one back. So a rate is never below 0, and while jobs are pruned it is less than what really ended.
    Attempts that failed and are tried again are in no total; rollups count them, two seconds late.
    """

    def __init__(
        self, fire: Firelock, counts: Callable[[], Counts], *, monotonic: Callable[[], float], every: float
    ) -> None:
        self._fire = fire
        self._counts = counts
        self._monotonic = monotonic
        self._every = every
        self._looks = 0
        self._last: tuple[float, Counts] | None = None
        self._readings: dict[str, object] = {}
        self._retried: dict[int, int] = {}  # by minute
        self._retried_at: float | None = None
        self._retried_rate: float | None = None

    def look(self) -> tuple[Sample, list[str]]:
        """Return the present sample and the topics that moved since the last look; none at the first one."""
        counts, now = self._counts(), self._monotonic()
        last, self._last = self._last, (now, counts)
        moved = self._moved(counts)
        passed = None if last is None else now - last[0]
        if passed is not None and passed > (_GAP + 0.5) * self._every:
            passed = self._retried_at = None
        at = self._fire.client.clock.now() / 1_000_000
        self._count_retried(now, at)
        self._looks += 1
        return self._sample(at, counts, last[1] if last and passed else None, passed), moved

    def _sample(self, at: float, counts: Counts, before: Counts | None, passed: float | None) -> Sample:
        now = counts.by_state

        def grown(*states: State) -> float | None:
            if before is None or not passed:
                return None
            by = sum(now.get(state, 0) - before.by_state.get(state, 0) for state in states)
            return round(max(0, by) / passed, 2)

        return Sample(
            round(at, 3), now.get(State.ENQUEUED, 0), now.get(State.PROCESSING, 0),
            created=grown(*State), succeeded=grown(State.SUCCEEDED), failed=grown(State.FAILED),
            deleted=grown(State.DELETED), retried=None if passed is None else self._retried_rate,
        )  # fmt: skip

    # ---- what moved ----------------------------------------------------------------------------------------

    def _moved(self, counts: Counts) -> list[str]:
        readings: dict[str, object] = {
            "jobs": counts.by_state,
            "queues depths": {queue: dict(states) for queue, states in counts.by_queue.items()},
        }
        if self._looks % _SLOWLY == 0:
            fire = self._fire
            readings["queues"] = [(one.name, one.is_paused, one.note) for one in fire.queues.list()]
            readings["servers"] = [
                (one.id, [(s.session.id, s.is_alive, s.renewal.state, s.renewal.busy) for s in one.sessions])
                for one in fire.servers.list()
            ]
            readings["operations"] = list(fire.operations.list(limit=20))
        if self._looks % _SELDOM == 0:
            readings["recurring"] = self._fire.recurring.list(limit=_PAGE)
        moved = {
            name.partition(" ")[0]
            for name, reading in readings.items()
            if self._readings.get(name, reading) != reading
        }
        self._readings.update(readings)
        return [topic for topic in TOPICS if topic in moved]

    # ---- attempts that are tried again --------------------------------------------------------------------

    def _count_retried(self, now: float, at: float) -> None:
        if self._looks % _SLOWLY:
            return
        minute = int(at) // 60 * 60
        rollups = self._fire.jobs.timeline(_instant(minute - 60), _instant(minute + 60))
        found = {minute * 1_000_000 - MINUTE: 0, minute * 1_000_000: 0}
        for rollup in rollups:
            if rollup.outcome in {"retried", "crashed"}:
                found[rollup.minute] = found.get(rollup.minute, 0) + rollup.count
        if self._retried_at is None:
            self._retried_rate = None
        else:
            grown = sum(count - self._retried.get(start, 0) for start, count in found.items())
            self._retried_rate = round(max(0, grown) / max(self._every, now - self._retried_at), 2)
        self._retried, self._retried_at = found, now


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
