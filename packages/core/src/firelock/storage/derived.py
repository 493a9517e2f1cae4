"""Verbs made of others, or of tables: what a small storage gets for nothing and a large one does faster.

Locks, metrics, logs and progress live in versioned records, changed by compare-and-set.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TypeVar

import attrs

from firelock.errors import StorageError, StorageUnavailable, UnsupportedFeature
from firelock.ids import new_id, new_ids
from firelock.lifecycle import Moved
from firelock.storage import rules, tied_tables
from firelock.storage.admission import LaneCursors
from firelock.storage.contract import CONTRACT, Storage
from firelock.storage.keyed_tables import (
    UniqueKeys,
    find_keys,
    forget_idle,
    forget_unique,
    is_taken,
    spend,
    take_again,
    take_keyed,
)
from firelock.storage.rules import StoredJob
from firelock.storage.tables import StoredSession, Tables
from firelock.storage.waiting import Waiting
from firelock.values import (
    FINAL_STATES,
    Applied,
    Chunk,
    Claim,
    ClaimRequest,
    Counts,
    Duplicate,
    Exchange,
    FailureGroup,
    Feature,
    Finding,
    FoundJobs,
    Held,
    Inserted,
    JobFilter,
    JobHistory,
    JobRecord,
    KeyState,
    LogLine,
    Memo,
    NewJob,
    NewMemo,
    NewSession,
    Progress,
    Promotion,
    Reconciliation,
    Record,
    RecordChange,
    Remembered,
    Renewal,
    Rollup,
    SchemaState,
    SessionRecord,
    State,
    Taken,
    Tally,
    Transition,
    UniqueState,
)

LOG_LIMIT = 1_000
GROUPED_LIMIT = 10_000
_PAGE = 500
_TRIES = 1_000
_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_DAY = 24 * _HOUR
_ROLLUPS_STAY = 30 * _DAY
_FREED_QUEUES = 1_000

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

    def new_ids(self, count: int, beside: str | Sequence[str | None] | None = None) -> list[str]:
        """See `Storage.new_ids`; nothing lies beside anything."""
        del beside
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
            raise UnsupportedFeature(
                f"{self._named} has no transactions to join; enqueue without within=. Let a job end when its "
                "task returns."
            )

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

    # ---- records -----------------------------------------------------------------------------------------

    def _change_record(
        self, kind: str, key: str, change: Callable[[Record | None], tuple[str | None, _T]]
    ) -> _T:
        """Read, change and write one record by compare-and-set until nobody came between; None leaves it."""
        for _ in range(_TRIES):
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
                    f"{self._named} answered cursor {cursor!r} with the same again; find has to go on."
                )
            seen, cursor = seen + len(page.jobs), page.cursor
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return [_failure_group(fingerprint, jobs) for fingerprint, jobs in largest[:limit]]

    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """See `Storage.record_metrics`."""
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

    # ---- streams -----------------------------------------------------------------------------------------

    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        """See `Storage.append_stream`; a chunk is a record, and so is how much there is of each stream.

        The holder is asked for once, before: a run that loses its job meanwhile adds chunks of its own fence.
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
            )  # before the first, so that prune sees it
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
        """Yield the records of chunks whose key begins so, in order."""
        found = every_record(self, "chunk", after=prefix if after is None else after)
        return takewhile(lambda record: record.key.startswith(prefix), found)

    # ---- limits and unique keys, where they are not offered ----------------------------------------------

    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """See `Storage.spend`."""
        del cost, until
        raise self._without(Feature.LIMITS, key)

    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`."""
        del after, limit
        raise self._without(Feature.LIMITS, prefix)

    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """See `Storage.find_unique`."""
        del after, limit
        raise self._without(Feature.UNIQUE, prefix)

    def _without(self, feature: Feature, about: str) -> UnsupportedFeature:
        return UnsupportedFeature(
            f"{self._named} does not offer {feature}, asked for {about!r}. "
            "Use one that does, or leave limits= and unique= out."
        )

    # ---- locks -------------------------------------------------------------------------------------------

    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """See `Storage.acquire_lock`.

        The token is the version of the record that gave the lock: it grows on after the record is gone.
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


class TableStorage(DerivedStorage):
    """Every verb on tables, each a step."""

    def __init__(self) -> None:
        super().__init__()
        self._served = ""  # the queue whose turn it was last
        self._told_due_at: int | None = None  # the next due instant as `claim` or `promote` said last
        self._cursors = LaneCursors()
        self._freed: dict[str, dict[str, None]] = {}  # by queue: lanes in which this handle has ended jobs
        self._idle_after = self._unique_after = ""  # behind which keys upkeep goes on

    @abstractmethod
    def _step(self, body: Callable[[Tables], _T]) -> _T:
        """The body has run on the tables, as one step; return what it returned."""

    # ---- the hot path ------------------------------------------------------------------------------------

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`."""
        self.refuse_within(within)
        now = self.clock()

        def insert(tables: Tables) -> Inserted:
            if only_if is not None:
                answer = rules.checked(tables.record(only_if.kind, only_if.key), only_if)
                if answer is not Applied.APPLIED:
                    return Inserted([False] * len(jobs), answer)
            is_new: list[bool | Duplicate] = []
            new: dict[str, StoredJob] = {}
            keys = None if all(job.admission_json is None for job in jobs) else UniqueKeys(tables, now)
            for job in jobs:
                if job.id in new or tables.job(job.id) is not None:
                    is_new.append(False)
                    continue
                duplicate = None if keys is None else keys.answer(job, new)
                is_new.append(True if duplicate is None else duplicate)
                if duplicate is None:
                    new[job.id] = _stored(tables, job, new, now=now)
            for row in new.values():
                _put(tables, row)
            if keys is not None:
                keys.store()
            if only_if is not None:
                tables.put_record(only_if)
            return Inserted(is_new)

        return self._step(insert)

    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`."""
        served = self._served
        freed, self._freed = {queue: list(lanes) for queue, lanes in self._freed.items()}, {}

        def claim(tables: Tables) -> Claim:
            living = tables.living(request.session)
            next_due_at = self._told_due_at = tables.next_due_at()
            if living is None:
                return Claim([], next_due_at, is_session_lost=True)
            known = tables.queues() if request.queues is None else request.queues
            names = [name for name in dict.fromkeys(known) if not tables.is_paused(name)]
            look_again_at = None
            if any(map(tables.has_lanes, names)):
                if request.queues is None:
                    names.sort(key=lambda name: (name <= served, name))
                rows, look_again_at = take_keyed(
                    tables, request, names, self._cursors, now=self.clock(), freed=freed
                )
            else:
                lines = {name: tables.ready(name, request.limit) for name in names}
                rows = rules.next_in_line(lines, request.queues, request.limit, served=served)
            claimed = [
                rules.claimed_by(row, request.session, living.session.server, now=request.now) for row in rows
            ]
            for row in claimed:
                tables.put(row)
            return Claim([row.claimed() for row in claimed], next_due_at, look_again_at=look_again_at)

        answer = self._step(claim)
        if answer.jobs:
            self._served = answer.jobs[-1].queue
        return answer

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`."""
        self.refuse_within(within)
        now = self.clock()
        return self._step(lambda tables: [self._apply(tables, one, now) for one in transitions])

    def _apply(self, tables: Tables, transition: Transition, now: int) -> Applied:
        row = tables.job(transition.job_id)
        if row is None:
            return Applied.MISSING
        if row.record.ties_json is not None and row.record.is_batch:
            return tied_tables.change_batch(tables, row, transition)
        is_reviving = transition.session is None and row.record.is_final
        is_reviving = is_reviving and row.record.admission_json is not None
        if is_reviving and transition.to not in FINAL_STATES and is_taken(tables, row.record, now):
            return Applied.TAKEN if row.record.state in transition.from_states else Applied.REFUSED
        is_end = transition.session is not None and transition.to is not State.AWAITING
        if is_end:
            after, result = rules.applied(row, transition, now=now)
        else:
            after, result = tied_tables.changed(tables, row, transition, now=now)
        if after is not row:
            _put(tables, after)
        if is_reviving and result is Applied.APPLIED and not after.record.is_final:
            take_again(tables, after.record)
        self._note_freed(row, after)
        if result is not Applied.APPLIED:
            return result
        batch_id = after.batch_id
        is_releasing = tables.is_releasing(after.record.id) or (
            batch_id is not None and tables.is_changed(batch_id)
        )
        return Applied.RELEASING if is_releasing else result

    def _note_freed(self, before: StoredJob, after: StoredJob) -> None:
        """The lane of a job that a session had is looked at first by the next claim."""
        if before.record.session is None or after.record.session is not None or before.lane is None:
            return
        if len(self._freed) > _FREED_QUEUES:
            self._freed.clear()
        self._freed.setdefault(before.record.queue, {})[before.lane] = None

    # ---- what is remembered, batches -----------------------------------------------------------------------

    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """See `Storage.remember`."""
        self.refuse_within(within)
        now = self.clock()
        return self._step(lambda tables: [tied_tables.remember(tables, one, now=now) for one in memos])

    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        """See `Storage.recall`."""
        return self._step(lambda tables: tied_tables.recall(tables, job_id, session, fence))

    def tally(self, ids: Sequence[str]) -> list[Tally | None]:
        """See `Storage.tally`."""
        return self._step(lambda tables: [tied_tables.find_tally(tables, id) for id in ids])

    # ---- limits and unique keys --------------------------------------------------------------------------

    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """See `Storage.spend`."""
        now = self.clock()
        return self._step(lambda tables: spend(tables, key, cost=cost, until=until, now=now))

    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`."""
        now = self.clock()
        return self._step(lambda tables: find_keys(tables, prefix, after, limit, now=now))

    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """See `Storage.find_unique`."""
        found = self._step(lambda tables: tables.unique_rows(prefix, after, limit))
        return [UniqueState(key, row.job_id, row.free_at) for key, row in found]

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, session: NewSession) -> None:
        """See `Storage.begin_session`."""
        now = self.clock()

        def begin(tables: Tables) -> None:
            if tables.session(session.id) is None:
                tables.put_session(StoredSession(rules.begun(session, now=now)))

        self._step(begin)

    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `Storage.renew`."""
        now = self.clock()

        def renew(tables: Tables) -> list[bool]:
            living = [tables.living(renewal.session) for renewal in renewals]
            for record, renewal in zip(living, renewals, strict=True):
                if record is not None:
                    tables.put_session(StoredSession(rules.renewed(record, renewal, now=now)))
            return [record is not None for record in living]

        return self._step(renew)

    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        """See `Storage.reconcile`."""

        def reconcile(tables: Tables) -> Reconciliation:
            is_lost = tables.living(session) is None
            answer, started = rules.reconciled(tables.held(session), held, is_session_lost=is_lost)
            for row in started:
                tables.put(row)
            return answer

        return self._step(reconcile)

    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """See `Storage.end_session`."""
        now = self.clock()
        return self._step(lambda tables: _end_session(tables, session, running, reason=reason, now=now))

    def orphans(self, limit: int) -> list[Taken]:
        """See `Storage.orphans`."""
        now, reason = self.clock(), Moved.SESSION_LOST.value

        def end_first(tables: Tables) -> Taken | None:
            living = [one.record for one in tables.sessions() if one.record.is_alive]
            expired = [one for one in living if one.expires_at <= now]
            if not expired:
                return None
            first = min(expired, key=lambda one: one.expires_at)
            return _end_session(tables, first.session.id, None, reason=reason, now=now)

        taken: list[Taken] = []
        while len(taken) < limit and (one := self._step(end_first)) is not None:
            taken.append(one)
        return taken

    def list_sessions(self) -> list[SessionRecord]:
        """See `Storage.list_sessions`."""
        records = [one.record for one in self._step(lambda tables: list(tables.sessions()))]
        return sorted(records, key=lambda one: (one.session.started_at, one.session.id))

    # ---- upkeep ------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> Promotion:
        """See `Storage.promote`."""
        now = self.clock()

        def promote(tables: Tables) -> Promotion:
            due = tables.due(now, limit)
            for row in due:
                _put(tables, rules.promoted(row, now=now))
            self._told_due_at = tables.next_due_at()
            return Promotion(len(due), self._told_due_at)

        return self._step(promote)

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        now = self.clock()

        def release(tables: Tables) -> int:
            looked_at = 0
            while looked_at < limit:
                if (found := tables.next_releasing(limit - looked_at)) is not None:
                    looked_at += tied_tables.decide_children(tables, *found, now=now)
                elif (batch := tables.next_changed()) is not None:
                    looked_at += tied_tables.look_at(tables, batch, limit - looked_at, now=now)
                else:
                    break
            return looked_at

        return self._step(release)

    def prune(self, limit: int) -> int:
        """See `Storage.prune`."""
        now = self.clock()

        def prune(tables: Tables) -> list[str]:
            expired = [row for row in tables.expired(now, limit) if tied_tables.prune(tables, row, now=now)]
            for session in list(tables.sessions()):
                if session.ended_at is not None and session.ended_at < now - _DAY:
                    tables.remove_session(session.record.session.id)
            keys = list(tables.key_rows(""))
            self._idle_after = forget_idle(tables, keys, self._idle_after, limit, now=now) if keys else ""
            unique = tables.unique_rows("", self._unique_after, limit)
            self._unique_after = forget_unique(tables, unique, limit, now=now) if unique else ""
            return [row.record.id for row in expired]

        pruned = self._step(prune)
        self.prune_derived(pruned, now, limit)
        return len(pruned)

    # ---- what people read --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`."""

        def get(tables: Tables) -> list[JobRecord | None]:
            rows = [tables.job(id) for id in ids]  # what is no id has no progress to ask for
            return [
                with_progress(row.record, tables.record("progress", row.record.id)) if row else None
                for row in rows
            ]

        return self._step(get)

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """See `Storage.find`."""
        place = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)

        def find(tables: Tables) -> list[JobRecord]:
            return tables.find(where, place, limit + 1, oldest_first=oldest_first)

        if where.parent_id is not None:
            children = self._step(
                lambda tables: [row.record for row in tables.children(where.parent_id or "")]
            )
            return rules.paged(children, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        found = self._step(find)
        following = None
        if found and len(found) > limit > 0:
            last = found[limit - 1]
            place = rules.listed_at(last, where), last.id
            following = rules.write_cursor(place, where, oldest_first=oldest_first)
        return FoundJobs(found[:limit], following)

    def history(self, job_id: str) -> JobHistory:
        """See `Storage.history`."""
        row = self._step(lambda tables: tables.job(job_id))
        return JobHistory(list(row.history), list(row.attempts)) if row else JobHistory([], [])

    def counts(self) -> Counts:
        """See `Storage.counts`."""
        by_state: dict[State, int] = {}
        by_queue: dict[str, dict[State, int]] = {}
        for queue, state, number in self._step(lambda tables: list(tables.counts())):
            by_state[state] = by_state.get(state, 0) + number
            by_queue.setdefault(queue, {})[state] = number
        return Counts(by_state, by_queue)

    # ---- records -----------------------------------------------------------------------------------------

    def put_record(
        self,
        kind: str,
        key: str,
        value: str,
        *,
        expected_version: int | None = None,
        due_at: int | None = None,
    ) -> int | None:
        """See `Storage.put_record`."""

        def put(tables: Tables) -> int | None:
            stored = tables.record(kind, key)
            version = stored.version if stored else 0
            if expected_version not in (None, version):
                return None
            return tables.put_record(RecordChange(kind, key, value, version, due_at))

        return self._step(put)

    def get_record(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        return self._step(lambda tables: tables.record(kind, key))

    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """See `Storage.list_records`."""
        return self._step(lambda tables: tables.records(kind, after, limit))

    def due_records(self, kind: str, limit: int) -> list[Record]:
        """See `Storage.due_records`."""
        now = self.clock()
        return self._step(lambda tables: tables.due_records(kind, now, limit))

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`."""

        def delete(tables: Tables) -> bool:
            stored = tables.record(kind, key)
            if stored is None or expected_version not in (None, stored.version):
                return False
            tables.remove_record(stored)
            return True

        return self._step(delete)


def _stored(tables: Tables, job: NewJob, new: Mapping[str, StoredJob], *, now: int) -> StoredJob:
    """Return a new job as its parents and its batch leave it; `new` are those before it in its call."""

    def find(id: str) -> StoredJob | None:
        return new.get(id) or tables.job(id)

    parents = rules.parents_of(job, find)
    row = rules.stored(job, parents, sequence=tables.next_sequence(), now=now)
    return row if job.ties_json is None else tied_tables.in_batch(tables, job, row, new)


def _put(tables: Tables, row: StoredJob) -> None:
    """The job is stored, and its batch, if it has one, has been told."""
    if row.record.ties_json is None:
        tables.put(row)
    else:
        tied_tables.put(tables, row)


def _end_session(tables: Tables, id: str, running: Collection[str] | None, *, reason: str, now: int) -> Taken:
    living = tables.living(id)
    if living is None:
        return Taken(id, "", [], [])
    tables.put_session(StoredSession(attrs.evolve(living, is_alive=False), now))
    taken = Taken(id, living.session.server, [], [])
    for row in tables.held(id):
        has_crashed = running is None or row.record.id in running
        _put(tables, rules.taken_back(row, crash=reason if has_crashed else None, now=now))
        if row.record.state is State.PROCESSING:
            (taken.crashed if has_crashed else taken.returned).append(row.record.id)
    return taken


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
            raise StorageError(
                f"{type(storage).__name__} listed {kind} {page[-1].key!r} where those above {after!r} were "
                "asked for. Its list_records has to leave `after` out, and to keep to the order of keys."
            )
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].key


def insert_surely(storage: Storage, jobs: Sequence[NewJob]) -> Inserted:
    """The jobs are stored, also where the reply to the first try was lost: `insert` is idempotent by id.

    Raises:
        StorageUnavailable: the storage has waited in vain and knows that nothing is stored; or the second try
            failed as well, and the jobs may be stored all the same.
    """
    try:
        return storage.insert(jobs)
    except StorageUnavailable as error:
        if error.is_untouched:  # it has had its patience; another wait of that length is nobody's wish
            raise
        return storage.insert(jobs)
