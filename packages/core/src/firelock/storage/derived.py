"""Verbs made of others: what a small storage gets for nothing and a large one does faster.

Locks, recurring jobs, metrics, logs and progress live in versioned records, changed by compare-and-set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, TypeVar, get_type_hints

import attrs

from firelock.errors import StorageError, StorageUnavailable, UnsupportedFeature
from firelock.ids import new_id, new_ids
from firelock.storage.contract import CONTRACT, Storage
from firelock.storage.waiting import Waiting
from firelock.values import (
    ClaimRequest,
    Exchange,
    FailureGroup,
    Finding,
    JobFilter,
    JobRecord,
    LogLine,
    NewJob,
    Progress,
    Record,
    RecurringRecord,
    Rollup,
    SchemaState,
    State,
    Transition,
)

__all__ = [
    "DerivedStorage",
    "add_rollups",
    "every_record",
    "insert_surely",
    "read_recurring",
    "recurring_json",
    "unknown_fields",
    "with_progress",
    "with_progress_of",
]

LOG_LIMIT = 1_000
GROUPED_LIMIT = 10_000
_PAGE = 500
_TRIES = 1_000
_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_DAY = 24 * _HOUR
_ROLLUPS_STAY = 30 * _DAY
_DUE = ("due", "recurring")  # the record that holds the earliest instant at which a definition is due

_T = TypeVar("_T")


class DerivedStorage(Storage):
    """Every verb that others can be made to do; one that overrides it does the same, faster."""

    def __init__(self) -> None:
        self._polls = Waiting()
        self._locks_pruned_before: int | None = None

    # ---- life --------------------------------------------------------------------------------------------

    def schema(self) -> SchemaState:
        """See `Storage.schema`."""
        return SchemaState(CONTRACT, CONTRACT)

    def new_ids(self, count: int, parent: str | None = None) -> list[str]:
        """See `Storage.new_ids`; nothing lies beside anything."""
        del parent
        return [new_id()] if count == 1 else new_ids(count)

    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""
        return {"storage": self.url}

    def diagnose(self) -> list[Finding]:
        """See `Storage.diagnose`."""
        return []

    @property
    def _named(self) -> str:
        return f"Storage {self.url or type(self).__name__}"

    # ---- the hot path ------------------------------------------------------------------------------------

    def refuse_within(self, within: object | None) -> None:
        """Nobody asks for a transaction of the caller's; for the `insert` and `apply` of a storage without.

        Raises:
            UnsupportedFeature: somebody does.
        """
        if within is not None:
            message = (
                f"{self._named} has no transactions to join; enqueue without within=. Let a job end when its "
                "task returns."
            )
            raise UnsupportedFeature(message)

    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """See `Storage.exchange`."""
        results = self.apply(transitions) if transitions else []
        return Exchange(results, self.claim(request))

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`: a storage that does not notify lets the time run out."""
        return self._polls.wait(queues, timeout_seconds)

    def interrupt(self) -> None:
        """See `Storage.interrupt`."""
        self._polls.interrupt()

    def one_step(self) -> AbstractContextManager[object]:
        """See `Storage.one_step`."""
        return nullcontext()

    # ---- records -----------------------------------------------------------------------------------------

    def _change_record(
        self, kind: str, key: str, change: Callable[[Record | None], tuple[str | None, _T]]
    ) -> _T:
        """Read, change and write one record by compare-and-set until nobody came between; None leaves it."""
        for _ in range(_TRIES):
            with self.one_step():
                record = self.get_record(kind, key)
                value, answer = change(record)
                if value is None:
                    return answer
                expected = record.version if record else 0
                if self.put_record(kind, key, value, expected_version=expected) is not None:
                    return answer
        raise _overtaken(kind, key)

    def prune_derived(self, pruned: Sequence[str], now: int, limit: int) -> None:
        """What the records hold of pruned jobs is gone, and what is too old; for a storage's `prune`.

        All locks are looked at, once an hour at most.
        """
        for job_id in pruned:
            self.delete_record("log", job_id)
            self.delete_record("progress", job_id)
        for record in self.list_records("rollup", limit=limit):
            if _read_rollup(record).minute >= now - _ROLLUPS_STAY:
                break
            self.delete_record("rollup", record.key)
        before, last = now - _DAY, self._locks_pruned_before
        if last is not None and last <= before < last + _HOUR:
            return
        for record in every_record(self, "lock"):
            if _read_lock(record)[2] < before:
                self.delete_record("lock", record.key, expected_version=record.version)
        self._locks_pruned_before = before

    # ---- failures, metrics, log ----------------------------------------------------------------------------

    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """See `Storage.failure_groups`."""
        groups: dict[str, list[JobRecord]] = {}
        cursor, seen = None, 0
        while seen < GROUPED_LIMIT:
            page = self.find(JobFilter(state=State.FAILED), limit=_PAGE, cursor=cursor)
            for job in page.jobs:
                if job.error is not None:
                    groups.setdefault(job.error.fingerprint, []).append(job)
            if page.cursor is None:
                break
            if page.cursor == cursor:
                message = f"{self._named} answered cursor {cursor!r} with the same again; find has to go on."
                raise StorageError(message)
            seen, cursor = seen + len(page.jobs), page.cursor
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return [_failure_group(fingerprint, jobs) for fingerprint, jobs in largest[:limit]]

    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """See `Storage.record_metrics`."""
        with self.one_step():
            for rollup in rollups:

                def add(record: Record | None, rollup: Rollup = rollup) -> tuple[str, None]:
                    total = rollup if record is None else add_rollups(_read_rollup(record), rollup)
                    return json.dumps(attrs.astuple(total)), None

                self._change_record("rollup", _rollup_key(rollup), add)

    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """See `Storage.timeline`."""
        found: list[Rollup] = []
        for rollup in map(_read_rollup, every_record(self, "rollup", after=f"{since:020d}")):
            if rollup.minute >= until:
                break
            if task in (None, rollup.task) and queue in (None, rollup.queue):
                found.append(rollup)
        return found

    def append_logs(self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]) -> None:
        """See `Storage.append_logs`."""
        with self.one_step():
            ids = list({*lines, *progress})
            known = {job.id for job in self.get(ids) if job is not None}
            for job_id in known & lines.keys():

                def append(record: Record | None, new: Sequence[LogLine] = lines[job_id]) -> tuple[str, None]:
                    kept: list[list[object]] = json.loads(record.value) if record else []
                    last = int(str(kept[-1][0])) if kept else 0
                    kept += [
                        [last + place, line.at, line.level, line.text, line.attempt]
                        for place, line in enumerate(new, start=1)
                    ]
                    return json.dumps(kept[-LOG_LIMIT:]), None

                self._change_record("log", job_id, append)
            for job_id in known & progress.keys():
                self.put_record("progress", job_id, json.dumps(attrs.astuple(progress[job_id])))

    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        """See `Storage.read_log`."""
        record = self.get_record("log", job_id)
        if record is None:
            return []
        return [LogLine(*line) for line in json.loads(record.value) if line[0] > after][:limit]

    # ---- recurring ---------------------------------------------------------------------------------------

    def put_recurring(self, recurring: RecurringRecord, *, keep_progress: bool) -> RecurringRecord | None:
        """See `Storage.put_recurring`."""
        stored: RecurringRecord | None = None

        def put(record: Record | None) -> tuple[str | None, RecurringRecord | None]:
            nonlocal stored
            stored = _read_record(record) if record else None
            if (stored.version if stored else 0) != recurring.version:
                return None, None
            wanted = attrs.evolve(recurring, version=recurring.version + 1)
            if keep_progress and stored is not None:
                wanted = with_progress_of(wanted, stored)
            return recurring_json(wanted), wanted

        with self.one_step():
            written = self._change_record("recurring", recurring.id, put)
            if written is not None:
                self._note_due(stored, written)
        return written

    def get_recurring(self, recurring_id: str) -> RecurringRecord | None:
        """See `Storage.get_recurring`."""
        record = self.get_record("recurring", recurring_id)
        return _read_record(record) if record else None

    def list_recurring(self, *, after: str = "", limit: int = 100) -> list[RecurringRecord]:
        """See `Storage.list_recurring`."""
        return [_read_record(record) for record in self.list_records("recurring", after=after, limit=limit)]

    def remove_recurring(self, recurring_id: str) -> bool:
        """See `Storage.remove_recurring`."""
        with self.one_step():
            stored = self.get_recurring(recurring_id)
            is_removed = self.delete_record("recurring", recurring_id)
            if is_removed:
                self._note_due(stored, None)
        return is_removed

    def due_recurring(self, limit: int) -> list[RecurringRecord]:
        """See `Storage.due_recurring`; a look at every definition."""
        now, firing = self.clock(), self._firing()
        if firing and _told(self.get_record(*_DUE)) is not False:
            self._note_due(None, firing[0])  # a process may have died before it did
        return [one for one in firing[:limit] if (one.next_at or 0) <= now]

    def _firing(self) -> list[RecurringRecord]:
        """Return the definitions that fire some time, the first one first."""
        every = map(_read_record, every_record(self, "recurring"))
        firing = [one for one in every if _fires_at(one) is not None]
        return sorted(firing, key=lambda one: (one.next_at or 0, one.id))

    def next_recurring_at(self) -> int | None:
        """Return the earliest instant any definition is due; for the next due instant a storage gives.

        One small record tells it; every definition is looked at only where the first of them has changed.
        """
        record = self.get_record(*_DUE)
        told = _told(record)
        if told is not False:
            return told
        firing = self._firing()
        earliest = firing[0].next_at if firing else None
        expected = record.version if record else 0  # another one, if a definition was changed meanwhile
        self.put_record(*_DUE, json.dumps(earliest), expected_version=expected)
        return earliest

    def _note_due(self, before: RecurringRecord | None, after: RecurringRecord | None) -> None:
        """The record of the next instant is right again, or says that it has to be found."""

        def note(record: Record | None) -> tuple[str | None, None]:
            told, was_at, is_at = _told(record), _fires_at(before), _fires_at(after)
            if told is False:
                return "false", None  # its version tells who is just looking that there is something new
            if is_at is not None and (told is None or is_at < told):
                return json.dumps(is_at), None
            return ("false" if was_at is not None and was_at == told != is_at else None), None

        self._change_record(*_DUE, note)

    def fire_recurring(
        self, recurring: RecurringRecord, expected_next_at: int, jobs: Sequence[NewJob]
    ) -> bool:
        """See `Storage.fire_recurring`.

        Jobs first: their ids are derived, so a crash before the compare-and-set, or a second server that got
        as far, makes none twice; the other order would lose a run.
        """

        def fire(record: Record | None) -> tuple[str | None, bool]:
            value = fired(record, recurring, expected_next_at)
            if value is not None and jobs:
                self.insert(jobs)
            return value, value is not None

        with self.one_step():
            is_fired = self._change_record("recurring", recurring.id, fire)
            if is_fired:
                self._note_fired(recurring, expected_next_at)
        return is_fired

    def _note_fired(self, recurring: RecurringRecord, at: int) -> None:
        before = attrs.evolve(recurring, next_at=at, is_paused=False)
        self._note_due(before, attrs.evolve(recurring, is_paused=False))

    # ---- locks -------------------------------------------------------------------------------------------

    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """See `Storage.acquire_lock`.

        The token is the version of the record that gave the lock: it grows on after the record is gone.
        """
        for _ in range(_TRIES):
            with self.one_step():
                record, now = self.get_record("lock", name), self.clock()
                holder, fence, ends_at = _read_lock(record)
                is_held = holder is not None and ends_at > now
                if is_held and holder != owner:
                    return None
                value = json.dumps([owner, fence if is_held else None, now + int(ttl_seconds * _SECOND)])
                expected = record.version if record else 0
                version = self.put_record("lock", name, value, expected_version=expected)
                if version is not None:
                    return fence if is_held else version
        raise _overtaken("lock", name)

    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        """See `Storage.renew_lock`."""

        def renew(record: Record | None) -> tuple[str | None, bool]:
            now = self.clock()
            if not _is_held(record, owner, fence, now):
                return None, False
            return json.dumps([owner, fence, now + int(ttl_seconds * _SECOND)]), True

        return self._change_record("lock", name, renew)

    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        """See `Storage.release_lock`; the record stays until it is pruned."""

        def release(record: Record | None) -> tuple[str | None, bool]:
            now = self.clock()
            if not _is_held(record, owner, fence, now):
                return None, False
            return json.dumps([None, fence, now]), True

        return self._change_record("lock", name, release)


