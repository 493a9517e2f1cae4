"""Causes of failures, each with its first failure, its failures of the last 24 hours, and its mute.

Failed jobs with the same fingerprint have the same cause. The storage groups only jobs that are currently
failed. The time of a cause's first failure and its mute are stored in a record that outlives these jobs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from firelock import FirelockError, State
from firelock.storage import JobFilter
from firelock_dashboard.stats.job_search import pages_of
from firelock_dashboard.web.formatting import instant, micros

if TYPE_CHECKING:
    from firelock import Firelock
    from firelock.storage import FailureGroup, JobRecord, Record

log = logging.getLogger(__name__)

HOURS = 24
NO_HOURS = (0,) * HOURS
Hours = Mapping[str, tuple[int, ...]]
"""The number of jobs that failed in each of the last 24 hours, oldest first, by fingerprint."""
KEPT = 1_000
"""The maximum number of stored causes; beyond it, the unmuted causes seen longest ago are deleted."""

_KIND = "cause"
_PAGE = 500
_MOST_PAGES = 20  # the maximum number of pages of failed jobs, which contain as many jobs as a storage groups
_HOUR = 3_600_000_000  # micros
_SEEN_EVERY = 24 * _HOUR  # minimum time between two writes of a record that only update `seen_at`
_NEW = timedelta(hours=HOURS)


@attrs.frozen
class Mute:
    """A mute of a cause, which keeps it out of the banners until the mute expires or is removed."""

    by: str
    at: datetime
    note: str | None
    until: datetime | None  # None if the mute applies until it is removed

    def is_on(self, now: datetime) -> bool:
        """Return whether the mute is in force."""
        return self.until is None or now < self.until


@attrs.frozen
class Cause:
    """One cause with its jobs, its first failure and its mute."""

    fingerprint: str
    type: str
    message: str  # the message of the newest failed job; empty if none is stored
    task: str
    count: int  # the number of jobs that are currently failed
    newest_at: datetime | None
    first_at: datetime | None  # the earliest failure that was stored when the cause was first read
    hours: tuple[
        int, ...
    ]  # the failed jobs of the last 24 hours by the hour in which they failed, oldest first
    mute: Mute | None  # the mute that is in force now

    def is_new(self, now: datetime) -> bool:
        """Return whether the cause first occurred within the last 24 hours."""
        return self.first_at is not None and now - self.first_at < _NEW


_KNOWN = frozenset({"type", "task", "first_at", "seen_at", "mute"})


@attrs.frozen
class _CauseRecord:
    """The content of a cause's record."""

    type: str
    task: str
    first_at: int  # micros, like `seen_at`
    seen_at: int
    mute: Mute | None = None
    version: int = 0
    more: Mapping[str, Any] = attrs.Factory(dict)  # fields of a newer release, which are stored unchanged

    @classmethod
    def read(cls, record: Record) -> _CauseRecord | None:
        """Return the content of the record, or None if it cannot be read."""
        try:
            value: dict[str, Any] = json.loads(record.value)
            mute = stored = value["mute"]
            if stored is not None:
                until = stored["until"] and instant(int(stored["until"]))
                mute = Mute(str(stored["by"]), instant(int(stored["at"])), stored["note"], until)
            return cls(
                str(value["type"]), str(value["task"]), int(value["first_at"]), int(value["seen_at"]), mute,
                record.version, {name: field for name, field in value.items() if name not in _KNOWN},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("Cannot read the record of cause %s; ignoring the record: %s", record.key, error)
            return None

    @property
    def text(self) -> str:
        """The record's value."""
        value = attrs.asdict(self, filter=lambda field, _: field.name not in {"version", "more"})
        return json.dumps({**self.more, **value}, default=micros)

    def muted_at(self, now: datetime) -> Mute | None:
        """Return the mute that is in force at this time, or None."""
        return self.mute if self.mute is not None and self.mute.is_on(now) else None


class Causes:
    """The stored records of causes.

    Args:
        fire: the app.
        is_read_only: whether not to write to the storage; the times of first failures are then kept only in
            this process's memory.
    """

    def __init__(self, fire: Firelock, *, is_read_only: bool = False) -> None:
        self._fire = fire
        self._is_read_only = is_read_only
        self._seen: dict[str, int] = {}  # first_at by fingerprint, for causes without a record
        self._types: Mapping[str, str] = {}  # exception classes by fingerprint, as of the last list

    # ---- reading -------------------------------------------------------------------------------------------

    def list(self, groups: Sequence[FailureGroup], hours: Hours, now: datetime) -> list[Cause]:
        """Return the causes of these groups in their order, then the muted causes that have no failed jobs.

        For a cause without a record, a record is stored, which costs one more read of the storage.
        """
        known = self._read_all()
        self._types = {key: one.type for key, one in known.items()} | {
            group.fingerprint: group.type for group in groups
        }
        found = [self._cause(group, known.pop(group.fingerprint, None), hours, now) for group in groups]
        return found + [
            Cause(fingerprint, one.type, "", one.task, 0, None, instant(one.first_at), (), mute)
            for fingerprint, one in known.items()
            if (mute := one.muted_at(now)) is not None
        ]

    def type_of(self, fingerprint: str) -> str | None:
        """Return the exception class of a cause, or None if the last list did not include the cause."""
        return self._types.get(fingerprint)

    def _cause(
        self,
        group: FailureGroup,
        stored: _CauseRecord | None,
        hours: Hours,
        now: datetime,
    ) -> Cause:
        fingerprint = group.fingerprint
        if stored is None:
            if fingerprint not in self._seen:
                self._seen[fingerprint] = self._oldest(group)
            known = _CauseRecord(group.type, group.task, self._seen[fingerprint], group.newest_at)
        else:
            known = attrs.evolve(stored, seen_at=group.newest_at)
        if stored is None or known.seen_at - stored.seen_at >= _SEEN_EVERY:
            self._store(fingerprint, known)
        return Cause(
            fingerprint, group.type, group.message, group.task, group.count, instant(group.newest_at),
            instant(known.first_at), hours.get(fingerprint, NO_HOURS), known.muted_at(now),
        )  # fmt: skip

    def _oldest(self, group: FailureGroup) -> int:
        where = JobFilter(state=State.FAILED, fingerprint=group.fingerprint)
        oldest = self._fire.jobs.page(where, limit=1, oldest_first=True)
        return next((job.record().changed_at for job in oldest), group.newest_at)

    # ---- muting --------------------------------------------------------------------------------------------

    def muted(self, now: datetime) -> set[str]:
        """Return the fingerprints of the causes that are muted now."""
        return {fingerprint for fingerprint, one in self._read_all().items() if one.muted_at(now)}

    def mute(self, cause: Cause, mute: Mute) -> None:
        """Mute the cause; this replaces an earlier mute."""
        first_at, seen_at = cause.first_at or mute.at, cause.newest_at or mute.at
        record = self._fire.storage.get_record(_KIND, cause.fingerprint)
        before = record and _CauseRecord.read(record)
        more = before.more if before else {}
        known = _CauseRecord(cause.type, cause.task, micros(first_at), micros(seen_at), mute, more=more)
        self._fire.storage.put_record(_KIND, cause.fingerprint, known.text)

    def unmute(self, fingerprint: str) -> bool:
        """Remove the mute of a cause; return False if it was not muted."""
        record = self._fire.storage.get_record(_KIND, fingerprint)
        known = record and _CauseRecord.read(record)
        if not known or known.mute is None:
            return False
        self._fire.storage.put_record(_KIND, fingerprint, attrs.evolve(known, mute=None).text)
        return True

    # ---- the records ---------------------------------------------------------------------------------------

    def _read_all(self) -> dict[str, _CauseRecord]:
        found: dict[str, _CauseRecord] = {}
        after, is_over = "", False
        while not is_over:
            page = self._fire.storage.list_records(_KIND, after=after, limit=_PAGE)
            read = ((record.key, _CauseRecord.read(record)) for record in page)
            found |= {key: known for key, known in read if known is not None}
            after, is_over = page[-1].key if page else "", len(page) < _PAGE
        self._prune(found)
        return found

    def _store(self, fingerprint: str, known: _CauseRecord) -> None:
        """Store the record, unless another process has changed it or this process must not write."""
        if self._is_read_only:
            return
        try:
            self._fire.storage.put_record(_KIND, fingerprint, known.text, expected_version=known.version)
        except FirelockError as error:
            log.info("Cannot store cause %s; trying again at the next reading: %s", fingerprint, error)

    def _prune(self, known: dict[str, _CauseRecord]) -> None:
        if self._is_read_only or len(known) <= KEPT:
            return
        unmuted = [(one.seen_at, fingerprint) for fingerprint, one in known.items() if one.mute is None]
        for _, fingerprint in sorted(unmuted)[: len(known) - KEPT]:
            version = known.pop(fingerprint).version
            self._fire.storage.delete_record(_KIND, fingerprint, expected_version=version)


def strips(
    fire: Firelock, now: datetime, *, fingerprint: str | None = None, since: int | None = None,
    until: int | None = None,
) -> Hours:  # fmt: skip
    """Return the number of jobs that failed in each of the last 24 hours, the last of which ends now.

    Of the jobs that are currently failed, only the newest 10,000 are counted. With a fingerprint, only the
    jobs of that cause are counted. With `since` or `until`, in micros, only jobs that failed in [since,
    until) are counted.
    """
    first = micros(now) - HOURS * _HOUR
    where = JobFilter(
        state=State.FAILED, fingerprint=fingerprint, until=until,
        since=first if since is None else max(first, since),
    )  # fmt: skip
    pages = islice(pages_of(fire, where), _MOST_PAGES)
    return by_hour((job.record() for page in pages for job in page), now)


def by_hour(failed: Iterable[JobRecord], now: datetime) -> Hours:
    """Return the number of these jobs that failed in each of the last 24 hours; ignore older failures."""
    end = micros(now)
    found: dict[str, list[int]] = {}
    for record in failed:
        hour = HOURS - 1 - max(0, end - record.changed_at) // _HOUR
        if record.error is not None and hour >= 0:
            found.setdefault(record.error.fingerprint, [0] * HOURS)[hour] += 1
    return {fingerprint: tuple(hours) for fingerprint, hours in found.items()}


def added(some: Hours, others: Hours) -> Hours:
    """Return the sums of two sets of hours."""
    both = {
        fingerprint: tuple(map(sum, zip(some[fingerprint], others[fingerprint], strict=True)))
        for fingerprint in some.keys() & others.keys()
    }
    return {**some, **others, **both}
