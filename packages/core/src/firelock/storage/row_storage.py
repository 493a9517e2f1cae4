"""A complete storage on ordered rows. Every verb uses `transact`, which runs code on rows of strings.

A job is stored as one row, plus one row without a value for each order in which jobs are searched. `rules`
computes how a job changes. Locks, logs and everything else that `DerivedStorage` keeps in records are also
stored in rows.

Keys are strings of at most 500 bytes in UTF-8, without NUL. Names can be longer, so `ShortKeys` splits the
keys that contain them. The value of a job contains its arguments, its result, up to 100 history entries and
up to 20 tracebacks, so it can be as large as the limits in the settings allow. A transaction writes about ten
rows for each job that it changes. It changes the jobs that were passed to the verb, or the jobs that wait for
a pruned job.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import attrs

from firelock.errors import SchemaMismatch
from firelock.limits.admission import KeyRow
from firelock.limits.unique_rules import UniqueRow
from firelock.model.batch import BatchCounts
from firelock.model.clock import SECOND
from firelock.model.job import JobFilter, JobRecord
from firelock.model.memo import Memo, MemoKind
from firelock.model.record import Record, RecordChange
from firelock.model.state import State
from firelock.model.storage import Feature, SchemaState
from firelock.storage import rules
from firelock.storage.rules import StoredJob
from firelock.storage.short_keys import Rows, ShortKeys, scan_after
from firelock.storage.table_storage import TableStorage
from firelock.storage.tables import MemoSum, StoredSession, Tables

if TYPE_CHECKING:
    import cattrs

_LAYOUT = 2  # development versions used layout 1
_LAYOUT_KEY = "layout"
_DAY = 86_400 * SECOND
_LONGEST_ID = 64
_WAITS_FOR_TIME = (State.SCHEDULED, State.AWAITING)
_PAGE = 200  # number of rows per read if it is unknown how many are needed

_T = TypeVar("_T")


class RowStorage(TableStorage):
    """A storage whose verbs, including limits and unique keys, need only `transact`, `clock` and `close`.

    Servers find new work by polling, because `wait` lasts until its timeout. A storage that can notify
    servers of new work should override `wait`, and any other verb for which it has a faster implementation.
    """

    features = frozenset({Feature.LIMITS, Feature.UNIQUE})

    def __init__(self) -> None:
        super().__init__()
        self._is_laid_out = False

    @abstractmethod
    def transact(self, body: Callable[[Rows], _T]) -> _T:
        """Call the body with the rows, store all of its writes or none, and return its result.

        Transactions must be serializable: the result must be the same as if they ran one after another. If
        two transactions conflict, the body of one may be called again; this is safe because it uses only the
        rows that are passed to it. If the body raises an exception, store nothing and raise the exception to
        the caller.

        Raises:
            StorageUnavailable: If the transaction failed, but trying again may help.
            StorageError: If the transaction failed and trying again does not help, for example on a
                closed handle.
        """

    def transact_checked(self, body: Callable[[Rows], _T]) -> _T:
        """Run `transact` after checking the layout of the rows; use it in verbs that you override.

        Your own rows must have keys that begin with `own/`. No other verb reads or writes such rows, and
        `clear` deletes them.

        Raises:
            SchemaMismatch: If a later release has changed the layout of the rows.
        """
        is_laid_out = self._is_laid_out

        def run(rows: Rows) -> _T:
            if not is_laid_out:
                _lay_out(rows)
            return body(rows)

        answer = self.transact(run)
        self._is_laid_out = True
        return answer

    def _transact(self, body: Callable[[Tables], _T]) -> _T:
        return self.transact_checked(lambda rows: body(_Tables(rows)))

    # ---- handle ------------------------------------------------------------------------------------------

    def migrate(self) -> list[str]:
        """See `Storage.migrate`."""
        return [f"Created layout {_LAYOUT} of the rows."] if self.transact(_lay_out) else []

    def schema(self) -> SchemaState:
        """See `Storage.schema`."""
        return SchemaState(self.transact(lambda rows: int(rows.get(_LAYOUT_KEY) or 0)), _LAYOUT)

    def clear(self) -> None:
        """See `Storage.clear`; this is one transaction, which reads every row."""

        def clear(rows: Rows) -> None:
            _lay_out(rows)  # raises an error instead of clearing rows of a newer layout
            for key, _ in list(_Tables(rows).scan("")):
                if key != _LAYOUT_KEY:
                    rows.delete(key)

        self.transact(clear)


def _lay_out(rows: Rows) -> bool:
    """Mark the rows as having this code's layout; return whether they had no layout before."""
    found = rows.get(_LAYOUT_KEY)
    if found is None:
        rows.put(_LAYOUT_KEY, str(_LAYOUT))
        return True
    if int(found) < _LAYOUT:
        raise SchemaMismatch(
            f"The stored rows have layout {found}, which was written by Firelock before its first release "
            "and cannot be read. Delete the rows, or use another store."
        )
    if int(found) > _LAYOUT:
        raise SchemaMismatch(
            f"The stored rows have layout {found}, but this release of Firelock supports only layout "
            f"{_LAYOUT}. Upgrade Firelock."
        )
    return False