def _overtaken(kind: str, key: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"Record {kind!r} {key!r} changed under us {_TRIES} times in a row; try again later."
    )


def _failure_group(fingerprint: str, jobs: list[JobRecord]) -> FailureGroup:
    newest = jobs[0]
    error = newest.error
    if error is None:  # pragma: no cover - only jobs with an error are grouped
        raise AssertionError(newest)
    return FailureGroup(
        fingerprint, error.type, error.message, newest.task, len(jobs), newest.changed_at, newest.id
    )


def _rollup_key(rollup: Rollup) -> str:
    return f"{rollup.minute:020d} {json.dumps([rollup.task, rollup.queue, rollup.outcome])}"


def add_rollups(one: Rollup, other: Rollup) -> Rollup:
    """Return the sum of two rollups of the same minute, task, queue and outcome."""
    histogram = tuple(a + b for a, b in zip(one.histogram, other.histogram, strict=True))
    return attrs.evolve(
        one, count=one.count + other.count, duration=one.duration + other.duration, histogram=histogram
    )


def with_progress(job: JobRecord, said: Record | None) -> JobRecord:
    """Return the job with what its record of the kind `progress` tells; for a storage's `get`."""
    return job if said is None else attrs.evolve(job, progress=Progress(*json.loads(said.value)))


