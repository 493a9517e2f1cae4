"""`fire.jobs`: paged queries, and operations that return one result per id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import attrs

from firelock.errors import (
    ConfigurationError,
    JobConflict,
    JobNotFound,
    ScheduleError,
    StorageError,
    StorageUnavailable,
)
from firelock.flows.batch import handle_of
from firelock.jobs.administration import (
    apply_unless_changed,
    release_continuations,
    restoration,
    to_move_target,
    why_not_moved,
    why_not_requeued,
)
from firelock.jobs.blocked_by import KeyWait, key_waits
from firelock.jobs.job import Job, JobPage, JobProgress
from firelock.jobs.pagination import PAGE_LIMIT, check_limit
from firelock.jobs.unread import unread_part
from firelock.limits.keys import partition_key_of
from firelock.model import lifecycle
from firelock.model.aio import in_thread, twin
from firelock.model.clock import micros, span_micros
from firelock.model.dependencies import Edge, Relations, write_relations
from firelock.model.job import JobRecord, NewJob, Transition
from firelock.model.limit import Admission, write_admission
from firelock.model.state import State
from firelock.model.text import shown
from firelock.options import to_choice
from firelock.storage import (
    Applied,
    Counts,
    FailureGroup,
    FoundJobs,
    JobFilter,
    PartlyApplied,
    PartlyUnavailable,
    Rollup,
)

if TYPE_CHECKING:
    from firelock.jobs.client import Client

_StateName = Literal["awaiting", "scheduled", "enqueued", "processing", "succeeded", "failed", "deleted"]

_CHUNK = 500
_LAST = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


@attrs.frozen
class JobCounts(Counts, Mapping[State, int]):
    """The number of jobs in each of the seven states, including states without jobs: a mapping by state.

    `counts.failed` and `counts["failed"]` are the same number. `by_state` has the numbers of all states;
    `by_queue` has the same numbers for each queue in the storage.
    """

    @classmethod
    def of(cls, counts: Counts) -> JobCounts:
        """Complete a storage's counts, which can omit states, so that they include every state."""
        return cls(
            _every_state(counts.by_state),
            {queue: _every_state(states) for queue, states in counts.by_queue.items()},
        )

    def __getitem__(self, state: State | _StateName) -> int:
        """Return the number of jobs in the state.

        Raises:
            ConfigurationError: If the state does not exist.
        """
        return self.by_state[to_choice(State, "state", state)]

    def __iter__(self) -> Iterator[State]:
        """Iterate over the states."""
        return iter(self.by_state)

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self.by_state)

    def __contains__(self, state: object) -> bool:
        """Return whether there is such a state."""
        return state in self.by_state

    @property
    def total(self) -> int:
        """The number of all jobs."""
        return sum(self.by_state.values())

    @property
    def awaiting(self) -> int:
        """The number of jobs that wait for another job, a signal or their batch, including open batches."""
        return self.by_state[State.AWAITING]

    @property
    def scheduled(self) -> int:
        """The number of jobs that are due later, including retries and sleeps."""
        return self.by_state[State.SCHEDULED]

    @property
    def enqueued(self) -> int:
        """The number of jobs that wait for a worker."""
        return self.by_state[State.ENQUEUED]

    @property
    def processing(self) -> int:
        """The number of jobs that are claimed or running."""
        return self.by_state[State.PROCESSING]

    @property
    def succeeded(self) -> int:
        """The number of jobs that succeeded and are still stored."""
        return self.by_state[State.SUCCEEDED]

    @property
    def failed(self) -> int:
        """The number of jobs that failed permanently and are still stored."""
        return self.by_state[State.FAILED]

    @property
    def deleted(self) -> int:
        """The number of jobs that were deleted and are still stored."""
        return self.by_state[State.DELETED]


def _every_state(counts: Mapping[State, int]) -> Mapping[State, int]:
    return {state: counts.get(state, 0) for state in State}


