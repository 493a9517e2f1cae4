"""`fire.jobs`: reading is paged, acting answers per id."""

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
from firelock.limits.keys import beside_of
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
    """How many jobs are in each of the seven states, zero included: a mapping of the states.

    `counts.failed` and `counts["failed"]` are the same number; `by_state` has them all, `by_queue` the same
    for each queue that the storage knows of.
    """

    @classmethod
    def of(cls, counts: Counts) -> JobCounts:
        """Return the counts of a storage, which may leave states out, with every state."""
        return cls(
            _every_state(counts.by_state),
            {queue: _every_state(states) for queue, states in counts.by_queue.items()},
        )

    def __getitem__(self, state: State | _StateName) -> int:
        """Return how many jobs are in the state.

        Raises:
            ConfigurationError: there is no such state.
        """
        return self.by_state[to_choice(State, "state", state)]

    def __iter__(self) -> Iterator[State]:
        """Iterate over the states."""
        return iter(self.by_state)

    def __len__(self) -> int:
        """Return how many states there are."""
        return len(self.by_state)

    def __contains__(self, state: object) -> bool:
        """Tell whether there is such a state."""
        return state in self.by_state

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return sum(self.by_state.values())

    @property
    def awaiting(self) -> int:
        """How many wait for another job, a signal or their batch; open batches are among them."""
        return self.by_state[State.AWAITING]

    @property
    def scheduled(self) -> int:
        """How many are due later, retries and sleeps included."""
        return self.by_state[State.SCHEDULED]

    @property
    def enqueued(self) -> int:
        """How many wait for a worker."""
        return self.by_state[State.ENQUEUED]

    @property
    def processing(self) -> int:
        """How many are claimed or running."""
        return self.by_state[State.PROCESSING]

    @property
    def succeeded(self) -> int:
        """How many succeeded and are still stored."""
        return self.by_state[State.SUCCEEDED]

    @property
    def failed(self) -> int:
        """How many failed for good and are still stored."""
        return self.by_state[State.FAILED]

    @property
    def deleted(self) -> int:
        """How many were deleted and are still stored."""
        return self.by_state[State.DELETED]


def _every_state(counts: Mapping[State, int]) -> Mapping[State, int]:
    return {state: counts.get(state, 0) for state in State}


class Where(TypedDict, total=False):
    """What `find` and `iterate` look for: jobs that match all that is given."""

    state: str | None
    task: str | None
    queue: str | None
    tag: str | None
    server: str | None
    fingerprint: str | None  # of a failure, equal for those of one kind at one place
    recurring: str | None  # the id of the recurring job that made it
    batch: str | None  # the id of the batch whose members they are
    id_prefix: str | None
    since: datetime | None
    until: datetime | None