def _read_rollup(record: Record) -> Rollup:
    minute, task, queue, outcome, count, duration, histogram = json.loads(record.value)
    return Rollup(minute, task, queue, outcome, count, duration, tuple(histogram))


def _read_lock(record: Record | None) -> tuple[str | None, int, int]:
    """Return who holds the lock, with which token and until when; or when it ended, and nobody."""
    if record is None:
        return None, 0, 0
    holder, fence, ends_at = json.loads(record.value)
    return holder, record.version if fence is None else fence, ends_at


def _is_held(record: Record | None, owner: str, fence: int, now: int) -> bool:
    holder, held_fence, ends_at = _read_lock(record)
    return holder == owner and held_fence == fence and ends_at > now


def every_record(storage: Storage, kind: str, *, after: str = "") -> Iterator[Record]:
    """Yield every record of a kind above `after` in order of key, by one round trip a page and the last one.

    Raises:
        StorageError: a page went no further than the one before, so that there would be no end.
    """
    while page := storage.list_records(kind, after=after, limit=_PAGE):
        if page[-1].key <= after:
            message = (
                f"{type(storage).__name__} listed {kind} {page[-1].key!r} where those above {after!r} were "
                "asked for. Its list_records has to leave `after` out, and to keep to the order of keys."
            )
            raise StorageError(message)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].key


