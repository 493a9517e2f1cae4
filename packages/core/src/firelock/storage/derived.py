"""Storage verbs that are implemented with other verbs; a storage can override them with faster ones.

Locks, metrics, logs and progress are stored in versioned records, which are changed by compare-and-set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TypeVar

import attrs

from firelock.errors import StorageError, StorageUnavailable, UnsupportedFeature
from firelock.model.ids import new_id, new_ids
from firelock.model.job import JobFilter, JobRecord, LogLine, Progress, Transition
from firelock.model.limit import KeyState, UniqueState, WaitingJobs
from firelock.model.memo import Chunk
from firelock.model.record import Record
from firelock.model.report import FailureGroup, Finding, Rollup
from firelock.model.session import ClaimRequest, Exchange, SessionRecord
from firelock.model.state import State
from firelock.model.storage import Feature, SchemaState
from firelock.storage.contract import CONTRACT, Storage
from firelock.storage.waiting import Waiting

LOG_LIMIT = 1_000
GROUPED_LIMIT = 10_000
_PAGE = 500
_TRIES = 1_000
_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_DAY = 24 * _HOUR
_ROLLUPS_STAY = 30 * _DAY

_T = TypeVar("_T")


class DerivedStorage(Storage):
    """Implementations of the verbs that need only other verbs. An override must have the same effects."""

    def __init__(self) -> None:
        self._polls = Waiting()
        self._locks_pruned_before: int | None = None

    # ---- handle ------------------------------------------------------------------------------------------

    def schema(self) -> SchemaState:
        """See `Storage.schema`."""
        return SchemaState(CONTRACT, CONTRACT)

    def new_ids(self, count: int, colocate_with: str | Sequence[str | None] | None = None) -> list[str]:
        """See `Storage.new_ids`; there are no partitions, so `colocate_with` is ignored."""
        del colocate_with
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

    # ---- main path ---------------------------------------------------------------------------------------

    def refuse_within(self, within: object | None) -> None:
        """Raise an error if the caller passed a transaction; for storages without transactions.

        Raises:
            UnsupportedFeature: If `within` is given.
        """
        if within is not None:
            raise UnsupportedFeature(
                f"{self._named} does not support transactions. Enqueue without within=, and let a job end "
                "when its task returns."
            )

    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """See `Storage.exchange`."""
        results = self.apply(transitions) if transitions else []
        return Exchange(results, self.claim(request))

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`; without notifications, it waits until the timeout."""
        return self._polls.wait(queues, timeout_seconds)

    def interrupt(self) -> None:
        """See `Storage.interrupt`."""
        self._polls.interrupt()

    # ---- sessions ----------------------------------------------------------------------------------------

    def oldest_session(self) -> SessionRecord | None:
        """See `Storage.oldest_session`; reads all sessions."""
        return next((record for record in self.list_sessions() if record.is_alive), None)

    # ---- records -----------------------------------------------------------------------------------------

    def _change_record(
        self, kind: str, key: str, change: Callable[[Record | None], tuple[str | None, _T]]
    ) -> _T:
        """Change a record by compare-and-set; repeat this until no other change interferes.

        If `change` returns None as the new value, the record stays unchanged.
        """
        for _ in range(_TRIES):
            record = self.get_record(kind, key)
            value, answer = change(record)
            if value is None:
                return answer
            expected = record.version if record else 0
            if self.put_record(kind, key, value, expected_version=expected) is not None:
                return answer
        raise _conflict(kind, key)

    def prune_derived(self, pruned: Sequence[str], now: int, limit: int) -> None:
        """Delete the records of pruned jobs, old rollups and old locks; called by a storage's `prune`.

        Locks are checked at most once an hour, and a call that checks them reads every lock.
        """
        for job_id in pruned:
            self.delete_record("log", job_id)
            self.delete_record("progress", job_id)
            if self.delete_record("stream", job_id):
                for chunk in list(self._chunks(f"{job_id} ")):
                    self.delete_record("chunk", chunk.key)
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
                raise StorageError(
                    f"{self._named} returned cursor {cursor!r} twice in a row; find must return a cursor "
                    "that continues after its page."
                )
            seen, cursor = seen + len(page.jobs), page.cursor
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return [_failure_group(fingerprint, jobs) for fingerprint, jobs in largest[:limit]]

    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """See `Storage.record_metrics`."""
        for rollup in rollups:

            def add(record: Record | None, rollup: Rollup = rollup) -> tuple[str, None]:
                total = rollup if record is None else add_rollups(_read_rollup(record), rollup)
                more = [] if record is None else json.loads(record.value)[_ROLLUP_FIELDS:]
                return json.dumps([*attrs.astuple(total), *more]), None

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

    def append_logs(
        self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
    ) -> Collection[str]:
        """See `Storage.append_logs`; no other transaction can lock a record."""
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
        return ()

    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        """See `Storage.read_log`."""
        record = self.get_record("log", job_id)
        if record is None:
            return []
        return [LogLine(*line[:5]) for line in json.loads(record.value) if line[0] > after][:limit]

    # ---- streams -----------------------------------------------------------------------------------------

    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        """See `Storage.append_stream`; each chunk is a record, and the sizes of a job's streams are another.

        The session and the fence are checked only once, before the chunks are stored. If a run loses its job
        after this check, its chunks are stored with its own fence.
        """
        (job,) = self.get([job_id])
        is_held = job is not None and (job.state, job.session, job.fence) == (
            State.PROCESSING, session, fence,
        )  # fmt: skip
        if not is_held:
            return None
        known = self.get_record("stream", job_id)
        if known is None:
            self.put_record(
                "stream", job_id, "{}", expected_version=0
            )  # stored before the first chunk, so that `prune` finds it
        added: dict[str, int] = {chunk.stream: 0 for chunk in chunks}
        for chunk in chunks:
            key = f"{job_id} {chunk.stream} {chunk.offset:020d}"
            if self.put_record("chunk", key, chunk.data, expected_version=0) is not None:
                added[chunk.stream] += len(chunk.data.encode(errors="surrogatepass"))

        def add(record: Record | None) -> tuple[str, int]:
            sizes: dict[str, int] = json.loads(record.value) if record else {}
            for stream, size in added.items():
                sizes[stream] = sizes.get(stream, 0) + size
            return json.dumps(sizes), max((sizes[stream] for stream in added), default=0)

        return self._change_record("stream", job_id, add)

    def read_stream(self, job_id: str, stream: str, *, after: int = -1, limit: int = 100) -> list[Chunk]:
        """See `Storage.read_stream`."""
        prefix = f"{job_id} {stream} "
        found = self._chunks(prefix, after=f"{prefix}{after:020d}" if after >= 0 else prefix)
        return [
            Chunk(stream, int(record.key.removeprefix(prefix)), record.value)
            for record in islice(found, limit)
        ]

    def _chunks(self, prefix: str, *, after: str | None = None) -> Iterator[Record]:
        """Yield the records of chunks whose key has this prefix, in order."""
        found = every_record(self, "chunk", after=prefix if after is None else after)
        return takewhile(lambda record: record.key.startswith(prefix), found)

    # ---- unsupported: limits and unique keys -------------------------------------------------------------

    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """See `Storage.spend`."""
        del cost, until
        raise self._without(Feature.LIMITS, key)

    def block(self, key: str, *, until: int) -> bool:
        """See `Storage.block`; the key is always blocked, because other transactions cannot lock rows."""
        self.spend(key, until=until)
        return True

    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`."""
        del after, limit
        raise self._without(Feature.LIMITS, prefix)

    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """See `Storage.find_waiting`."""
        del after, limit, job_id
        raise self._without(Feature.LIMITS, key)

    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """See `Storage.find_unique`."""
        del after, limit
        raise self._without(Feature.UNIQUE, prefix)

    def _without(self, feature: Feature, about: str) -> UnsupportedFeature:
        return UnsupportedFeature(
            f"{self._named} does not support {feature} (requested for {about!r}). "
            "Use a storage that supports it, or omit limits= and unique=."
        )

    # ---- locks -------------------------------------------------------------------------------------------

    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """See `Storage.acquire_lock`.

        The token is the version of the record when the lock was acquired. Versions, and therefore tokens,
        also keep growing after the record was deleted.
        """
        for _ in range(_TRIES):
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
        raise _conflict("lock", name)

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


def _conflict(kind: str, key: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"Record {kind!r} {key!r} was changed concurrently {_TRIES:,} times in a row; try again later."
    )


def _failure_group(fingerprint: str, jobs: list[JobRecord]) -> FailureGroup:
    newest = jobs[0]
    error = newest.error
    if error is None:  # pragma: no cover - only jobs with an error are grouped
        raise AssertionError(newest)
    return FailureGroup(
        fingerprint=fingerprint,
        type=error.type,
        message=error.message,
        task=newest.task,
        count=len(jobs),
        newest_at=newest.changed_at,
        sample_id=newest.id,
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
    """Return the job with its progress from a record of the kind `progress`; called by a storage's `get`."""
    if said is None:
        return job
    return attrs.evolve(job, progress=Progress(*json.loads(said.value)[:_PROGRESS_FIELDS]))


_PROGRESS_FIELDS = len(attrs.fields(Progress))
_ROLLUP_FIELDS = len(attrs.fields(Rollup))


def _read_rollup(record: Record) -> Rollup:
    minute, task, queue, outcome, count, duration, histogram, *_ = json.loads(record.value)
    return Rollup(
        minute=minute,
        task=task,
        queue=queue,
        outcome=outcome,
        count=count,
        duration=duration,
        histogram=tuple(histogram),
    )


def _read_lock(record: Record | None) -> tuple[str | None, int, int]:
    """Return the lock's owner, token and expiry time; the owner is None if the lock was released."""
    if record is None:
        return None, 0, 0
    holder, fence, ends_at, *_ = json.loads(record.value)
    return holder, record.version if fence is None else fence, ends_at


def _is_held(record: Record | None, owner: str, fence: int, now: int) -> bool:
    holder, held_fence, ends_at = _read_lock(record)
    return holder == owner and held_fence == fence and ends_at > now


def every_record(storage: Storage, kind: str, *, after: str = "") -> Iterator[Record]:
    """Yield every record of a kind whose key is above `after`, sorted by key.

    This takes one round trip per page, and one more if the last page is full.

    Raises:
        StorageError: If a page does not continue after the previous one, so that the iteration would never
            end.
    """
    while page := storage.list_records(kind, after=after, limit=_PAGE):
        if page[-1].key <= after:
            raise StorageError(
                f"{type(storage).__name__}.list_records returned {kind} {page[-1].key!r} for "
                f"after={after!r}. It must return only keys above `after`, in order of key."
            )
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].key
