"""Causes of failures: since when each is known, when it failed within a day, and which are muted.

A cause is what failed jobs have in common, told by their fingerprint. What a storage groups are the jobs that
are failed now; since when a cause is known and that somebody muted it outlives them, as a record.
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
"""By fingerprint: how many jobs failed in each of 24 hours, the oldest first."""
KEPT = 1_000
"""So many causes are remembered; beyond them, those that have not been seen for longest are forgotten."""

_KIND = "cause"
_PAGE = 500
_LOOKED_AT = 20  # pages of failed jobs: as many as a storage groups
_HOUR = 3_600_000_000  # micros
_SEEN_EVERY = 24 * _HOUR  # so seldom is a cause's record written only to say that it was seen again
_NEW = timedelta(hours=HOURS)


@attrs.frozen
class Mute:
    """That nobody wants to be told of a cause, until it ends by itself or is taken back."""

    by: str
    at: datetime
    note: str | None
    until: datetime | None  # None: until somebody takes it back

    def is_on(self, now: datetime) -> bool:
        """Tell whether it holds."""
        return self.until is None or now < self.until


@attrs.frozen
class Cause:
    """One cause as far as it is known."""

    fingerprint: str
    type: str
    message: str  # of the newest failed job; empty where none is stored
    task: str
    count: int  # jobs that are failed now
    newest_at: datetime | None
    first_at: datetime | None  # the earliest that was stored when somebody first looked
    hours: tuple[
        int, ...
    ]  # the failed jobs of the last 24 hours by the hour in which they failed, oldest first
    mute: Mute | None  # that holds now

    def is_new(self, now: datetime) -> bool:
        """Tell whether it was seen for the first time within a day."""
        return self.first_at is not None and now - self.first_at < _NEW


_KNOWN = frozenset({"type", "task", "first_at", "seen_at", "mute"})


@attrs.frozen
class _CauseRecord:
    """What a record says."""

    type: str
    task: str
    first_at: int  # micros, as the next
    seen_at: int
    mute: Mute | None = None
    version: int = 0
    more: Mapping[str, Any] = attrs.Factory(dict)  # fields of a newer release; kept as they are

    @classmethod
    def read(cls, record: Record) -> _CauseRecord | None:
        """Return what the record says; None where it cannot be read."""
        try:
            value: dict[str, Any] = json.loads(record.value)
            mute = told = value["mute"]
            if told is not None:
                until = told["until"] and instant(int(told["until"]))
                mute = Mute(str(told["by"]), instant(int(told["at"])), told["note"], until)
            return cls(
                str(value["type"]), str(value["task"]), int(value["first_at"]), int(value["seen_at"]), mute,
                record.version, {name: field for name, field in value.items() if name not in _KNOWN},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("The record of cause %s cannot be read: %s", record.key, error)
            return None

    @property
    def text(self) -> str:
        """The record's value."""
        value = attrs.asdict(self, filter=lambda field, _: field.name not in {"version", "more"})
        return json.dumps({**self.more, **value}, default=micros)

    def muted_at(self, now: datetime) -> Mute | None:
        """Return the mute that holds."""
        return self.mute if self.mute is not None and self.mute.is_on(now) else None


