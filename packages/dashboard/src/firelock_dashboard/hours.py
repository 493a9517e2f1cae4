"""The hours that are over, each summed up once: kept as small records, and here while they are looked at.

Rollups of minutes are too many to be read for a page about a month: forty tasks leave ten thousand an hour.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from firelock import StorageError
from firelock_dashboard.tally import HOUR, Fold, Hour

if TYPE_CHECKING:
    from firelock import Firelock
    from firelock.storage import Rollup

__all__ = ["Hours", "read_minutes"]

log = logging.getLogger(__name__)

KEPT_HERE = 31 * 24  # hours
_KEPT_HOURS = 90 * 24  # in the storage
_KIND = "history"
_PAGE = 200


def read_minutes(fire: Firelock, since: int, until: int) -> dict[int, Fold]:
    """Return what ended in each minute from `since` to before `until`, under its start; no empty ones."""
    minutes: dict[int, Fold] = {}
    for rollup in _rollups(fire, since, until):
        minutes.setdefault(rollup.minute, Fold()).add(rollup)
    return minutes


def _rollups(fire: Firelock, since: int, until: int) -> Iterable[Rollup]:
    for start in range(since, until, HOUR):
        yield from fire.jobs.timeline(_instant(start), _instant(min(until, start + HOUR)))


class Hours:
    """Sums of hours by their start; `recall` and `fold` fill it, and nothing else reads the storage.

    Two dashboards that fold the same hour write the same record.
    """

    def __init__(self, fire: Firelock) -> None:
        self._fire = fire
        self._lock = threading.Lock()
        self._hours: dict[int, Hour] = {}

    def get(self, at: int) -> Hour | None:
        """Return the sums of the hour that starts then, None where they are not there yet."""
        return self._hours.get(at)

    def missing(self, since: int, until: int) -> list[int]:
        """Return the starts of the hours from `since` to before `until` that are not there, newest first."""
        return [at for at in range(until - HOUR, since - 1, -HOUR) if at not in self._hours]

    def recall(self, since: int, until: int) -> int:
        """Hours from `since` to before `until` that anybody folded are here; return how many.

        One read of a hundred hours or two; a record that cannot be read is passed over and folded anew.
        """
        found, after = 0, _key(since - HOUR)
        while page := self._fire.storage.list_records(_KIND, after=after, limit=_PAGE):
            for record in page:
                at = _instant_of(record.key)
                if at is not None and at >= until:
                    return found
                if at is None or self._hours.get(at) is not None:
                    continue
                try:
                    self._keep(Hour.load(at, record.value))
                    found += 1
                except ValueError:
                    log.warning("The summary of %s cannot be read; it is added up again.", record.key)
            after = page[-1].key
        return found

    def fold(self, at: int, minutes: Mapping[int, Fold] | None = None) -> Hour:
        """The hour is summed up, out of its minutes where they are known, and stored; return it.

        An hour in which nothing ended is not stored: to look again is cheaper than to keep it.
        """
        found = read_minutes(self._fire, at, at + HOUR) if minutes is None else minutes
        hour = Hour.of(at, found)
        self._keep(hour)
        if not hour.is_empty:
            try:
                self._fire.storage.put_record(_KIND, _key(at), hour.dump())
            except StorageError as error:
                # Whoever may only read the storage still sees the history, as long as this process lives.
                log.warning("The summary of an hour could not be stored: %s", error)
        return hour

    def _keep(self, hour: Hour) -> None:
        with self._lock:
            self._hours[hour.at] = hour
            if len(self._hours) > KEPT_HERE:
                for at in sorted(self._hours)[: len(self._hours) - KEPT_HERE]:
                    del self._hours[at]

    def prune(self, now: int) -> int:
        """Up to a page of summaries older than 90 days is gone from the storage; return how many."""
        gone = 0
        for record in self._fire.storage.list_records(_KIND, limit=_PAGE):
            if record.key >= _key(now - _KEPT_HOURS * HOUR):
                break
            gone += self._fire.storage.delete_record(_KIND, record.key)
        return gone


def _instant(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)


def _key(at: int) -> str:
    """Return the key of an hour's record; keys ascend with time."""
    return _instant(max(0, at)).strftime("%Y-%m-%dT%H")


def _instant_of(key: str) -> int | None:
    try:
        return int(datetime.strptime(key, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        return None
