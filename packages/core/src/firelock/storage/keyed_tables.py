"""Limits and unique keys on `Tables`, as claims, inserts and requeues of `TableStorage` use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock.limits.admission import (
    Head,
    HolderFacts,
    KeyedClaim,
    KeyRow,
    LaneCursors,
    LaneReading,
    LeavingOut,
    examined_share,
    is_past_holder,
    keyed_room,
    keys_of,
    take_shares,
)
from firelock.limits.line import LINE_LANES, LINE_LENGTH, Spot, in_turns, parts_of, place_of, spots
from firelock.limits.settings import LimitSettings, arrival_after_spend, name_of, read_settings, settings_for
from firelock.limits.unique_rules import (
    JobFacts,
    UniqueRow,
    debounced_due,
    refuse_duplicate,
    replaces,
    starts_of,
    unique_is_taken,
)
from firelock.model.answers import Duplicate
from firelock.model.job import JobRecord, NewJob
from firelock.model.lifecycle import add_duplicate
from firelock.model.limit import Admission, KeyState, UniqueUse, WaitingJobs, write_admission
from firelock.model.session import ClaimRequest
from firelock.storage.rules import StoredJob

if TYPE_CHECKING:
    from firelock.storage.tables import Tables

SHOWN_HOLDERS, SHOWN_OTHERS, COUNTED = 100, 10, 10_000
_LANES_AT_ONCE = 1_000


# ---- claims ----------------------------------------------------------------------------------------------


def take_keyed(
    tables: Tables,
    request: ClaimRequest,
    names: Sequence[str],
    cursors: LaneCursors,
    *,
    now: int,
    freed: Mapping[str, Sequence[str]],
) -> tuple[list[StoredJob], int | None]:
    """Return the jobs to claim from these queues, some of which have lanes, and the time of the next claim.

    The queues are in the order in which jobs are taken from them: one queue after another, or in turn.
    """
    share = examined_share(len(names))
    claim = KeyedClaim(_TableLanes(tables), cursors, now, freed=freed, left_out=request.left_out, share=share)
    given: dict[str, int] = {}

    def take(queue: str, room: int) -> list[StoredJob]:
        behind = given.get(queue, 0)
        plain = list(ready_of(tables, request, queue, behind + room, share))[behind:]
        keyed = [head.row for head in claim.take(queue, keyed_room(cursors, room, len(plain)))]
        plain = plain[: room - len(keyed)]
        given[queue] = behind + len(plain)
        return sorted([*keyed, *plain], key=lambda row: -row.record.priority)

    rows: list[StoredJob] = []
    if request.queues is None:
        rows = take_shares(names, request.limit, take)
    else:
        for name in names:
            rows += take(name, request.limit - len(rows))
    claim.finish()
    return rows, claim.next_claim_at


def ready_of(
    tables: Tables, request: ClaimRequest, queue: str, limit: int, share: int
) -> Iterable[StoredJob]:
    """Return the first jobs without limits, at most `limit`, that the claim may take from the queue."""
    if not request.left_out:
        return tables.ready(queue, limit)
    near = tables.ready(queue, share)
    return islice((row for row in near if row.record.task not in request.left_out), limit)


def take_one(tables: Tables, row: StoredJob, *, now: int) -> StoredJob | None:
    """Return this enqueued job out of turn if its limits allow it, and charge its start to their keys."""
    claim = KeyedClaim(_JobLanes(tables, row), LaneCursors(), now, freed={})
    heads = claim.take(row.record.queue, 1)
    claim.finish()
    return heads[0].row if heads else None


class _TableLanes:
    """Lanes on tables; see `KeyedLanes`. References are job ids, and no other transaction is running."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        """See `KeyedLanes.read_lanes`."""
        del is_patient
        return self._lane_reading(self._tables.lanes(queue, after, until, limit))

    def read_named_lanes(self, queue: str, lanes: Sequence[str]) -> LaneReading:
        """See `KeyedLanes.read_named_lanes`."""
        return self._lane_reading([lane for lane in lanes if self._tables.in_lane(queue, lane, 0, 1)])

    def _lane_reading(self, lanes: Sequence[str]) -> LaneReading:
        keys = dict.fromkeys(key for lane in lanes for key in keys_of(lane))
        rows = {key: row for key in keys if (row := self._tables.key_row(key)) is not None}
        return LaneReading(lanes, settings_of(self._tables, keys), rows)

    def holder_facts(self, refs: Sequence[str]) -> Mapping[str, HolderFacts]:
        """See `KeyedLanes.holder_facts`."""
        found = {ref: row for ref in refs if (row := self._tables.job(ref)) is not None}
        return {
            ref: HolderFacts(
                row.record.session is not None,
                row.record.is_final,
                (row.record.queue, row.lane) if row.is_ready and row.lane is not None else None,
            )
            for ref, row in found.items()
        }

    def current_holders(self, key: str) -> Sequence[str]:
        """See `KeyedLanes.current_holders`."""
        return [row.record.id for row in held_jobs(self._tables) if key in keys_of(row.lane or "")]

    def heads(
        self,
        queue: str,
        wanted: Mapping[str, tuple[int, int]],
        leaving_out: LeavingOut | None = None,
    ) -> Mapping[str, Sequence[Head[StoredJob]]]:
        """See `KeyedLanes.heads`."""
        if leaving_out is None:
            return {
                lane: [_head(row) for row in self._tables.in_lane(queue, lane, behind, limit)]
                for lane, (behind, limit) in wanted.items()
            }
        depth = leaving_out.depth(len(wanted))
        found: dict[str, Sequence[Head[StoredJob]]] = {}
        for lane, (behind, limit) in wanted.items():
            near = self._tables.in_lane(queue, lane, 0, depth)
            open_rows = (row for row in near if leaving_out.examine(row.record.task))
            found[lane] = [_head(row) for row in islice(open_rows, behind, behind + limit)]
        return found

    def head(self, ref: str, leaving_out: LeavingOut | None = None) -> Head[StoredJob] | None:
        """See `KeyedLanes.head`."""
        row = self._tables.job(ref)
        if row is None or not row.is_ready:
            return None
        return None if leaving_out is not None and not leaving_out.examine(row.record.task) else _head(row)

    def put_back(self, heads: Sequence[Head[StoredJob]]) -> None:
        """See `KeyedLanes.put_back`; this does nothing, because an unclaimed job keeps its place."""

    def store_rows(self, rows: Mapping[str, KeyRow]) -> None:
        """See `KeyedLanes.store_rows`."""
        for key, row in rows.items():
            self._tables.put_key_row(key, row)


class _JobLanes(_TableLanes):
    """The lanes of a queue, as if only this job were waiting in them."""

    def __init__(self, tables: Tables, row: StoredJob) -> None:
        super().__init__(tables)
        self._row, self._lane = row, row.lane or ""

    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        """See `KeyedLanes.read_lanes`."""
        del queue, limit, is_patient
        is_in_range = after < self._lane and (not until or self._lane <= until)
        return self._lane_reading([self._lane] if is_in_range else [])

    def heads(
        self,
        queue: str,
        wanted: Mapping[str, tuple[int, int]],
        leaving_out: LeavingOut | None = None,
    ) -> Mapping[str, Sequence[Head[StoredJob]]]:
        """See `KeyedLanes.heads`."""
        del queue, leaving_out
        return {lane: [] if behind else [_head(self._row)] for lane, (behind, _) in wanted.items()}


def _head(row: StoredJob) -> Head[StoredJob]:
    job = row.record
    return Head(job.id, job.admission_json or "", job.enqueued_at or 0, job.attempt, job.crashes, row)


def held_jobs(tables: Tables) -> Iterable[StoredJob]:
    """Yield the jobs with limits that belong to a session because they are processing or have a tail."""
    for session in tables.sessions():
        yield from (row for row in tables.held(session.record.session.id) if row.lane is not None)


def settings_of(tables: Tables, keys: Iterable[str]) -> dict[str, LimitSettings]:
    """Return the stored settings for these keys and their names."""
    wanted = dict.fromkeys(one for key in keys for one in (key, name_of(key)))
    found = {one: record for one in wanted if (record := tables.record("limit", one)) is not None}
    return {one: read_settings(record.value) for one, record in found.items()}


# ---- keys --------------------------------------------------------------------------------------------------


def spend(tables: Tables, key: str, *, cost: int, until: int | None, now: int) -> int:
    """See `Storage.spend`."""
    settings = settings_for(key, settings_of(tables, [key]))
    row = tables.key_row(key) or KeyRow()
    arrival_at = arrival_after_spend(settings, row.next_arrival_at, cost=cost, until=until, now=now)
    if arrival_at != row.next_arrival_at:
        tables.put_key_row(key, KeyRow(row.holders, arrival_at))
    return max(0, round(settings.opens_at(arrival_at)))


def find_keys(tables: Tables, prefix: str, after: str, limit: int, *, now: int) -> list[KeyState]:
    """See `Storage.find_keys`; this reads every lane and every job that belongs to a session."""
    waiting: dict[str, int] = {}
    others: dict[str, set[str]] = {}
    for lane, number in tables.lane_counts():
        keys = keys_of(lane)
        for key in keys:
            waiting[key] = min(COUNTED, waiting.get(key, 0) + number)
            others.setdefault(key, set()).update(keys)
    running: dict[str, list[JobRecord]] = {}
    for row in held_jobs(tables):
        for key in keys_of(row.lane or ""):
            running.setdefault(key, []).append(row.record)
    rows = dict(tables.key_rows(prefix))
    for key, stored in rows.items():
        known = {job.id for job in running.get(key, ())}
        for job in _strict_holders(tables, stored):
            if job.id not in known:
                running.setdefault(key, []).append(job)
    used = {key for key, row in rows.items() if row.next_arrival_at > now}
    found = sorted(key for key in {*waiting, *running, *used} if key.startswith(prefix) and key > after)
    return [
        KeyState(
            key=key,
            holders=tuple(job.id for job in sorted(running.get(key, ()), key=_claimed_at)[:SHOWN_HOLDERS]),
            running=len(running.get(key, ())),
            waiting=waiting.get(key, 0),
            next_arrival_at=rows.get(key, KeyRow()).next_arrival_at,
            others=tuple(sorted(others.get(key, set()) - {key})[:SHOWN_OTHERS]),
        )
        for key in found[:limit]
    ]


def find_waiting(tables: Tables, key: str, after: int, limit: int, job_id: str | None) -> WaitingJobs:
    """See `Storage.find_waiting`; this reads every lane."""
    lanes = list(islice(_lanes_with(tables, key), LINE_LANES + 1))
    is_cut, lanes = len(lanes) > LINE_LANES, lanes[:LINE_LANES]
    record = None if job_id is None else tables.job(job_id)
    own: tuple[str, str] | None = None
    if record is not None and record.is_ready and record.lane is not None and key in keys_of(record.lane):
        own = (record.record.queue, record.lane)
        lanes = lanes if own in lanes else [*lanes, own]

    def count(of: Sequence[int], most: int) -> list[int]:
        return [len(tables.in_lane(*lanes[lane], 0, most)) for lane in of]

    found = spots(count, len(lanes), after, limit)
    ids = {
        lane: [row.record.id for row in tables.in_lane(*lanes[lane], behind, number)]
        for lane, (behind, number) in parts_of(found).items()
    }
    place = None
    if own is not None:
        near = (row.record.id for row in tables.in_lane(*own, 0, LINE_LENGTH))
        rank = next((rank for rank, id in enumerate(near) if id == job_id), LINE_LENGTH)
        place = place_of(count, len(lanes), Spot(lanes.index(own), rank))
    return WaitingJobs(in_turns(found, ids), place, is_cut)


def _lanes_with(tables: Tables, key: str) -> Iterator[tuple[str, str]]:
    """Yield the queue and the name of each lane that contains the key."""
    for queue in sorted(tables.queues()):
        after = ""
        while names := tables.lanes(queue, after, "", _LANES_AT_ONCE):
            yield from ((queue, lane) for lane in names if key in keys_of(lane))
            after = names[-1]


def _claimed_at(job: JobRecord) -> int:
    return job.claimed_at or 0


def _strict_holders(tables: Tables, row: KeyRow) -> Iterable[JobRecord]:
    for ref in row.holders or ():
        if ref.endswith("!"):
            stored = tables.job(ref.rstrip("!"))
            if stored is not None and not is_past_holder(holder_facts(stored.record), is_strict=True):
                yield stored.record


def holder_facts(job: JobRecord) -> HolderFacts:
    """Return the facts about a job that was claimed under a key, except the lane in which it waits."""
    return HolderFacts(job.session is not None, job.is_final)


def forget_idle(
    tables: Tables, rows: Iterable[tuple[str, KeyRow]], after: str, limit: int, *, now: int
) -> str:
    """Delete the rows of keys that no job uses and whose rate has fully recovered.

    Check at most `limit` of the rows after the key `after`. Return the key after which the next call must
    continue, or "" if there are no more rows.
    """
    last, examined = "", 0
    for key, row in rows:
        if key <= after:
            continue
        if examined == limit:
            return last
        last, examined = key, examined + 1
        holders = [tables.job(ref.rstrip("!")) for ref in row.holders or ()]
        is_held = any(
            job is not None and not is_past_holder(holder_facts(job.record), is_strict=ref.endswith("!"))
            for job, ref in zip(holders, row.holders or (), strict=True)
        )
        if not is_held and row.next_arrival_at <= now:
            tables.put_key_row(key, None)
    return ""


# ---- unique keys -----------------------------------------------------------------------------------------


def unique_use(job: JobRecord | NewJob) -> UniqueUse | None:
    """Return the unique key of the job with its options; None if the job has no unique key."""
    return None if job.admission_json is None or job.admission is None else job.admission.unique


class UniqueKeys:
    """The unique keys of an insert, and the jobs that have these keys; `store` writes the changes."""

    def __init__(self, tables: Tables, now: int) -> None:
        self._tables, self._now = tables, now
        self._rows: dict[str, UniqueRow] = {}
        self.changed: dict[str, StoredJob] = {}

    def answer(self, job: NewJob, find: Mapping[str, StoredJob]) -> Duplicate | None:
        """Return the duplicate for a new job; None if the job now has the key, or needs no unique key.

        Args:
            job: the new job.
            find: the earlier new jobs of the same call.

        Raises:
            DuplicateJob: If another job has the unique key and duplicates are refused; see
                `refuse_duplicate`.
        """
        use = unique_use(job)
        if use is None:
            return None
        row = self._rows.get(use.key) or self._tables.unique_row(use.key)
        if row is not None:
            holder = self.changed.get(row.job_id) or find.get(row.job_id) or self._tables.job(row.job_id)
            facts = None if holder is None else facts_of(holder.record)
            if unique_is_taken(row, facts, self._now):
                refuse_duplicate(use, row, facts)
                if holder is not None:
                    self._change(job, use, row, holder)
                return Duplicate(row.job_id)
        at_least = self._now + use.at_least if use.at_least else 0
        self._rows[use.key] = UniqueRow(job.id, 0, at_least)
        return None

    def _change(self, job: NewJob, use: UniqueUse, row: UniqueRow, holder: StoredJob) -> None:
        record, facts = holder.record, facts_of(holder.record)
        due_at = debounced_due(use, row, facts, created_at=record.created_at, now=self._now)
        fields: dict[str, object] = {} if due_at is None else {"due_at": due_at}
        if replaces(use, row, facts):
            limits = job.admission.limits if job.admission is not None else ()
            admission = attrs.evolve(record.admission or Admission(), limits=limits)
            fields |= {
                "arguments": job.arguments, "serializer": job.serializer, "tags": job.tags,
                "priority": job.priority, "admission_json": write_admission(admission),
            }  # fmt: skip
        if fields:
            self.changed[record.id] = attrs.evolve(
                holder,
                record=attrs.evolve(record, **fields),  # type: ignore[arg-type]  # only fields of the record
                history=tuple(add_duplicate(holder.history, record.state, self._now)),
            )

    def store(self) -> None:
        """Store the keys, and the jobs that were changed by duplicate calls."""
        for key, row in self._rows.items():
            self._tables.put_unique_row(key, row)
        for holder in self.changed.values():
            self._tables.put(holder)


def facts_of(job: JobRecord) -> JobFacts:
    """Return the fields that determine whether a job has its unique key."""
    return JobFacts(
        job.state, job.attempt, job.crashes, job.session is not None, job.enqueued_at,
        job.admission or Admission(),
    )  # fmt: skip


def is_taken(tables: Tables, job: JobRecord, now: int) -> bool:
    """Return whether another job has the unique key of this job, which is about to be requeued."""
    use = unique_use(job)
    row = None if use is None else tables.unique_row(use.key)
    if row is None or row.job_id == job.id:
        return False
    holder = tables.job(row.job_id)
    free = attrs.evolve(row, free_at=0)
    return unique_is_taken(free, None if holder is None else facts_of(holder.record), now)


def take_again(tables: Tables, job: JobRecord) -> None:
    """Give a requeued job its unique key again."""
    use = unique_use(job)
    if use is not None:
        row = tables.unique_row(use.key)
        free_at = 0 if row is None else row.free_at
        tables.put_unique_row(use.key, UniqueRow(job.id, starts_of(job.attempt, job.crashes), free_at))


def forget_unique(tables: Tables, found: Sequence[tuple[str, UniqueRow]], limit: int, *, now: int) -> str:
    """Delete free unique keys whose job was pruned; see `forget_idle`."""
    for key, row in found:
        if tables.job(row.job_id) is None and row.free_at <= now:
            tables.put_unique_row(key, None)
    return found[-1][0] if len(found) == limit else ""