def insert_surely(storage: Storage, jobs: Sequence[NewJob]) -> None:
    """The jobs are stored, also where the reply to the first try was lost: `insert` is idempotent by id.

    Raises:
        StorageUnavailable: the storage has waited in vain and knows that nothing is stored; or the second try
            failed as well, and the jobs may be stored all the same.
    """
    try:
        storage.insert(jobs)
    except StorageUnavailable as error:
        if error.is_untouched:  # it has had its patience; another wait of that length is nobody's wish
            raise
        storage.insert(jobs)


_PROGRESS = ("next_at", "owed_at", "last_at", "last_job_id", "dropped", "error")
_ALWAYS = {*_PROGRESS, "version", "is_paused", "updated_at"}  # written also to what a newer version wrote
_EMPTY = dict.fromkeys(("task", "arguments", "serializer", "schedule", "queue"), "")


@cache
def _kinds() -> Mapping[str, Any]:
    """Return what a value of each field has to be."""
    hints = get_type_hints(RecurringRecord)
    del hints["newer"]
    return {**hints, "timeout_seconds": float | int | None}


def recurring_json(recurring: RecurringRecord) -> str:
    """Return the definition as a storage keeps it: what a newer version wrote stays in it as it is."""
    fields = attrs.asdict(recurring)
    newer = fields.pop("newer")
    if newer is None:
        return json.dumps(fields, ensure_ascii=False)
    kept = _object(newer)
    if kept is None:
        return str(newer)
    kept.pop("newer", None)
    known = {name: value for name, value in fields.items() if name in kept or name in _ALWAYS}
    unfit = {name for name in kept.keys() & known.keys() - _ALWAYS if not _is_known(name, kept[name])}
    return json.dumps({**kept, **{name: known[name] for name in known.keys() - unfit}}, ensure_ascii=False)