class Causes:
    """What is remembered of causes.

    Args:
        fire: the app.
        is_read_only: nothing is written; what this process has seen is kept in memory.
    """

    def __init__(self, fire: Firelock, *, is_read_only: bool = False) -> None:
        self._fire = fire
        self._is_read_only = is_read_only
        self._seen: dict[str, int] = {}  # first_at by fingerprint, where nothing may be written
        self._types: Mapping[str, str] = {}  # exception classes by fingerprint, as last listed

    # ---- looking -------------------------------------------------------------------------------------------

    def list(self, groups: Sequence[FailureGroup], hours: Hours, now: datetime) -> list[Cause]:
        """Return the causes of these groups in their order, then those that are muted and have no failed job.

        A cause that nobody had seen is remembered from now on: one look at the storage for each of these.
        """
        known = self._remembered()
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
        """Return the exception class of a cause in the last list, or remembered at that time; else None."""
        return self._types.get(fingerprint)

    def _cause(
        self,
        group: FailureGroup,
        former: _CauseRecord | None,
        hours: Hours,
        now: datetime,
    ) -> Cause:
        fingerprint = group.fingerprint
        if former is None:
            if fingerprint not in self._seen:
                self._seen[fingerprint] = self._oldest(group)
            known = _CauseRecord(group.type, group.task, self._seen[fingerprint], group.newest_at)
        else:
            known = attrs.evolve(former, seen_at=group.newest_at)
        if former is None or known.seen_at - former.seen_at >= _SEEN_EVERY:
            self._remember(fingerprint, known)
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
        return {fingerprint for fingerprint, one in self._remembered().items() if one.muted_at(now)}

    def mute(self, cause: Cause, mute: Mute) -> None:
        """The cause is muted; a former mute is replaced."""
        first_at, seen_at = cause.first_at or mute.at, cause.newest_at or mute.at
        record = self._fire.storage.get_record(_KIND, cause.fingerprint)
        before = record and _CauseRecord.read(record)
        more = before.more if before else {}
        known = _CauseRecord(cause.type, cause.task, micros(first_at), micros(seen_at), mute, more=more)
        self._fire.storage.put_record(_KIND, cause.fingerprint, known.text)

    def unmute(self, fingerprint: str) -> bool:
        """The cause is not muted any more; False where it was not."""
        record = self._fire.storage.get_record(_KIND, fingerprint)
        known = record and _CauseRecord.read(record)
        if not known or known.mute is None:
            return False
        self._fire.storage.put_record(_KIND, fingerprint, attrs.evolve(known, mute=None).text)
        return True

    # ---- the records ---------------------------------------------------------------------------------------

    def _remembered(self) -> dict[str, _CauseRecord]:
        found: dict[str, _CauseRecord] = {}
        after, is_over = "", False
        while not is_over:
            page = self._fire.storage.list_records(_KIND, after=after, limit=_PAGE)
            read = ((record.key, _CauseRecord.read(record)) for record in page)
            found |= {key: known for key, known in read if known is not None}
            after, is_over = page[-1].key if page else "", len(page) < _PAGE
        self._forget(found)
        return found

    def _remember(self, fingerprint: str, known: _CauseRecord) -> None:
        """It is written, unless somebody else was quicker or nothing may be written here."""
        if self._is_read_only:
            return
        try:
            self._fire.storage.put_record(_KIND, fingerprint, known.text, expected_version=known.version)
        except FirelockError as error:
            log.info("Cause %s could not be remembered: %s", fingerprint, error)

    def _forget(self, known: dict[str, _CauseRecord]) -> None:
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
    """Return how many jobs, of those that are failed now, failed in each of the last 24 hours; it ends now.

    Of the newest 10,000 failed jobs: of those of one cause, and that failed in [since, until), where told.
    """
    first = micros(now) - HOURS * _HOUR
    where = JobFilter(
        state=State.FAILED, fingerprint=fingerprint, until=until,
        since=first if since is None else max(first, since),
    )  # fmt: skip
    pages = islice(pages_of(fire, where), _LOOKED_AT)
    return by_hour((job.record() for page in pages for job in page), now)


def by_hour(failed: Iterable[JobRecord], now: datetime) -> Hours:
    """Return in which of the 24 hours that end now these jobs failed; those of before are left out."""
    end = micros(now)
    found: dict[str, list[int]] = {}
    for record in failed:
        hour = HOURS - 1 - max(0, end - record.changed_at) // _HOUR
        if record.error is not None and hour >= 0:
            found.setdefault(record.error.fingerprint, [0] * HOURS)[hour] += 1
    return {fingerprint: tuple(hours) for fingerprint, hours in found.items()}


def added(some: Hours, others: Hours) -> Hours:
    """Return both together."""
    both = {
        fingerprint: tuple(map(sum, zip(some[fingerprint], others[fingerprint], strict=True)))
        for fingerprint in some.keys() & others.keys()
    }
    return {**some, **others, **both}
