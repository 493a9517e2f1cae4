"""A whole storage on ordered rows: who has a `step` over rows of text gets every verb of the contract.

A job is one row, and one without a value for each order in which jobs are looked for; how a job changes is
for `rules`. Locks, logs and whatever else `DerivedStorage` makes of records come with it.

Keys are text of at most 1,400 bytes in UTF-8. A value is a job with its arguments, its result, 100 steps and
20 tracebacks: as large as the limits of the settings allow. A step writes some ten rows for each job that it
changes, and changes as many as the verb was asked for, or as wait for a job that is pruned.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs

from firelock.clock import SECOND
from firelock.errors import SchemaMismatch, StorageError
from firelock.lifecycle import Moved
from firelock.storage import rules
from firelock.storage.derived import DerivedStorage, with_progress
from firelock.storage.rules import StoredJob
from firelock.values import (
    Applied,
    Claim,
    ClaimRequest,
    Counts,
    FoundJobs,
    Held,
    Inserted,
    JobFilter,
    JobHistory,
    JobRecord,
    NewJob,
    NewSession,
    Promotion,
    Reconciliation,
    Record,
    RecordChange,
    Renewal,
    SchemaState,
    SessionRecord,
    State,
    Taken,
    Transition,
)

if TYPE_CHECKING:
    import cattrs

__all__ = ["RowStorage", "Rows"]

_LAYOUT = 1
_LAYOUT_KEY = "layout"
_DAY = 86_400 * SECOND
_LONGEST_ID = 64
_PAGE = 200  # rows that are read at once where nobody knows how many will be wanted

_T = TypeVar("_T")


class Rows(Protocol):
    """The rows within one step, with all that the step has written so far."""

    def get(self, key: str) -> str | None:
        """Return the row's value, None where there is none."""
        ...

    def put(self, key: str, value: str) -> None:
        """The row has this value."""
        ...

    def delete(self, key: str) -> None:
        """There is no such row; there need not have been one."""
        ...

    def scan(
        self, prefix: str, *, start: str | None = None, reverse: bool = False, limit: int
    ) -> list[tuple[str, str]]:
        """Return up to `limit` rows whose keys begin with the prefix, in order of code points.

        Only those behind `start`, without it; with `reverse` the largest key comes first.
        """
        ...


