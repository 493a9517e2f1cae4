"""Collect the members of a batch in one block of the caller's code, and store them.

The members are stored at the end of the block, together with the batch. If there are more than 500 members,
the first ones are stored while the block is still running. Until the end of the block, a hold keeps the batch
from ending; each stored chunk extends the hold.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import attrs

from firelock.arguments.references import sources_in
from firelock.errors import (
    BatchFinished,
    ConfigurationError,
    DuplicateJob,
    JobNotCommitted,
    JobNotFound,
    StorageError,
    StorageUnavailable,
    TaskError,
)
from firelock.jobs.administration import release_continuations
from firelock.jobs.group_commit import repeat_once
from firelock.jobs.job import Job
from firelock.model import lifecycle
from firelock.model.aio import in_thread
from firelock.model.answers import Duplicate
from firelock.model.dependencies import read_relations
from firelock.model.job import JobRecord, NewJob
from firelock.options import Call, makes_calls

if TYPE_CHECKING:
    from firelock.flows.batch import Batch
    from firelock.jobs.client import Client
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
R2 = TypeVar("R2")

log = logging.getLogger(__name__)

CHUNK = 500  # number of members that a block stores with the batch in one atomic operation
DEEPEST = 8  # maximum depth of nested batches
_MOVED_ON = 4  # a hold is extended when a quarter of its time has passed


class PendingJob(Job[R]):
    """A job that was added in the block of a batch.

    The job is stored at the end of the block, or earlier if the block has many jobs. If another job has taken
    the unique key by then, the handle switches to that job.
    """

    __slots__ = ("_block",)

    _block: BatchBlock | None

    def __init__(
        self,
        client: Client,
        record: NewJob | JobRecord,
        block: BatchBlock | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(client, record, block is not None, job_id)
        self._block = block

    @property
    def _open_block(self) -> BatchBlock | None:
        """The block, if it is still open."""
        block = self._block
        return block if block is not None and block.is_open else None

    def _read(self, way_out: str = "") -> JobRecord:
        self._require_stored()
        return super()._read(way_out)

    def _require_stored(self) -> None:
        block = self._block
        if block is not None and (why := block.why_not_stored(self.id)) is not None:
            raise JobNotCommitted(f"{self!r} is not stored: {why}.")

    def require_visible(self, transaction: Callable[[], object | None]) -> None:
        """See `Job.require_visible`; until its block ends, the job does not belong to any transaction."""
        self._require_stored()
        super().require_visible(transaction)

    def became(self, answer: bool | Duplicate, *, is_within: bool) -> None:
        """Note that the job was stored, or switch the handle to the job that has its unique key."""
        if isinstance(answer, Duplicate):
            self.id, self.is_new = answer.job_id, False
        if not is_within:
            self._read_number = 0

    def then(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Store a continuation; within the block, it is stored together with this job. See `Job.then`.

        The continuation is not a member of the batch.
        """
        block = self._open_block
        if block is None:
            return super().then(task, *args, **kwargs)
        return cast("Job[R2]", block.add(block.child(self, call_of("then", task, args, kwargs)))[0])

    async def athen(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Store a continuation without blocking the event loop."""
        block = self._open_block
        if block is None:
            return await super().athen(task, *args, **kwargs)
        child = block.child(self, call_of("athen", task, args, kwargs))
        return cast("Job[R2]", (await block.aadd(child))[0])


def call_of(
    verb: str, task: TaskVerbs[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> Call[Any]:
    """Return the call of a task.

    Raises:
        TaskError: If the object is not a task.
    """
    if not makes_calls(task):
        raise TaskError(f"{verb}() accepts a task and then its arguments, got {task!r}. Use {verb}(task, …).")
    call: Call[Any] = task.call(*args, **kwargs)
    return call


_Pair: TypeAlias = tuple[NewJob, PendingJob[Any]]


@attrs.define(eq=False)
class BatchBlock:
    """The block of a batch, with the jobs that are not stored yet, including those of nested batches."""

    client: Client
    root: str  # the id of the batch of the block
    within: object | None
    hold: int  # micros
    is_open: bool = False
    is_async: bool = False
    has_raised: bool = False
    _sources: list[Job[Any]] = attrs.Factory(list)  # the jobs that the batch and its continuations wait for
    _waiting: list[_Pair] = attrs.Factory(list)
    _unstored: set[str] = attrs.Factory(set)  # ids of the waiting jobs, and of jobs that will never be stored
    _dropped: set[str] = attrs.Factory(set)  # ids of unstored jobs whose inner blocks raised an exception
    _open: dict[str, None] = attrs.Factory(dict)  # ids of batches with open blocks, outer ones first
    _empty: set[str] = attrs.Factory(set)  # ids of batches without members
    _held: set[str] = attrs.Factory(set)  # ids of stored batches to which members are still added
    _held_at: int = 0  # when the holds of these batches were last extended
    _has_stored: bool = False
    _is_within: bool = False  # whether the stored jobs are in the caller's transaction
    _storing: threading.Lock = attrs.Factory(threading.Lock)

    def promise(self, batch_id: str) -> None:
        """Note that the batch is not stored yet, because its block has not been used."""
        self._unstored.add(batch_id)

    def begin(self, batch: Batch, record: NewJob) -> None:
        """Add the batch itself to the jobs to store, and allow members to be added to it."""
        self._collect([(record, batch)])
        self._open[batch.id] = None
        self._empty.add(batch.id)

    def takes(self, batch_id: str) -> bool:
        """Return whether this block collects members of that batch instead of storing them immediately."""
        return self.is_open and (
            batch_id in self._open or batch_id in self._unstored or batch_id in self._held
        )

    def members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[_Pair]:
        """Return the jobs and handles of new members, without adding them to the block."""
        self._check_within(calls)
        return self._pairs(self.client.new_members(calls, batch_id))

    def child(self, parent: Job[Any], call: Call[Any]) -> list[_Pair]:
        """Return the job and handle of a continuation, without adding it to the block."""
        self._check_within((call,))
        job = self.client.new_child(parent.id, call, parent.meta, self.transaction)
        self._sources += (*(call.options.after or ()), *sources_in(call.args), *sources_in(call.kwargs))
        return self._pairs([(job,)])

    def transaction(self) -> object | None:
        """Return the transaction in which the block is stored, if any."""
        return self.within if self.is_async else self.client.transaction(self.within)

    def transaction_of_stored(self) -> object | None:
        """Return the transaction in which chunks of the block were stored; None if there is none.

        This never raises an exception, because it is called at the end of a block that has itself raised one.
        """
        if not self._is_within:
            return None
        try:
            return self.transaction()
        except Exception:  # noqa: BLE001 - a plugin refused the transaction; it can only be rolled back
            return self.within

    def _check_within(self, calls: Sequence[Call[Any]]) -> None:
        if any(call.options.within is not None for call in calls):
            raise ConfigurationError(
                "using(within=…) cannot be used in the block of a batch, because the batch is stored as a "
                "whole. Use fire.batch(…, within=session)."
            )

    def _pairs(self, runs: Sequence[Sequence[NewJob]]) -> list[_Pair]:
        """Return pairs of a job and its handle; handles of similar jobs share one job, to save memory."""
        return [(job, PendingJob(self.client, run[0], self, job.id)) for run in runs for job in run]

    def add(self, pairs: Sequence[_Pair]) -> list[PendingJob[Any]]:
        """Add the jobs, and store the first ones if there are many; return the handles.

        In an async block, this method stores nothing, because it would block the event loop.
        """
        self._collect(pairs)
        if len(self._waiting) > self._size and not self.is_async:
            self._store(self.client.transaction(self.within))
        return [handle for _, handle in pairs]

    async def aadd(self, pairs: Sequence[_Pair]) -> list[PendingJob[Any]]:
        """Call `add` without blocking the event loop."""
        self._collect(pairs)
        if len(self._waiting) > self._size and not (self.within is not None and self._storing.locked()):
            await self.awaited(self._store)
        return [handle for _, handle in pairs]

    async def awaited(self, store: Callable[[object | None], None]) -> None:
        """Call a storing function with the transaction, without blocking the event loop."""
        if self.within is None:
            await in_thread(store, None)
            return
        chosen = self.client.transaction(self.within)
        run_sync = getattr(chosen, "run_sync", None)  # an AsyncSession has this method
        if run_sync is None:
            store(chosen)
        else:
            await run_sync(store)

    def _collect(self, pairs: Sequence[_Pair]) -> None:
        batches = _batches_of(pairs)
        if self._dropped:
            sources = {edge.parent_id for job, _ in pairs for edge in job.parents}
            if dropped := self._dropped & (sources | batches):
                raise ConfigurationError(
                    f"Job {dropped.pop()} is not stored, because the block of its batch raised an exception. "
                    "No job can wait for it or be added to it."
                )
        self._empty -= batches
        self._unstored.update([job.id for job, _ in pairs])
        self._waiting += pairs

    @property
    def _size(self) -> int:
        """The number of jobs stored in one operation; the first operation also contains the batch."""
        return CHUNK + (not self._has_stored)

    def why_not_stored(self, job_id: str) -> str | None:
        """Return why a job of the block is not stored, as part of a sentence; None if it is stored."""
        if job_id not in self._unstored:
            return None
        if self.has_raised or job_id in self._dropped:
            return "the block of its batch raised an exception before this job was stored"
        if self.is_open:
            return "it is stored at the end of the block of its batch"
        return "the block of its batch was not entered; use with fire.batch(…) as batch"

    def leave(self, batch_id: str, transaction: object | None, *, has_raised: bool) -> None:
        """End the block of a batch: store everything, or no more jobs if the block raised an exception."""
        if batch_id != self.root:
            if has_raised:
                self._drop(batch_id, transaction)
                return
            with self._storing:  # the inner batch can end as soon as all its members are stored
                self._open.pop(batch_id, None)
                self._let_go(self._held - self._added_later(0))
            return
        if has_raised:
            self._abandon(transaction)
            return
        self.is_open = False
        self._open.clear()
        try:
            self._store(transaction, most_left=0)
        except BaseException:
            self._abandon(transaction)
            raise
        if self._empty and transaction is None:
            release_continuations(self.client.storage)

    def _abandon(self, transaction: object | None) -> None:
        """Store none of the waiting jobs, and cancel the batch if it is already stored."""
        self.is_open, self.has_raised = False, True
        self._waiting.clear()
        if self._has_stored:
            self._cancel(self.root, transaction)

    def _drop(self, batch_id: str, transaction: object | None) -> None:
        """Abandon an inner batch in the same way as `_abandon`; the outer block continues."""
        with self._storing:
            dropped = {batch_id}
            for (
                job,
                _,
            ) in self._waiting:  # its members, and the jobs that wait for it, come after it in this list
                relations = job.relations
                sources = {edge.parent_id for edge in job.parents}
                if (relations is not None and relations.batch_id in dropped) or sources & dropped:
                    dropped.add(job.id)
            self._waiting = [pair for pair in self._waiting if pair[0].id not in dropped]
            self._dropped |= dropped
            self._open = {one: None for one in self._open if one not in dropped}
            self._empty -= dropped
            self._held -= dropped
        if batch_id not in self._unstored:
            self._cancel(batch_id, transaction)

    def _store(self, transaction: object | None, most_left: int | None = None) -> None:
        """Store jobs of the block in chunks, until less than a chunk or at most `most_left` jobs remain."""
        with self._storing:
            while len(self._waiting) > (self._size if most_left is None else most_left):
                try:
                    self._store_chunk(transaction)
                except StorageUnavailable as error:
                    error.is_untouched &= not self._has_stored
                    raise

    def _store_chunk(self, transaction: object | None) -> None:
        is_within, size = transaction is not None, self._size
        chunk, unfilled = self._waiting[:size], self._added_later(size)
        jobs = [job for job, _ in chunk]
        held = [job for job in jobs if job.id in unfilled]
        if not is_within:
            self._hold(held)
        try:
            answers = self.client.insert(jobs, transaction)
        except JobNotFound as error:
            for source in self._sources:
                source.explain(error)
            raise self._duplicate(jobs) or error from error
        del self._waiting[:size]
        self._has_stored, self._is_within = True, is_within
        self._unstored.difference_update([job.id for job in jobs])
        for (_, handle), answer in zip(chunk, answers, strict=True):
            handle.became(answer, is_within=is_within)
        if not is_within:
            self._held.update(job.id for job in held)
            self._let_go(self._held - unfilled)

    def _added_later(self, start: int) -> set[str]:
        """Return the batches whose blocks are open, or that have waiting members at or after this index."""
        return {*self._open, *_batches_of(self._waiting[start:])}

    def _duplicate(self, jobs: Sequence[NewJob]) -> DuplicateJob | None:
        """Return the error for a job that others wait for, if another job has its unique key."""
        sources = {edge.parent_id for job in jobs for edge in job.parents}
        takers: dict[str, str] = {}
        for job in jobs:
            admission = job.admission
            use = None if admission is None else admission.unique
            if use is None:
                continue
            holder = takers.setdefault(use.key, job.id)
            if holder == job.id and (found := self.client.storage.find_unique(use.key, limit=1)):
                holder = found[0].job_id if found[0].key == use.key else job.id
            if holder != job.id and job.id in sources:
                error = DuplicateJob(
                    f"Job {holder} already has the unique key {use.key.partition(' ')[2]!r} of {job.task}. "
                    "So the call created no member of the batch, but another member waits for it. Call the "
                    "task with using(unique=False), or wait for that job outside of the batch. Nothing was "
                    "stored.",
                    holder,
                )
                error.job = Job(self.client, job, job_id=holder, is_new=False)
                return error
        return None

    def _hold(self, records: Sequence[NewJob]) -> None:
        """Set the holds of these new batches; extend other holds if a quarter of their time has passed."""
        now = self.client.clock.now()
        for record in records:
            record.due_at = now + self.hold
        if not self._held:
            self._held_at = now
        elif now - self._held_at >= self.hold // _MOVED_ON:
            self._change(dict.fromkeys(self._held, now + self.hold), now)
            self._held_at = now

    def _let_go(self, batches: set[str]) -> None:
        """End the holds of these batches, because all their members are stored."""
        if batches:
            self._change(dict.fromkeys(batches), self.client.clock.now())
            self._held -= batches
            release_continuations(self.client.storage)

    def _change(self, until: Mapping[str, int | None], now: int) -> None:
        """Set the time at which each batch's hold expires; None ends the holds immediately.

        Raises:
            BatchFinished: If one of the batches was cancelled in the meantime.
        """
        storage = self.client.storage
        changes = [lifecycle.hold(one, at=now, until=end) for one, end in until.items()]
        answers = repeat_once(lambda: storage.apply(changes))
        refused = [one.job_id for one, answer in zip(changes, answers, strict=True) if not answer.is_applied]
        for one, counts in zip(refused, storage.batch_counts(refused) if refused else (), strict=True):
            if counts is None or counts.is_cancelled:
                raise BatchFinished(
                    f"Batch {one} was cancelled while members were added; no more members were stored."
                )

    def _cancel(self, batch_id: str, transaction: object | None) -> None:
        """Cancel the batch; if this fails, it is cancelled when its hold expires."""
        try:
            now = self.client.clock.now()
            change = lifecycle.delete(
                batch_id,
                at=now,
                reason="the block that adds its members raised an exception",
                expires_at=None,
            )
            self.client.storage.apply([change], within=transaction)
        except StorageError as error:
            log.warning(
                "Batch %s could not be cancelled; it is cancelled when its hold ends: %s", batch_id, error
            )
            return
        if transaction is None:
            release_continuations(self.client.storage)


def _batches_of(pairs: Sequence[_Pair]) -> set[str]:
    """Return the batches of which the jobs are members; equal relations are read once."""
    texts = {job.relations_json for job, _ in pairs}
    found = (read_relations(text).batch_id for text in texts if text is not None)
    return {id for id in found if id is not None}