def read_recurring(
    recurring_id: str, text: str, beside: Mapping[str, object] | None = None
) -> RecurringRecord:
    """Return the definition of a text that `recurring_json` or a newer version's gave.

    Nothing is refused: what cannot be read has `newer` set, and every field that can be told.

    Args:
        recurring_id: its id.
        text: as stored.
        beside: fields that the storage keeps apart; they win.
    """
    stored = _object(text)
    fields = {**(stored or {}), **(beside or {}), "id": recurring_id}
    known = {name: value for name, value in fields.items() if name in _kinds() and _is_known(name, value)}
    if isinstance(known.get("tags"), list):
        known["tags"] = tuple(known["tags"])  # type: ignore[arg-type]  # a list, as asked
    is_whole = stored is not None and known.keys() == fields.keys() and known.keys() >= _EMPTY.keys()
    newer = None if is_whole else text if stored is None else json.dumps(fields, ensure_ascii=False)
    return RecurringRecord(**{**_EMPTY, **known, "newer": newer})  # type: ignore[arg-type]  # each one is judged


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_known(name: str, value: object) -> bool:
    if name == "tags":
        return isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value)
    kinds = _kinds()
    return name in kinds and isinstance(value, kinds[name])


def unknown_fields(recurring: RecurringRecord) -> list[str] | None:
    """Return what of a newer version's definition is not known here; None where the whole cannot be read."""
    kept = _object("{}" if recurring.newer is None else recurring.newer)
    if kept is None:
        return None
    unknown = [name for name, value in kept.items() if not _is_known(name, value)]
    return sorted({*unknown, *(_EMPTY.keys() - kept.keys())})


def with_progress_of(recurring: RecurringRecord, stored: RecurringRecord) -> RecurringRecord:
    """Return the definition with the progress of the stored one."""
    return attrs.evolve(recurring, **{name: getattr(stored, name) for name in _PROGRESS})


def _read_record(record: Record) -> RecurringRecord:
    return read_recurring(record.key, record.value)


def fired(record: Record | None, recurring: RecurringRecord, expected_next_at: int) -> str | None:
    """Return the record's value after a firing, None where it does not fire: see `Storage.fire_recurring`."""
    stored = _read_record(record) if record else None
    if stored is None or stored.is_paused:
        return None
    if (stored.version, stored.next_at) != (recurring.version, expected_next_at):
        return None
    return recurring_json(with_progress_of(stored, recurring))


def _fires_at(recurring: RecurringRecord | None) -> int | None:
    return None if recurring is None or recurring.is_paused else recurring.next_at


def _told(record: Record | None) -> int | Literal[False] | None:
    """Return the instant that the record tells, None where nothing fires, False where it has to be found."""
    told: int | Literal[False] | None = json.loads(record.value) if record else False
    return told