class Jobs:
    """`fire.jobs`: look at jobs and act on many.

    `copy` joins the caller's transaction. `requeue`, `delete`, `restore`, `reschedule` and `move` act
    immediately: the rollback of a transaction around them does not undo them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    # ---- looking -----------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job[Any]:
        """Return the job's handle.

        Raises:
            JobNotFound: no such job is stored.
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
        """Return a page of the jobs that match all that is given, newest first.

        Time is that of the last change of state where `state` is given, else of creation. With `by_due` only
        scheduled jobs are found, and time is when they are due: with `oldest_first` the soonest comes first.

        Raises:
            ConfigurationError: the state is unknown, another than scheduled with `by_due`, or the limit is
                not 1 to 500.
            ScheduleError: an instant has no time zone.
        """
        chosen = _filter("find", where, by_due=by_due)
        return self.page(chosen, limit=check_limit(limit, "jobs"), cursor=cursor, oldest_first=oldest_first)

    afind = twin(find)

    def iterate(self, *, oldest_first: bool = False, **where: Unpack[Where]) -> Iterator[Job[Any]]:
        """Iterate over all jobs that match all that is given, as `find`, newest first.

        Jobs are read 500 at a time, when they are needed. They move meanwhile, so each handle shows its job
        as it was when its page was read. A job comes at most once. One that matched at the beginning comes
        unless it changed before its page was read; what begins to match later is left out, so that the
        iterator ends. Jobs may be changed as they come.

        Raises:
            ConfigurationError: the state is unknown.
            ScheduleError: an instant has no time zone.
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
        if oldest_first:  # what comes meanwhile is at the end of the list, and there would be none
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
        """Return a page for a filter value, as dashboards build it."""
        page: FoundJobs = self._client.storage.find(
            where, limit=limit, cursor=cursor, oldest_first=oldest_first
        )
        return JobPage([handle_of(self._client, record) for record in page.jobs], page.cursor)

    apage = twin(page)

    def counts(self) -> JobCounts:
        """Return how many jobs are in each state and queue, every state named; one round trip."""
        return JobCounts.of(self._client.storage.counts())

    acounts = twin(counts)

    def held_by(self, ids: Sequence[str]) -> list[list[KeyWait]]:
        """Return which limits hold each job back now, one list an id; empty where none does.

        Three reads a key. `str()` of a KeyWait is "limit tenant:7 (4 of 4 running)".
        """
        return key_waits(self._client.storage, self._records(ids), self._client.clock.now())

    aheld_by = twin(held_by)

    def failure_groups(self, limit: int = 100) -> list[FailureGroup]:
        """Return failed jobs grouped by fingerprint, largest group first; looks at the newest 10,000."""
        return self._client.storage.failure_groups(limit)

    afailure_groups = twin(failure_groups)

    def timeline(
        self, since: datetime, until: datetime, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """Return what ended in the minutes from `since` to before `until`, in order of minute."""
        return self._client.storage.timeline(micros(since), micros(until), task=task, queue=queue)

    atimeline = twin(timeline)

    def progress(self, ids: Sequence[str]) -> list[JobProgress | None]:
        """Return how far each job says it is, one result an id; None where it says nothing."""
        records = self._records(ids)
        return [JobProgress.of(one.progress) if one and one.progress else None for one in records]

    aprogress = twin(progress)

    def _record(self, job_id: str) -> JobRecord:
        record = self._client.storage.get((job_id,))[0]
        if record is None:
            raise JobNotFound(
                f"Job {shown(job_id)} is not stored: the id is wrong, or the job has been pruned."
            )
        return record

    # ---- acting ------------------------------------------------------------------------------------------

    def requeue(self, ids: Sequence[str], *, reason: str = "requeued by code") -> list[Applied]:
        """Each job that is neither enqueued nor processing is enqueued; return one result an id.

        A batch is passed over, `Applied.REFUSED`, as are members of a cancelled one and jobs that miss the
        output of another: `why_not_requeued` says so. `fire.batches.get(id).requeue()` requeues its members.
        Asked 500 at a time, each atomic; so are `delete`, `restore` and `reschedule`.

        Raises:
            PartlyApplied: the storage went away or refused after some were answered; its `results` has those
                answers, and it is a StorageUnavailable where trying again may help.
            StorageError: that came before the first answer.
        """
        now = self._client.clock.now()
        return self._apply([lifecycle.requeue(job_id, at=now, reason=reason) for job_id in _ids(ids)])

    arequeue = twin(requeue)

    def why_not_requeued(self, ids: Sequence[str]) -> list[str | None]:
        """Return why each job cannot be requeued now, as the rest of a sentence; None where it can.

        Costs a read, and one more for each member of a batch. What another job has the unique key of is told
        by the requeue alone.
        """
        storage = self._client.storage
        return [
            "it is not stored" if one is None else why_not_requeued(storage, one)
            for one in self._records(ids)
        ]

    awhy_not_requeued = twin(why_not_requeued)

    def delete(self, ids: Sequence[str], *, reason: str = "deleted by code") -> list[Applied]:
        """Each job that is not deleted is deleted, running ones are told to stop; return one result an id.

        A batch is cancelled, with all its members.
        """
        now = self._client.clock.now()
        expires_at = self._client.retention.until(State.DELETED, now)
        return self._apply(
            [lifecycle.delete(job_id, at=now, reason=reason, expires_at=expires_at) for job_id in _ids(ids)]
        )

    adelete = twin(delete)

    def restore(self, ids: Sequence[str], *, reason: str = "restored by code") -> list[Applied]:
        """Each deleted job is scheduled, enqueued or failed as before; return one result an id.

        Left alone, `Applied.REFUSED`, is what `why_not_restored` names, and what changes meanwhile. Costs up
        to two reads a job.
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
        """Return why each job cannot be restored, as the rest of a sentence; None where it can.

        A job that was running is not, nor one that had succeeded, that waited for another, or that had
        continuations: a delete loses something of each.
        """
        changes = self._restorations(self._records(ids), "")
        return [
            None if isinstance(one, Transition) else "it is not stored" if one is None else one
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
        """Each scheduled job becomes due at this instant, or so long from now; return one result an id.

        Retries already taken stay counted. An instant that has passed is due at once. Jobs in another state
        are left alone: `Applied.REFUSED`.

        Raises:
            ScheduleError: the instant has no time zone, or nobody can wait for it.
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
        """Move waiting jobs to another queue, or give them another priority; return one result an id.

        Awaiting, scheduled and enqueued jobs can be moved, also those that a limit holds. They keep id, age,
        history, retries, limits, unique key, batch and continuations; among jobs of the same priority the
        oldest still comes first. Left alone, `Applied.REFUSED`, are processing and ended jobs and batches:
        `why_not_moved` says so. `Applied.ALREADY` is a job that has this queue and this priority.

        Asked 500 at a time. `fire.operations.start("move", …)` moves every job that matches a filter.

        Args:
            ids: of the jobs to move.
            queue: the new queue; jobs stay in their queues without it.
            priority: the new priority, from -100 to 100; jobs keep their priorities without it.
            reason: for people, in the jobs' histories.

        Raises:
            ConfigurationError: neither is given, or one of them cannot be a queue or a priority.
            PartlyApplied: the storage went away or refused after some were answered; see `requeue`.
            StorageError: that came before the first answer.
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
        """Return why each job cannot be moved now, as the rest of a sentence; None if it can."""
        return ["it is not stored" if one is None else why_not_moved(one) for one in self._records(ids)]

    awhy_not_moved = twin(why_not_moved)

    def copy(self, job_id: str, *, reason: str | None = None, within: object | None = None) -> Job[Any]:
        """A new job like this one is enqueued; return its handle. The task need not be registered here.

        The copy joins the caller's transaction, as an enqueue does. The job itself must be committed.

        It has the stored arguments, serializer, queue, priority, tags, timeout, retry, meta, limits and
        unique key; it belongs to no recurring job and no batch, and waits for no parent but those whose
        output it takes. Where another job has the unique
        key, the handle is of that job, which stays as it is, and `is_new` is False. The copy of a debounced
        job runs at once, and one of a job whose `start_before` has passed has none.

        Args:
            job_id: of the job to copy.
            reason: for people, in the history of the copy; "copied from ID" if none is given.
            within: a transaction of yours in the storage's own database; the copy comes and goes with it.

        Raises:
            JobNotFound: no such job is stored, or one whose output it takes is not any more.
            JobConflict: it is a batch, or this release cannot read all of it.
            DuplicateJob: another job has the unique key, and a call is refused then.
        """
        return self._client.store(self._copied(job_id, reason), self._client.transaction(within))

    async def acopy(
        self, job_id: str, *, reason: str | None = None, within: object | None = None
    ) -> Job[Any]:
        """`copy` without blocking the event loop."""
        return await self._client.astore(await in_thread(self._copied, job_id, reason), within)

    def _copied(self, job_id: str, reason: str | None) -> NewJob:
        """Return the copy of a job, which is not stored yet."""
        client, record = self._client, self._record(job_id)
        if record.is_batch:
            raise JobConflict(f"Job {record.id} is a batch, of which there is no copy; make a new one.")
        if (part := unread_part(record)) is not None:
            raise JobConflict(
                f"Job {record.id} cannot be copied: this release cannot read {part.name}. Copy it by the "
                "release that stored it."
            )
        client.check_creates_jobs(record.task)
        now = client.clock.now()
        admission = _admission_of_copy(record.admission or Admission(), now)
        inputs = () if record.relations is None else record.relations.inputs
        place = inputs[0].job_id if inputs else beside_of(admission)
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
        """Return an answer a change, 500 changes at a time; what is an answer already stands as it is.

        With `seen` a job that is no longer as it was seen is left alone.

        Raises:
            PartlyApplied: the storage went away or refused after the first of several chunks.
        """
        known = {place: one for place, one in enumerate(changes) if isinstance(one, Applied)}
        wanted = [(place, one) for place, one in enumerate(changes) if isinstance(one, Transition)]
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            asked = [change for _, change in chunk]
            try:
                if seen is None:
                    answers = self._client.storage.apply(asked)
                else:
                    known_states = [seen[one.job_id] for one in asked]
                    answers = apply_unless_changed(self._client.storage, asked, known_states)
            except StorageError as error:
                if start:
                    raise _partly(known, len(changes), error) from error
                raise
            known.update((place, answer) for (place, _), answer in zip(chunk, answers, strict=True))
        if Applied.RELEASING in known.values():
            release_continuations(self._client.storage)
        return [known[place] for place in range(len(changes))]


def _admission_of_copy(admission: Admission, now: int) -> Admission:
    """Return what the copy of a job asks: it changes no other job, and is not late from the beginning."""
    unique, before = admission.unique, admission.start_before
    if unique is not None:
        unique = None if unique.wait is not None else attrs.evolve(unique, keeps_last=False)
    return attrs.evolve(
        admission, unique=unique, start_before=None if before is not None and before <= now else before
    )


def _partly(known: Mapping[int, Applied], count: int, error: StorageError) -> PartlyApplied:
    results = [known.get(place) for place in range(count)]
    answered = f"when it had answered for {len(known):,} of {count:,} jobs: {str(error).rstrip('.')}"
    if isinstance(error, StorageUnavailable):
        return PartlyUnavailable(
            f"The storage went away {answered}. The error's results has the answers; ask again for the ids "
            "where it is None.",
            results,
        )
    return PartlyApplied(
        f"The storage refused {answered}. The error's results has the answers; mend that, then ask again for "
        "the ids where it is None.",
        results,
    )


def _filter(verb: str, where: Where, *, by_due: bool = False) -> JobFilter:
    if unknown := where.keys() - Where.__annotations__.keys():
        known = ", ".join(Where.__annotations__)
        raise TypeError(f"{verb}() takes no {sorted(unknown)[0]!r}; jobs are looked for by {known}.")
    state, since, until = where.get("state"), where.get("since"), where.get("until")
    chosen = None if state is None else to_choice(State, "state", state)
    if by_due and chosen not in {None, State.SCHEDULED}:
        raise ConfigurationError(
            f"by_due=True with state={str(chosen)!r} finds no job: only scheduled ones are due."
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
    """Return the ids; a single one, which would be taken apart, and what is none are refused."""
    if isinstance(ids, str | bytes):
        raise ConfigurationError(f"ids={ids!r} is one text; pass a list of ids.")
    if not isinstance(ids, Iterable):
        raise ConfigurationError(f"ids={ids!r} is no list of ids.")
    listed = list(ids)
    for job_id in listed:
        if not isinstance(job_id, str):
            raise ConfigurationError(f"{job_id!r} is no id; pass texts, such as job.id.")
    return listed


def _due_at(when: datetime | timedelta, now: int) -> int:
    """Return the instant in micros; one that no job could wait for is refused."""
    if isinstance(when, timedelta):
        due_at = now + span_micros(when)
    elif isinstance(when, datetime):
        due_at = micros(when)
    else:
        raise ScheduleError(
            f"when={shown(when)} is no instant; pass an aware datetime, or a timedelta from now."
        )
    if due_at > _LAST:
        raise ScheduleError(f"when={shown(when)} ends after the year 9999; pass an earlier one.")
    return max(0, due_at)