class Where(TypedDict, total=False):
    """The conditions of `find` and `iterate`; jobs must match all conditions that are given."""

    state: str | None
    task: str | None
    queue: str | None
    tag: str | None
    server: str | None
    fingerprint: str | None  # identical for failures of the same kind at the same place
    recurring: str | None  # the id of the recurring job that created the job
    batch: str | None  # the id of the batch of which the job is a member
    id_prefix: str | None
    since: datetime | None
    until: datetime | None


class Jobs:
    """The jobs of an app: `fire.jobs`.

    Its methods query jobs and change many of them.

    `copy` joins the caller's transaction. `requeue`, `delete`, `restore`, `reschedule` and `move` act
    immediately: the rollback of a transaction around them does not undo them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    # ---- queries -----------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job[Any]:
        """Return the job's handle.

        Raises:
            JobNotFound: If no such job is stored.
        """
        return handle_of(self._client, self._record(job_id))

    aget = twin(get)

    def find(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
        by_due: bool = False,
        **where: Unpack[Where],
    ) -> JobPage:
        """Return a page of the jobs that match all given conditions, newest first.

        `since` and `until` compare the time of the last change of state if `state` is given, otherwise the
        time of creation. With `by_due`, only scheduled jobs are found, and their due times are compared; add
        `oldest_first` to get the job that is due first.

        Raises:
            ConfigurationError: If the state is unknown or, with `by_due`, is not scheduled; or the limit is
                not from 1 to 500.
            ScheduleError: If a time has no time zone.
        """
        chosen = _filter("find", where, by_due=by_due)
        return self.page(chosen, limit=check_limit(limit, "jobs"), cursor=cursor, oldest_first=oldest_first)

    afind = twin(find)

    def iterate(self, *, oldest_first: bool = False, **where: Unpack[Where]) -> Iterator[Job[Any]]:
        """Iterate over all jobs that match all given conditions, as in `find`, newest first.

        Jobs are read 500 at a time, when they are needed. Jobs can change during the iteration, so each
        handle shows its job as it was when its page was read. Each job is returned at most once. A job that
        matched at the beginning is returned unless it changed before its page was read. Jobs that begin to
        match later are left out, so that the iterator ends. You may change the returned jobs during the
        iteration.

        Raises:
            ConfigurationError: If the state is unknown.
            ScheduleError: If a time has no time zone.
        """
        chosen = _filter("iterate", where)
        return (job for page in self._pages(chosen, oldest_first=oldest_first) for job in page)

    def aiterate(self, *, oldest_first: bool = False, **where: Unpack[Where]) -> AsyncIterator[Job[Any]]:
        """Iterate without blocking the event loop: `async for job in fire.jobs.aiterate(state="failed")`."""
        return self._aiterate(self._pages(_filter("aiterate", where), oldest_first=oldest_first))

    async def _aiterate(self, pages: Iterator[JobPage]) -> AsyncIterator[Job[Any]]:
        while (page := await in_thread(next, pages, None)) is not None:
            for job in page:
                yield job

    def _pages(self, where: JobFilter, *, oldest_first: bool) -> Iterator[JobPage]:
        if oldest_first:  # jobs that match later are added at the end, so the iteration would never end
            end = self._client.clock.now() + 1
            where = attrs.evolve(where, until=end if where.until is None else min(where.until, end))
        cursor = None
        while True:
            page = self.page(where, limit=PAGE_LIMIT, cursor=cursor, oldest_first=oldest_first)
            yield page
            cursor = page.cursor
            if cursor is None:
                return

    def page(
        self, where: JobFilter, *, limit: int = 50, cursor: str | None = None, oldest_first: bool = False
    ) -> JobPage:
        """Return a page of jobs for a `JobFilter`, as dashboards create it."""
        page: FoundJobs = self._client.storage.find(
            where, limit=limit, cursor=cursor, oldest_first=oldest_first
        )
        return JobPage([handle_of(self._client, record) for record in page.jobs], page.cursor)

    apage = twin(page)

    def counts(self) -> JobCounts:
        """Return the number of jobs in every state, in total and per queue; this takes one round trip."""
        return JobCounts.of(self._client.storage.counts())

    acounts = twin(counts)

    def held_by(self, ids: Sequence[str]) -> list[list[KeyWait]]:
        """Return the limits that currently delay each job, as one list per id, which may be empty.

        This method takes three reads per key. `str()` of a KeyWait is "limit tenant:7 (4 of 4 running)".
        """
        return key_waits(self._client.storage, self._records(ids), self._client.clock.now())

    aheld_by = twin(held_by)

    def failure_groups(self, limit: int = 100) -> list[FailureGroup]:
        """Return the newest 10,000 failed jobs, grouped by fingerprint, largest group first."""
        return self._client.storage.failure_groups(limit)

    afailure_groups = twin(failure_groups)

    def timeline(
        self, since: datetime, until: datetime, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """Return the ended attempts per minute, from `since` to before `until`, in order of minute."""
        return self._client.storage.timeline(micros(since), micros(until), task=task, queue=queue)

    atimeline = twin(timeline)

    def progress(self, ids: Sequence[str]) -> list[JobProgress | None]:
        """Return the progress that each job has reported, one result per id; None if it has none."""
        records = self._records(ids)
        return [JobProgress.of(one.progress) if one and one.progress else None for one in records]

    aprogress = twin(progress)

    def _record(self, job_id: str) -> JobRecord:
        record = self._client.storage.get((job_id,))[0]
        if record is None:
            raise JobNotFound(
                f"Job {shown(job_id)} was not found: the id is wrong, or the job has been pruned."
            )
        return record

    # ---- operations --------------------------------------------------------------------------------------

    def requeue(self, ids: Sequence[str], *, reason: str = "requeued by code") -> list[Applied]:
        """Enqueue each job that is neither enqueued nor processing; return one result per id.

        The result is `Applied.REFUSED` for a batch, for a member of a cancelled batch, and for a job that
        lacks the output of another job; `why_not_requeued` returns the reason. To requeue the members of a
        batch, use `fire.batches.get(id).requeue()`. The storage changes up to 500 jobs at a time, each time
        in one atomic operation; the same applies to `delete`, `restore` and `reschedule`.

        Raises:
            PartlyApplied: If the storage became unreachable or refused a change after it had returned some
                results. The error's `results` contains these results. If trying again may help, the error is
                also a StorageUnavailable.
            StorageError: If the same happens before the first result.
        """
        now = self._client.clock.now()
        return self._apply([lifecycle.requeue(job_id, at=now, reason=reason) for job_id in _ids(ids)])

    arequeue = twin(requeue)

    def why_not_requeued(self, ids: Sequence[str]) -> list[str | None]:
        """Return why each job cannot be requeued now, as the end of a sentence; None if it can.

        This method takes one read, and one more for each member of a batch. It does not check whether another
        job has the unique key; only `requeue` itself does.
        """
        storage = self._client.storage
        return [
            "it was not found" if one is None else why_not_requeued(storage, one)
            for one in self._records(ids)
        ]

    awhy_not_requeued = twin(why_not_requeued)

    def delete(self, ids: Sequence[str], *, reason: str = "deleted by code") -> list[Applied]:
        """Delete each job that is not deleted, and stop running ones; return one result per id.

        If the job is a batch, the batch is cancelled with all its members.
        """
        now = self._client.clock.now()
        expires_at = self._client.retention.until(State.DELETED, now)
        return self._apply(
            [lifecycle.delete(job_id, at=now, reason=reason, expires_at=expires_at) for job_id in _ids(ids)]
        )

    adelete = twin(delete)

    def restore(self, ids: Sequence[str], *, reason: str = "restored by code") -> list[Applied]:
        """Return each deleted job to its previous state, such as enqueued; return one result per id.

        The result is `Applied.REFUSED` for a job for which `why_not_restored` returns a reason, and for a job
        that changes in the meantime. This method takes up to two reads per job.
        """
        records = self._records(ids)
        return self._apply(
            [
                Applied.MISSING if one is None else Applied.REFUSED if isinstance(one, str) else one
                for one in self._restorations(records, reason)
            ],
            seen={record.id: record for record in records if record is not None},
        )

    arestore = twin(restore)

    def why_not_restored(self, ids: Sequence[str]) -> list[str | None]:
        """Return why each job cannot be restored, as the end of a sentence; None if it can.

        A job cannot be restored if it was running, had succeeded, waited for another job, or had
        continuations, because the deletion lost some of its data.
        """
        changes = self._restorations(self._records(ids), "")
        return [
            None if isinstance(one, Transition) else "it was not found" if one is None else one
            for one in changes
        ]

    awhy_not_restored = twin(why_not_restored)

    def _records(self, ids: Sequence[str]) -> list[JobRecord | None]:
        wanted = _ids(ids)
        records: list[JobRecord | None] = []
        for start in range(0, len(wanted), _CHUNK):
            records += self._client.storage.get(wanted[start : start + _CHUNK])
        return records

    def _restorations(
        self, records: Sequence[JobRecord | None], reason: str
    ) -> list[Transition | str | None]:
        return [
            None if record is None else restoration(self._client, record, reason=reason) for record in records
        ]

    def reschedule(
        self, ids: Sequence[str], when: datetime | timedelta, *, reason: str = "rescheduled by code"
    ) -> list[Applied]:
        """Make each scheduled job due at this time, or after this duration; return one result per id.

        Retries that were used still count. If the time is in the past, the jobs are due immediately. Jobs in
        another state are not changed; their result is `Applied.REFUSED`.

        Raises:
            ScheduleError: If the time has no time zone, or is after the year 9999.
        """
        now = self._client.clock.now()
        due_at = _due_at(when, now)
        return self._apply(
            [lifecycle.reschedule(job_id, at=now, due_at=due_at, reason=reason) for job_id in _ids(ids)]
        )

    areschedule = twin(reschedule)

    def move(
        self,
        ids: Sequence[str],
        *,
        queue: str | None = None,
        priority: int | None = None,
        reason: str = "moved by code",
    ) -> list[Applied]:
        """Move waiting jobs to another queue, or change their priority; return one result per id.

        Awaiting, scheduled and enqueued jobs can be moved, including those that a limit delays. They keep
        their id, age, history, retries, limits, unique key, batch and continuations. Of several jobs with the
        same priority, the oldest is still claimed first. Processing jobs, ended jobs and batches are not
        changed (`Applied.REFUSED`); `why_not_moved` returns the reason. `Applied.ALREADY` means that the job
        already has this queue and this priority.

        The jobs are sent to the storage 500 at a time. `fire.operations.start("move", …)` moves all jobs that
        match a filter.

        Args:
            ids: the ids of the jobs to move.
            queue: the new queue; without it, jobs stay in their queues.
            priority: the new priority, from -100 to 100; without it, jobs keep their priorities.
            reason: the reason, which is added to the jobs' histories.

        Raises:
            ConfigurationError: If neither is given, or one of them is not a valid queue or priority.
            PartlyApplied: If the storage became unreachable or refused a change after it had returned some
                results; see `requeue`.
            StorageError: If the same happens before the first result.
        """
        target = to_move_target(queue, priority)
        now, wanted = self._client.clock.now(), _ids(ids)
        moves = [
            lifecycle.move(job_id, at=now, queue=target.queue, priority=target.priority, reason=reason)
            for job_id in wanted
        ]
        answers: list[Applied] = []
        for start in range(0, len(moves), _CHUNK):
            try:
                answers += self._client.storage.move(moves[start : start + _CHUNK])
            except StorageError as error:
                if start:
                    raise _partly(dict(enumerate(answers)), len(moves), error) from error
                raise
        return answers

    amove = twin(move)

    def why_not_moved(self, ids: Sequence[str]) -> list[str | None]:
        """Return why each job cannot be moved now, as the end of a sentence; None if it can."""
        return ["it was not found" if one is None else why_not_moved(one) for one in self._records(ids)]

    awhy_not_moved = twin(why_not_moved)

    def copy(self, job_id: str, *, reason: str | None = None, within: object | None = None) -> Job[Any]:
        """Enqueue a new job like this one and return its handle. The task need not be registered here.

        The copy joins the caller's transaction, in the same way as an enqueue. The copied job must be
        committed.

        The copy has the stored arguments, serializer, queue, priority, tags, timeout, retry, meta, limits and
        unique key. It does not belong to a recurring job or a batch. It waits only for the parents whose
        output it uses. If another job has the unique key, that job is not changed; the returned handle is for
        that job, and `is_new` is False. The copy of a debounced job runs immediately. The copy of a job whose
        `start_before` has passed has no `start_before`.

        Args:
            job_id: the id of the job to copy.
            reason: the reason, which is added to the history of the copy; by default "copied from ID".
            within: your own transaction in the storage's database; the copy is committed or rolled back with
                it.

        Raises:
            JobNotFound: If the job is not stored, or a job whose output it uses is no longer stored.
            JobConflict: If the job is a batch, or this release cannot read all of it.
            DuplicateJob: If another job has the unique key, and the key's rule refuses duplicates.
        """
        return self._client.store(self._copied(job_id, reason), self._client.transaction(within))

    async def acopy(
        self, job_id: str, *, reason: str | None = None, within: object | None = None
    ) -> Job[Any]:
        """Call `copy` without blocking the event loop."""
        return await self._client.astore(await in_thread(self._copied, job_id, reason), within)

    def _copied(self, job_id: str, reason: str | None) -> NewJob:
        """Return the copy of a job; the copy is not stored yet."""
        client, record = self._client, self._record(job_id)
        if record.is_batch:
            raise JobConflict(f"Job {record.id} is a batch, which cannot be copied; create a new batch.")
        if (part := unread_part(record)) is not None:
            raise JobConflict(
                f"Job {record.id} cannot be copied: this release cannot read {part.name}. Use the release "
                "that stored it."
            )
        client.check_creates_jobs(record.task)
        now = client.clock.now()
        admission = _admission_of_copy(record.admission or Admission(), now)
        inputs = () if record.relations is None else record.relations.inputs
        place = inputs[0].job_id if inputs else partition_key_of(admission)
        job = NewJob(
            id=client.storage.new_ids(1, place)[0], task=record.task, arguments=record.arguments,
            serializer=record.serializer, queue=record.queue,
            priority=record.priority, state=State.ENQUEUED, created_at=now, tags=record.tags,
            reason=f"copied from {record.id}" if reason is None else reason,
            timeout_seconds=record.timeout_seconds, retry=record.retry, meta_json=record.meta_json,
            admission_json=write_admission(admission),
        )  # fmt: skip
        if inputs:
            job.state, job.relations_json = State.AWAITING, write_relations(Relations(inputs=inputs))
            job.parents = tuple(Edge(one, carries=True) for one in dict.fromkeys(i.job_id for i in inputs))
        return job

    def _apply(
        self, changes: Sequence[Transition | Applied], seen: Mapping[str, JobRecord] | None = None
    ) -> list[Applied]:
        """Apply the changes 500 at a time and return one result per change.

        If an item is already a result, it is returned unchanged. If `seen` is given, a job that differs from
        its record in `seen` is not changed.

        Raises:
            PartlyApplied: If the storage became unreachable or refused a change after the first of several
                chunks.
        """
        known = {place: one for place, one in enumerate(changes) if isinstance(one, Applied)}
        wanted = [(place, one) for place, one in enumerate(changes) if isinstance(one, Transition)]
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            requested = [change for _, change in chunk]
            try:
                if seen is None:
                    answers = self._client.storage.apply(requested)
                else:
                    known_states = [seen[one.job_id] for one in requested]
                    answers = apply_unless_changed(self._client.storage, requested, known_states)
            except StorageError as error:
                if start:
                    raise _partly(known, len(changes), error) from error
                raise
            known.update((place, answer) for (place, _), answer in zip(chunk, answers, strict=True))
        if Applied.RELEASE_NEEDED in known.values():
            release_continuations(self._client.storage)
        return [known[place] for place in range(len(changes))]


def _admission_of_copy(admission: Admission, now: int) -> Admission:
    """Return the admission of a job's copy.

    The returned admission does not change any other job, and its start deadline has not passed.
    """
    unique, before = admission.unique, admission.start_before
    if unique is not None:
        unique = None if unique.wait is not None else attrs.evolve(unique, keeps_last=False)
    return attrs.evolve(
        admission, unique=unique, start_before=None if before is not None and before <= now else before
    )


def _partly(known: Mapping[int, Applied], count: int, error: StorageError) -> PartlyApplied:
    results = [known.get(place) for place in range(count)]
    progress = f"after {len(known):,} of {count:,} results: {str(error).rstrip('.')}"
    if isinstance(error, StorageUnavailable):
        return PartlyUnavailable(
            f"The storage became unreachable {progress}. Try again with the ids whose entry in the error's "
            "results is None.",
            results,
        )
    return PartlyApplied(
        f"The storage refused a change {progress}. Fix the cause, then try again with the ids whose entry in "
        "the error's results is None.",
        results,
    )


def _filter(verb: str, where: Where, *, by_due: bool = False) -> JobFilter:
    if unknown := where.keys() - Where.__annotations__.keys():
        known = ", ".join(Where.__annotations__)
        raise TypeError(f"{verb}() has no condition {sorted(unknown)[0]!r}; use {known}.")
    state, since, until = where.get("state"), where.get("since"), where.get("until")
    chosen = None if state is None else to_choice(State, "state", state)
    if by_due and chosen not in {None, State.SCHEDULED}:
        raise ConfigurationError(
            f"state must be 'scheduled' with by_due=True, got {str(chosen)!r}: only scheduled jobs are due."
        )
    return JobFilter(
        state=chosen,
        task=where.get("task"),
        queue=where.get("queue"),
        tag=where.get("tag"),
        server=where.get("server"),
        fingerprint=where.get("fingerprint"),
        recurring_id=where.get("recurring"),
        batch_id=where.get("batch"),
        id_prefix=where.get("id_prefix"),
        since=None if since is None else micros(since),
        until=None if until is None else micros(until),
        by_due=True if by_due else None,
    )


def _ids(ids: Sequence[str]) -> list[str]:
    """Return the ids as a list; reject a single string, which would be split, and values that are not ids."""
    if isinstance(ids, str | bytes):
        raise ConfigurationError(f"ids must be a list of ids, got one string: {ids!r}.")
    if not isinstance(ids, Iterable):
        raise ConfigurationError(f"ids must be a list of ids, got {ids!r}.")
    listed = list(ids)
    for job_id in listed:
        if not isinstance(job_id, str):
            raise ConfigurationError(f"An id must be a string, got {job_id!r}; use job.id.")
    return listed


def _due_at(when: datetime | timedelta, now: int) -> int:
    """Return the time in microseconds; reject a time for which a job cannot be scheduled."""
    if isinstance(when, timedelta):
        due_at = now + span_micros(when)
    elif isinstance(when, datetime):
        due_at = micros(when)
    else:
        raise ScheduleError(f"when must be an aware datetime or a timedelta from now, got {shown(when)}.")
    if due_at > _LAST:
        raise ScheduleError(f"when={shown(when)} is after the year 9999; pass an earlier time.")
    return max(0, due_at)