# ---- tables in rows --------------------------------------------------------------------------------------


class _Tables(Tables):
    """The jobs, sessions, records and counts within one transaction."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._named = ShortKeys(rows)  # rows whose keys contain a name, because names may be long
        self._more: dict[str, Mapping[str, Any]] = {}  # fields of a newer release, by key of the row

    def _load(self, key: str, text: str, kind: type[_T]) -> _T:
        """Return the value of a row; fields that this release does not know are kept for `_store`."""
        value = json.loads(text)
        more = _unknown_fields(value, kind)
        if more:
            self._more[key] = more
        found: Any = _converter().structure(value, kind)
        return found  # type: ignore[no-any-return]  # cattrs returns an instance of `kind`

    def _store(self, key: str, value: object) -> None:
        """Write a row, including the fields of a newer release that this transaction has read."""
        self.rows.put(key, self._written(key, value))

    def _written(self, key: str, value: object) -> str:
        fields = _converter().unstructure(value)
        return json.dumps(_merged(fields, self._more.get(key)), ensure_ascii=False)

    def scan(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield every row with this prefix, without the prefix in its key; do not add rows meanwhile."""
        start: str | None = None
        while page := self._page(prefix, start, reverse=False):
            yield from ((key.removeprefix(prefix), value) for key, value in page)
            start = page[-1][0]

    def _page(self, prefix: str, start: str | None, *, reverse: bool) -> list[tuple[str, str]]:
        return scan_after(self.rows, prefix, start, reverse=reverse, limit=_PAGE)

    def _scan_named(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield every row whose key has a name and this prefix; do not add rows meanwhile."""
        start: str | None = None
        while page := self._named.scan(prefix, start=start, limit=_PAGE):
            yield from page
            start = page[-1][0]

    # ---- jobs --------------------------------------------------------------------------------------------

    def job(self, id: str) -> StoredJob | None:
        """Return the job; None if it is unknown, or if the string cannot be an id."""
        text = self.rows.get(f"job/{id}") if _may_be_id(id) else None
        return None if text is None else self._load(f"job/{id}", text, StoredJob)

    def _jobs(self, ids: Iterable[str]) -> list[StoredJob]:
        return [row for id in ids if (row := self.job(id)) is not None]

    def put(self, row: StoredJob) -> None:
        """Store the job and its rows in all orders; see `Tables.put`."""
        id, before = row.record.id, self.job(row.record.id)
        self._index(before, row)
        self._store(f"job/{id}", row)
        if before is not None and before.record.state is not row.record.state:
            self.rows.delete(f"releasing/{id}")
            if row.record.is_final and self.rows.scan(f"waiting/{id}/", limit=1):
                self.rows.put(f"releasing/{id}", "")

    def remove(self, row: StoredJob) -> None:
        """Delete the job."""
        self._index(row, None)
        self.rows.delete(f"job/{row.record.id}")

    def _index(self, before: StoredJob | None, after: StoredJob | None) -> None:
        old, new = _places(before), _places(after)
        for key in old - new:
            self.rows.delete(key)
        for key in new - old:
            is_of_lane = after is not None and key.startswith("laned/")
            self.rows.put(key, (after.lane or "") if after is not None and is_of_lane else "")
        for row, number in ((before, -1), (after, 1)):
            if row is not None:
                key = f"count/{row.record.queue}/{row.record.state}"
                self.rows.put(key, str(int(self.rows.get(key) or 0) + number))

    def next_sequence(self) -> int:
        """Return the sequence number of the next inserted job."""
        number = int(self.rows.get("sequence") or 0)
        self.rows.put("sequence", str(number + 1))
        return number

    def ready(self, queue: str, limit: int) -> list[StoredJob]:
        """Return the first jobs that wait in the queue itself, not in a lane."""
        found = self.rows.scan(f"ready/{queue}/", limit=max(0, limit))
        return self._jobs(key.rpartition("/")[2] for key, _ in found)

    # ---- lanes and keys ------------------------------------------------------------------------------------

    def has_lanes(self, queue: str) -> bool:
        """See `Tables.has_lanes`."""
        return bool(self.rows.scan(f"laned/{queue}/", limit=1))

    def lanes(self, queue: str, after: str, until: str, limit: int) -> list[str]:
        """See `Tables.lanes`; the lanes are in the order of their digests."""
        prefix = f"laned/{queue}/"
        start = f"{prefix}{_digest(after)}0" if after else None  # "0" sorts after "/"
        last, found = _digest(until) if until else "", list[str]()
        while len(found) < limit and (page := self.rows.scan(prefix, start=start, limit=1)):
            digest = page[0][0].removeprefix(prefix).partition("/")[0]
            if last and digest > last:
                break
            found.append(page[0][1])
            start = f"{prefix}{digest}0"
        return found

    def in_lane(self, queue: str, lane: str, behind: int, limit: int) -> list[StoredJob]:
        """See `Tables.in_lane`."""
        found = self.rows.scan(f"laned/{queue}/{_digest(lane)}/", limit=behind + max(0, limit))
        return self._jobs(key.rpartition("/")[2] for key, _ in found[behind:])

    def lane_counts(self) -> Iterator[tuple[str, int]]:
        """See `Tables.lane_counts`."""
        return ((lane, 1) for _, lane in self.scan("laned/"))

    def key_row(self, key: str) -> KeyRow | None:
        """See `Tables.key_row`."""
        text = self._named.get(f"limit-key/{key}")
        return None if text is None else self._load(f"limit-key/{key}", text, KeyRow)

    def put_key_row(self, key: str, row: KeyRow | None) -> None:
        """See `Tables.put_key_row`."""
        if row is None:
            self._named.delete(f"limit-key/{key}")
        else:
            self._named.put(f"limit-key/{key}", self._written(f"limit-key/{key}", row))

    def key_rows(self, prefix: str) -> Iterator[tuple[str, KeyRow]]:
        """See `Tables.key_rows`."""
        # A scan does not return the row whose key is the prefix itself.
        if prefix and (row := self.key_row(prefix)) is not None:
            yield prefix, row
        for key, text in self._scan_named(f"limit-key/{prefix}"):
            yield key.removeprefix("limit-key/"), self._load(key, text, KeyRow)

    def unique_row(self, key: str) -> UniqueRow | None:
        """See `Tables.unique_row`."""
        text = self._named.get(f"unique/{key}")
        return None if text is None else self._load(f"unique/{key}", text, UniqueRow)

    def put_unique_row(self, key: str, row: UniqueRow | None) -> None:
        """See `Tables.put_unique_row`."""
        if row is None:
            self._named.delete(f"unique/{key}")
        else:
            self._named.put(f"unique/{key}", self._written(f"unique/{key}", row))

    def unique_rows(self, prefix: str, after: str, limit: int) -> list[tuple[str, UniqueRow]]:
        """See `Tables.unique_rows`."""
        start = f"unique/{after}" if after >= prefix and after else None
        own = self.unique_row(prefix) if prefix and after < prefix else None
        rows = self._named.scan(f"unique/{prefix}", start=start, limit=limit)
        found = [(key.removeprefix("unique/"), self._load(key, text, UniqueRow)) for key, text in rows]
        return (found if own is None else [(prefix, own), *found])[:limit]

    # ---- batches and memos ---------------------------------------------------------------------------------

    def batch_counts(self, batch: str) -> BatchCounts | None:
        """See `Tables.batch_counts`."""
        text = self.rows.get(f"counts/{batch}")
        return None if text is None else self._load(f"counts/{batch}", text, BatchCounts)

    def put_batch_counts(self, batch: str, counts: BatchCounts | None) -> None:
        """See `Tables.put_batch_counts`."""
        if counts is None:
            self.rows.delete(f"counts/{batch}")
            self.rows.delete(f"changed/{batch}")
        else:
            self._store(f"counts/{batch}", counts)

    def note_changed(self, batch: str) -> None:
        """See `Tables.note_changed`."""
        self.rows.put(f"changed/{batch}", "")

    def is_changed(self, batch: str) -> bool:
        """See `Tables.is_changed`."""
        return self.rows.get(f"changed/{batch}") is not None

    def next_changed(self) -> str | None:
        """See `Tables.next_changed`."""
        found = self.rows.scan("changed/", limit=1)
        if not found:
            return None
        self.rows.delete(found[0][0])
        return found[0][0].removeprefix("changed/")

    def unswept(self, batch: str, limit: int) -> list[StoredJob]:
        """See `Tables.unswept`."""
        found = self.rows.scan(f"unswept/{batch}/", limit=limit)
        return self._jobs(key.rpartition("/")[2] for key, _ in found)

    def waiting_for_batch(self, batch: str, limit: int) -> list[StoredJob]:
        """See `Tables.waiting_for_batch`."""
        found = self.rows.scan(f"waiting-for-batch/{batch}/", limit=limit)
        return self._jobs(key.rpartition("/")[2] for key, _ in found)

    def memos(self, job: str) -> list[Memo]:
        """See `Tables.memos`."""
        found = [self._load(key, text, Memo) for key, text in self._scan_named(f"memo/{job}/")]
        return sorted(found, key=lambda memo: memo.place)

    def memo(self, job: str, kind: MemoKind, name: str) -> Memo | None:
        """See `Tables.memo`."""
        key = _memo_key(job, kind, name)
        text = self._named.get(key)
        return None if text is None else self._load(key, text, Memo)

    def put_memo(self, job: str, memo: Memo) -> None:
        """See `Tables.put_memo`."""
        key = _memo_key(job, memo.kind, memo.name)
        self._named.put(key, self._written(key, memo))

    def remove_memo(self, job: str, memo: Memo) -> None:
        """See `Tables.remove_memo`."""
        self._named.delete(_memo_key(job, memo.kind, memo.name))

    def memo_sum(self, job: str) -> MemoSum:
        """See `Tables.memo_sum`."""
        text = self.rows.get(f"memo-sum/{job}")
        return MemoSum() if text is None else self._load(f"memo-sum/{job}", text, MemoSum)

    def put_memo_sum(self, job: str, total: MemoSum | None) -> None:
        """See `Tables.put_memo_sum`."""
        if total is not None:
            self._store(f"memo-sum/{job}", total)
            return
        self.rows.delete(f"memo-sum/{job}")
        for key, _ in list(self._scan_named(f"memo/{job}/")):
            self._named.delete(key)

    # ---- orders --------------------------------------------------------------------------------------------

    def queues(self) -> list[str]:
        """Return the queues with enqueued jobs."""
        return [queue for queue, state, number in self.counts() if state is State.ENQUEUED and number]

    def due(self, now: int, limit: int) -> list[StoredJob]:
        """See `Tables.due`."""
        return self._up_to("due/", now, limit)

    def expired(self, now: int, limit: int) -> list[StoredJob]:
        """See `Tables.expired`."""
        return self._up_to("expires/", now, limit, but="releasing/")

    def _up_to(self, prefix: str, at: int, limit: int, *, but: str | None = None) -> list[StoredJob]:
        """Return the first jobs of a time order, up to this time, except jobs that have a row under `but`."""
        found: list[StoredJob] = []
        for place, _ in self.scan(prefix):
            time, _, id = place.partition("/")
            if len(found) == limit or int(time, 16) > at:
                break
            if but is None or self.rows.get(but + id) is None:
                found += self._jobs([id])
        return found

    def next_due_at(self) -> int | None:
        """Return the earliest due time of a scheduled, awaiting or recurring job."""
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
        """Return the jobs that belong to the session, including its tails."""
        return self._jobs([id for id, _ in self.scan(f"held/{session}/")])

    def waiting(self, parent: str) -> list[StoredJob]:
        """Return the jobs that have an undecided edge to this parent."""
        return self._jobs([id for id, _ in self.scan(f"waiting/{parent}/")])

    def children(self, parent: str) -> list[StoredJob]:
        """See `Tables.children`."""
        return self._jobs([id for id, _ in self.scan(f"child/{parent}/")]) if _may_be_id(parent) else []

    def is_releasing(self, id: str) -> bool:
        """See `Tables.is_releasing`."""
        return self.rows.get(f"releasing/{id}") is not None

    def next_releasing(self, limit: int) -> tuple[JobRecord, list[StoredJob]] | None:
        """See `Tables.next_releasing`."""
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
        """Return up to `limit` jobs after this place in the list, in order of time."""
        of = "" if where.batch_id is None else f"member/{where.batch_id}/"
        prefix = f"{of}time/" if where.state is None else f"{of}state/{where.state}/"
        if where.by_due:
            prefix = "due/"
        if not _may_be_id(where.batch_id or ""):
            return []
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
        """Yield the number of jobs in each queue and state."""
        for place, number in self.scan("count/"):
            queue, _, state = place.partition("/")
            yield queue, State(state), int(number)

    # ---- sessions and records ------------------------------------------------------------------------------

    def session(self, id: str) -> StoredSession | None:
        """Return the session; None if it is unknown."""
        text = self.rows.get(f"session/{id}")
        return None if text is None else self._load(f"session/{id}", text, StoredSession)

    def put_session(self, session: StoredSession) -> None:
        """Store the session."""
        id = session.record.session.id
        self._list_session(self.session(id), session)
        self._store(f"session/{id}", session)

    def _list_session(self, before: StoredSession | None, after: StoredSession | None) -> None:
        """Move the session from its previous orders to its new ones."""
        old, new = _session_places(before), _session_places(after)
        for key in old - new:
            self.rows.delete(key)
        for key in new - old:
            self.rows.put(key, "")

    def remove_session(self, id: str) -> None:
        """See `Tables.remove_session`."""
        self._list_session(self.session(id), None)
        self.rows.delete(f"session/{id}")

    def _sessions(self, ids: Iterable[str]) -> list[StoredSession]:
        return [session for id in ids if (session := self.session(id)) is not None]

    def living_sessions(self, limit: int | None = None) -> list[StoredSession]:
        """See `Tables.living_sessions`."""
        first = None if limit is None else self.rows.scan("living/", limit=limit)
        places = self.scan("living/") if first is None else first
        return self._sessions(place.rpartition("/")[2] for place, _ in places)

    def unfollowed(self, server_id: str) -> list[StoredSession]:
        """See `Tables.unfollowed`."""
        return self._sessions([id for id, _ in self.scan(f"unfollowed/{server_id}/")])

    def forgettable(self, now: int, limit: int) -> list[StoredSession]:
        """See `Tables.forgettable`."""
        found = self.rows.scan("forget/", limit=limit)
        places = [key.removeprefix("forget/").partition("/") for key, _ in found]
        return self._sessions(id for at, _, id in places if int(at, 16) <= now)

    def sessions(self) -> Iterator[StoredSession]:
        """Yield all sessions, including ended ones."""
        return (self._load(f"session/{id}", text, StoredSession) for id, text in self.scan("session/"))

    def record(self, kind: str, key: str) -> Record | None:
        """Return the record; None if it does not exist."""
        text = self._named.get(_record_key(kind, key))
        return None if text is None else _record(kind, key, text)

    def records(self, kind: str, after: str, limit: int) -> list[Record]:
        """See `Tables.records`."""
        prefix = _record_key(kind, "")
        found = self._named.scan(prefix, start=prefix + after, limit=limit)
        return [_record(kind, name.removeprefix(prefix), text) for name, text in found]

    def due_records(self, kind: str, now: int, limit: int) -> list[Record]:
        """See `Tables.due_records`."""
        prefix = f"due-{_record_key(kind, '')}"
        found = [key.removeprefix(prefix).partition("/") for key, _ in self._named.scan(prefix, limit=limit)]
        records = [self.record(kind, key) for at, _, key in found if int(at, 16) <= now]
        return [record for record in records if record is not None]

    def remove_record(self, record: Record) -> None:
        """See `Tables.remove_record`."""
        self._named.delete(_record_key(record.kind, record.key))
        self._put_due(record, None)
        self.rows.put(f"gone/{record.kind}", str(max(record.version, self._last_gone(record.kind))))

    def put_record(self, change: RecordChange) -> int:
        """Replace a record that is known to have the expected version; return its new version."""
        kind, key, stored = change.kind, change.key, self.record(change.kind, change.key)
        version = 1 + (stored.version if stored else self._last_gone(kind))
        text = json.dumps([version, change.value, change.due_at], ensure_ascii=False)
        self._named.put(_record_key(kind, key), text)
        self._put_due(stored, Record(kind, key, change.value, version, change.due_at))
        return version

    def _put_due(self, before: Record | None, after: Record | None) -> None:
        """Index the record by its new due time instead of its previous one."""
        for record, write in ((before, self._named.delete), (after, lambda key: self._named.put(key, ""))):
            if record is not None and record.due_at is not None:
                write(f"due-{_record_key(record.kind, '')}{record.due_at:016x}/{record.key}")

    def _last_gone(self, kind: str) -> int:
        """Return the largest version of the deleted records of a kind; new records get larger ones."""
        return int(self.rows.get(f"gone/{kind}") or 0)


def _may_be_id(text: str) -> bool:
    return text.isascii() and len(text) <= _LONGEST_ID


def _places(row: StoredJob | None) -> set[str]:
    """Return the keys under which the job is indexed, one for each order."""
    if row is None:
        return set()
    job, id = row.record, row.record.id
    places = {f"time/{job.created_at:016x}/{id}", f"state/{job.state}/{job.changed_at:016x}/{id}"}
    if row.is_ready:
        priority, enqueued_at, sequence = row.place
        line = f"ready/{job.queue}" if row.lane is None else f"laned/{job.queue}/{_digest(row.lane)}"
        places.add(f"{line}/{1_000 + priority:04d}/{enqueued_at:016x}/{sequence:016x}/{id}")
    if job.state in _WAITS_FOR_TIME and job.due_at is not None:
        places.add(f"due/{job.due_at:016x}/{id}")
    if job.expires_at is not None:
        places.add(f"expires/{job.expires_at:016x}/{id}")
    if job.session is not None:
        places.add(f"held/{job.session}/{id}")
    places.update(f"child/{edge.parent_id}/{id}" for edge in job.parents)
    places.update(f"waiting/{edge.parent_id}/{id}" for edge in row.pending)
    if (batch := row.batch_id) is not None:
        places |= _places_in(batch, row)
    return places


def _session_places(session: StoredSession | None) -> set[str]:
    """Return the keys under which the session is indexed, one for each order."""
    if session is None:
        return set()
    id, server_id = session.record.session.id, session.record.session.server_id
    if session.forget_at is None:
        return {f"living/{max(0, session.record.session.started_at):016x}/{id}"}
    places = {f"forget/{session.forget_at:016x}/{id}"}
    return places if session.is_followed else places | {f"unfollowed/{server_id}/{id}"}


def _places_in(batch: str, row: StoredJob) -> set[str]:
    """Return the keys under which a member is indexed in its batch."""
    job, id, of = row.record, row.record.id, f"member/{batch}"
    places = {f"{of}/time/{job.created_at:016x}/{id}", f"{of}/state/{job.state}/{job.changed_at:016x}/{id}"}
    if not job.is_final and not row.is_cancelled:
        places.add(f"unswept/{batch}/{id}")
    if row.waits_for_batch:
        places.add(f"waiting-for-batch/{batch}/{id}")
    return places


def _memo_key(job: str, kind: MemoKind, name: str) -> str:
    return f"memo/{job}/{kind}/{name}"


def _digest(lane: str) -> str:
    """Return the digest that represents a lane in a key, because the lane may be too long for a key."""
    return sha256(lane.encode()).hexdigest()[:32]


def _record_key(kind: str, key: str) -> str:
    """Return the key of the record; a slash in the kind is escaped, because a slash ends the kind."""
    return f"record/{kind.replace('%', '%25').replace('/', '%2F')}/{key}"


def _record(kind: str, key: str, text: str) -> Record:
    version, value, due_at, *_ = json.loads(text)
    return Record(kind, key, value, version, due_at)


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # noqa: PLC0415 - needed only by storages of rows

    return cattrs.Converter(omit_if_default=True)


def _unknown_fields(value: object, kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a class, or a type of one
    """Return the unknown fields of a stored value, including those of nested values."""
    if not (isinstance(value, dict) and attrs.has(kind)):
        return {}
    known = _kinds_of(kind)
    found = {name: field for name, field in value.items() if name not in known}
    for name, inner in known.items():
        if name in value and (more := _unknown_fields(value[name], inner)):
            found[name] = more
    return found


@cache
def _kinds_of(kind: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
    hints = get_type_hints(kind)
    return {field.name: _class_in(hints[field.name]) for field in attrs.fields(kind)}


def _class_in(hint: Any) -> Any:  # noqa: ANN401 - as above
    """Return the class of a field that may be None; for any other field, return its annotation."""
    found = [one for one in get_args(hint) if one is not type(None)]
    return found[0] if len(found) == 1 and len(get_args(hint)) == 2 else hint  # noqa: PLR2004 - "X | None"


def _merged(fields: Any, more: Mapping[str, Any] | None) -> Any:  # noqa: ANN401 - JSON
    """Return the fields of a value, including the fields of a newer release."""
    if not more or not isinstance(fields, dict):
        return fields
    return fields | {
        name: _merged(fields[name], field) if name in fields else field for name, field in more.items()
    }