class RowStorage(DerivedStorage):
    """Every verb, out of `step`, `clock` and `close`.

    It polls: `wait` lets its time run out. A storage that can tell of new work overrides it, as it does any
    verb that it can do faster.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_laid_out = False
        self._served = ""  # the queue whose turn it was last

    @abstractmethod
    def step(self, body: Callable[[Rows], _T]) -> _T:
        """The body's writes are stored as one step, and its answer is returned; all of it, or nothing.

        Steps are serialisable: it is as if one came after the other. Where two collide, the body of one may
        be run again; it touches nothing but the rows that it is given. What it raises is raised, and nothing
        stored.

        Raises:
            StorageUnavailable: trying again may help.
            StorageError: it does not, as on a closed handle.
        """

    def _step(self, body: Callable[[_Tables], _T]) -> _T:
        is_laid_out = self._is_laid_out

        def run(rows: Rows) -> _T:
            if not is_laid_out:
                _lay_out(rows)
            return body(_Tables(rows))

        answer = self.step(run)
        self._is_laid_out = True
        return answer

    # ---- life --------------------------------------------------------------------------------------------

    def migrate(self) -> list[str]:
        """See `Storage.migrate`."""
        return ["Laid out the rows."] if self.step(_lay_out) else []

    def schema(self) -> SchemaState:
        """See `Storage.schema`."""
        return SchemaState(self.step(lambda rows: int(rows.get(_LAYOUT_KEY) or 0)), _LAYOUT)

    def clear(self) -> None:
        """See `Storage.clear`; one step, in which every row is read."""

        def clear(tables: _Tables) -> None:
            for key, _ in list(tables.scan("")):
                if key != _LAYOUT_KEY:
                    tables.rows.delete(key)

        self._step(clear)

    # ---- the hot path ------------------------------------------------------------------------------------

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`."""
        self.refuse_within(within)
        now = self.clock()

        def insert(tables: _Tables) -> Inserted:
            if only_if is not None:
                answer = rules.checked(tables.record(only_if.kind, only_if.key), only_if)
                if answer is not Applied.APPLIED:
                    return Inserted([False] * len(jobs), answer)
                tables.put_record(only_if)
            return Inserted([_insert(tables, job, now) for job in jobs])

        return self._step(insert)

    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`."""
        served = self._served

        def claim(tables: _Tables) -> Claim:
            living = tables.living(request.session)
            next_due_at = tables.next_due_at()
            if living is None:
                return Claim([], next_due_at, is_session_lost=True)
            names = tables.queues() if request.queues is None else request.queues
            lines = {
                name: tables.ready(name, request.limit)
                for name in dict.fromkeys(names)
                if not rules.is_pausing(tables.record("queue", name))
            }
            claimed = [
                rules.claimed_by(row, request.session, living.session.server, now=request.now)
                for row in rules.next_in_line(lines, request.queues, request.limit, served=served)
            ]
            for row in claimed:
                tables.put(row)
            return Claim([row.claimed() for row in claimed], next_due_at)

        answer = self._step(claim)
        if answer.jobs:
            self._served = answer.jobs[-1].queue
        return answer

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`."""
        self.refuse_within(within)
        now = self.clock()
        return self._step(lambda tables: [_apply(tables, one, now) for one in transitions])

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, session: NewSession) -> None:
        """See `Storage.begin_session`."""
        now = self.clock()

        def begin(tables: _Tables) -> None:
            if tables.session(session.id) is None:
                tables.put_session(_Session(rules.begun(session, now=now)))

        self._step(begin)

    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `Storage.renew`."""
        now = self.clock()

        def renew(tables: _Tables) -> list[bool]:
            living = [tables.living(renewal.session) for renewal in renewals]
            for record, renewal in zip(living, renewals, strict=True):
                if record is not None:
                    tables.put_session(_Session(rules.renewed(record, renewal, now=now)))
            return [record is not None for record in living]

        return self._step(renew)

    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        """See `Storage.reconcile`."""

        def reconcile(tables: _Tables) -> Reconciliation:
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

        def end_first(tables: _Tables) -> Taken | None:
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

        def promote(tables: _Tables) -> Promotion:
            due = tables.up_to("due/", now, limit)
            for row in due:
                tables.put(rules.promoted(row, now=now))
            return Promotion(len(due), tables.next_due_at())

        return self._step(promote)

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        now = self.clock()

        def release(tables: _Tables) -> int:
            looked_at = 0
            while looked_at < limit and (found := tables.next_releasing(limit - looked_at)) is not None:
                parent, children = found
                for child in children:
                    tables.put(rules.followed(child, parent, at=now, now=now))
                looked_at += len(children)
            return looked_at

        return self._step(release)

    def prune(self, limit: int) -> int:
        """See `Storage.prune`."""
        now = self.clock()

        def prune(tables: _Tables) -> list[str]:
            expired = tables.up_to("expires/", now, limit, but="releasing/")
            for row in expired:
                for child in tables.waiting(row.record.id):
                    reason = Moved.PARENT_GONE.value
                    tables.put(rules.ended_with(child, row.record, reason=reason, at=now))
                tables.remove(row)
            for session in list(tables.sessions()):
                if session.ended_at is not None and session.ended_at < now - _DAY:
                    tables.rows.delete(f"session/{session.record.session.id}")
            return [row.record.id for row in expired]

        pruned = self._step(prune)
        self.prune_derived(pruned, now, limit)
        return len(pruned)

    # ---- what people read --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`."""
        found = self._step(lambda tables: [(tables.job(id), tables.record("progress", id)) for id in ids])
        return [with_progress(row.record, said) if row else None for row, said in found]

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """See `Storage.find`."""
        place = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)

        def find(tables: _Tables) -> list[JobRecord]:
            return tables.find(where, place, limit + 1, oldest_first=oldest_first)

        if where.parent_id is not None:
            children = self._step(lambda tables: [row.record for row in tables.children(where)])
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

        def put(tables: _Tables) -> int | None:
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
        prefix = f"record/{kind}/"
        found = self._step(lambda tables: tables.rows.scan(prefix, start=prefix + after, limit=limit))
        return [_record(kind, name.removeprefix(prefix), text) for name, text in found]

    def due_records(self, kind: str, limit: int) -> list[Record]:
        """See `Storage.due_records`."""
        now = self.clock()

        def due(tables: _Tables) -> list[Record]:
            found = tables.rows.scan(f"due-record/{kind}/", limit=limit)
            places = [key.removeprefix(f"due-record/{kind}/").partition("/") for key, _ in found]
            records = [tables.record(kind, key) for at, _, key in places if int(at, 16) <= now]
            return [record for record in records if record is not None]

        return self._step(due)

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`."""

        def delete(tables: _Tables) -> bool:
            stored = tables.record(kind, key)
            if stored is None or expected_version not in (None, stored.version):
                return False
            tables.rows.delete(f"record/{kind}/{key}")
            tables.put_due(stored, None)
            tables.rows.put(f"gone/{kind}", str(max(stored.version, tables.last_gone(kind))))
            return True

        return self._step(delete)


def _lay_out(rows: Rows) -> bool:
    """The rows are laid out for this code; return whether they were not before."""
    found = rows.get(_LAYOUT_KEY)
    if found is None:
        rows.put(_LAYOUT_KEY, str(_LAYOUT))
        return True
    if int(found) != _LAYOUT:
        message = f"The rows have layout {found}, this Firelock knows {_LAYOUT}. Upgrade Firelock here."
        raise SchemaMismatch(message)
    return False


def _insert(tables: _Tables, job: NewJob, now: int) -> bool:
    if tables.job(job.id) is not None:
        return False
    parents = rules.parents_of(job, tables.job)
    tables.put(rules.stored(job, parents, sequence=tables.next_sequence(), now=now))
    return True


def _apply(tables: _Tables, transition: Transition, now: int) -> Applied:
    row = tables.job(transition.job_id)
    if row is None:
        return Applied.MISSING
    after, result = rules.applied(row, transition, now=now)
    if after is not row:
        tables.put(after)
    is_releasing = result is Applied.APPLIED and tables.rows.get(f"releasing/{row.record.id}") is not None
    return Applied.RELEASING if is_releasing else result


def _end_session(
    tables: _Tables, id: str, running: Collection[str] | None, *, reason: str, now: int
) -> Taken:
    living = tables.living(id)
    if living is None:
        return Taken(id, "", [], [])
    tables.put_session(_Session(attrs.evolve(living, is_alive=False), now))
    taken = Taken(id, living.session.server, [], [])
    for row in tables.held(id):
        has_crashed = running is None or row.record.id in running
        tables.put(rules.taken_back(row, crash=reason if has_crashed else None, now=now))
        if row.record.state is State.PROCESSING:
            (taken.crashed if has_crashed else taken.returned).append(row.record.id)
    return taken


# ---- how it lies in rows ---------------------------------------------------------------------------------


@attrs.frozen
class _Session:
    record: SessionRecord
    ended_at: int | None = None


class _Tables:
    """Jobs, sessions, records and counts as one step finds and leaves them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def scan(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield every row that begins so, by what stands behind the prefix; none may come meanwhile."""
        start: str | None = None
        while page := self._page(prefix, start, reverse=False):
            yield from ((key.removeprefix(prefix), value) for key, value in page)
            start = page[-1][0]

    def _page(self, prefix: str, start: str | None, *, reverse: bool) -> list[tuple[str, str]]:
        page = self.rows.scan(prefix, start=start, reverse=reverse, limit=_PAGE)
        if page and page[-1][0] == start:
            message = f"A scan of the rows behind {start!r} gave that one too; it has to leave it out."
            raise StorageError(message)
        return page

    # ---- jobs --------------------------------------------------------------------------------------------

    def job(self, id: str) -> StoredJob | None:
        """Return the job, None where unknown, as any text is that cannot be an id."""
        text = self.rows.get(f"job/{id}") if id.isascii() and len(id) <= _LONGEST_ID else None
        return None if text is None else _read(text, StoredJob)

    def _jobs(self, ids: Iterable[str]) -> list[StoredJob]:
        return [row for id in ids if (row := self.job(id)) is not None]

    def put(self, row: StoredJob) -> None:
        """The job is stored and found by every order; one that has just ended frees those who wait for it."""
        id, before = row.record.id, self.job(row.record.id)
        self._index(before, row)
        self.rows.put(f"job/{id}", _text(row))
        if before is not None and before.record.state is not row.record.state:
            self.rows.delete(f"releasing/{id}")
            if row.record.is_final and self.rows.scan(f"waiting/{id}/", limit=1):
                self.rows.put(f"releasing/{id}", "")

    def remove(self, row: StoredJob) -> None:
        """The job is not stored any more."""
        self._index(row, None)
        self.rows.delete(f"job/{row.record.id}")

    def _index(self, before: StoredJob | None, after: StoredJob | None) -> None:
        old, new = _places(before), _places(after)
        for key in old - new:
            self.rows.delete(key)
        for key in new - old:
            self.rows.put(key, "")
        for row, number in ((before, -1), (after, 1)):
            if row is not None:
                key = f"count/{row.record.queue}/{row.record.state}"
                self.rows.put(key, str(int(self.rows.get(key) or 0) + number))

    def next_sequence(self) -> int:
        """Return the number of the next job in the order of insertion."""
        number = int(self.rows.get("sequence") or 0)
        self.rows.put("sequence", str(number + 1))
        return number

    def ready(self, queue: str, limit: int) -> list[StoredJob]:
        """Return the first of those who wait in the queue."""
        found = self.rows.scan(f"ready/{queue}/", limit=max(0, limit))
        return self._jobs(key.rpartition("/")[2] for key, _ in found)

    def queues(self) -> list[str]:
        """Return the queues with enqueued jobs."""
        return [queue for queue, state, number in self.counts() if state is State.ENQUEUED and number]

    def up_to(self, prefix: str, at: int, limit: int, *, but: str | None = None) -> list[StoredJob]:
        """Return the first jobs of an order by instant, up to this one, without those that have a row so."""
        found: list[StoredJob] = []
        for place, _ in self.scan(prefix):
            instant, _, id = place.partition("/")
            if len(found) == limit or int(instant, 16) > at:
                break
            if but is None or self.rows.get(but + id) is None:
                found += self._jobs([id])
        return found

    def next_due_at(self) -> int | None:
        """Return the instant of what is due first, a scheduled job or a recurring one."""
        prefixes = ("due/", "due-record/recurring/")
        firsts = [(prefix, self.rows.scan(prefix, limit=1)) for prefix in prefixes]
        return rules.earliest(
            *(
                int(found[0][0].removeprefix(prefix).partition("/")[0], 16)
                for prefix, found in firsts
                if found
            )
        )

    def held(self, session: str) -> list[StoredJob]:
        """Return what the session holds, and its tails."""
        return self._jobs([id for id, _ in self.scan(f"held/{session}/")])

    def waiting(self, parent: str) -> list[StoredJob]:
        """Return those whose tie to this parent is not decided."""
        return self._jobs([id for id, _ in self.scan(f"waiting/{parent}/")])

    def children(self, where: JobFilter) -> list[StoredJob]:
        """Return the continuations of the filter's parent."""
        return self._jobs([id for id, _ in self.scan(f"child/{where.parent_id}/")])

    def next_releasing(self, limit: int) -> tuple[JobRecord, list[StoredJob]] | None:
        """Return an ended parent and some who wait for it; they are not given out for this end again."""
        first = self.rows.scan("releasing/", limit=1)
        if not first:
            return None
        (key, seen), prefix = first[0], f"waiting/{first[0][0].removeprefix('releasing/')}/"
        found = self.rows.scan(prefix, start=prefix + seen, limit=limit)
        ids = [name.removeprefix(prefix) for name, _ in found]
        if len(found) < limit:
            self.rows.delete(key)
        else:
            self.rows.put(key, ids[-1])
        (parent,) = self._jobs([key.removeprefix("releasing/")])
        return parent.record, self._jobs(ids)

    def find(
        self, where: JobFilter, place: rules.Place | None, limit: int, *, oldest_first: bool
    ) -> list[JobRecord]:
        """Return up to `limit` jobs behind the place, in order of time."""
        prefix = "due/" if where.by_due else "time/" if where.state is None else f"state/{where.state}/"
        near, far = (where.since, where.until) if oldest_first else (where.until, where.since)
        start = f"{prefix}{place[0]:016x}/{place[1]}" if place else None
        if start is None and near is not None:
            start = f"{prefix}{max(0, near):016x}"
        found: list[JobRecord] = []
        while page := self._page(prefix, start, reverse=not oldest_first):
            jobs = [row.record for row in self._jobs(key.rpartition("/")[2] for key, _ in page)]
            found += [job for job in jobs if rules.matches(job, where) and rules.is_in_window(job, where)]
            start = page[-1][0]
            last_at = int(start.rpartition("/")[0].rpartition("/")[2], 16)
            is_beyond = far is not None and (last_at >= far if oldest_first else last_at < far)
            if is_beyond or len(found) >= limit:
                break
        return found[:limit]

    def counts(self) -> Iterator[tuple[str, State, int]]:
        """Yield how many jobs are in each queue and state."""
        for place, number in self.scan("count/"):
            queue, _, state = place.partition("/")
            yield queue, State(state), int(number)

    # ---- sessions and records ------------------------------------------------------------------------------

    def session(self, id: str) -> _Session | None:
        """Return the session, None where unknown."""
        text = self.rows.get(f"session/{id}")
        return None if text is None else _read(text, _Session)

    def living(self, id: str) -> SessionRecord | None:
        """Return the session, None where it is dead or unknown."""
        session = self.session(id)
        return session.record if session and session.record.is_alive else None

    def put_session(self, session: _Session) -> None:
        """The session is stored."""
        self.rows.put(f"session/{session.record.session.id}", _text(session))

    def sessions(self) -> Iterator[_Session]:
        """Yield all, dead ones too."""
        return (_read(text, _Session) for _, text in self.scan("session/"))

    def record(self, kind: str, key: str) -> Record | None:
        """Return the record, None where there is none."""
        text = self.rows.get(f"record/{kind}/{key}")
        return None if text is None else _record(kind, key, text)

    def put_record(self, change: RecordChange) -> int:
        """The record, which has the expected version, is replaced; return its new version."""
        kind, key, stored = change.kind, change.key, self.record(change.kind, change.key)
        version = 1 + (stored.version if stored else self.last_gone(kind))
        text = json.dumps([version, change.value, change.due_at], ensure_ascii=False)
        self.rows.put(f"record/{kind}/{key}", text)
        self.put_due(stored, Record(kind, key, change.value, version, change.due_at))
        return version

    def put_due(self, before: Record | None, after: Record | None) -> None:
        """The record is found by its instant as it is after, and not as it was before."""
        for record, write in ((before, self.rows.delete), (after, lambda key: self.rows.put(key, ""))):
            if record is not None and record.due_at is not None:
                write(f"due-record/{record.kind}/{record.due_at:016x}/{record.key}")

    def last_gone(self, kind: str) -> int:
        """Return the largest version of the records of a kind that are gone; every other goes on from it."""
        return int(self.rows.get(f"gone/{kind}") or 0)


def _places(row: StoredJob | None) -> set[str]:
    """Return the keys by which the job is found, one for each order."""
    if row is None:
        return set()
    job, id = row.record, row.record.id
    places = {f"time/{job.created_at:016x}/{id}", f"state/{job.state}/{job.changed_at:016x}/{id}"}
    if row.is_ready:
        priority, enqueued_at, sequence = row.place
        places.add(f"ready/{job.queue}/{1_000 + priority:04d}/{enqueued_at:016x}/{sequence:016x}/{id}")
    if job.state is State.SCHEDULED and job.due_at is not None:
        places.add(f"due/{job.due_at:016x}/{id}")
    if job.expires_at is not None:
        places.add(f"expires/{job.expires_at:016x}/{id}")
    if job.session is not None:
        places.add(f"held/{job.session}/{id}")
    places.update(f"child/{edge.parent_id}/{id}" for edge in job.parents)
    places.update(f"waiting/{edge.parent_id}/{id}" for edge in row.pending)
    return places


def _record(kind: str, key: str, text: str) -> Record:
    version, value, due_at = json.loads(text)
    return Record(kind, key, value, version, due_at)


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # noqa: PLC0415 - loaded by the first who needs it

    return cattrs.Converter(omit_if_default=True)


def _text(value: object) -> str:
    return json.dumps(_converter().unstructure(value), ensure_ascii=False)


def _read(text: str, kind: type[_T]) -> _T:
    found: Any = _converter().structure(json.loads(text), kind)
    return found  # type: ignore[no-any-return]  # cattrs gives what it was asked for
