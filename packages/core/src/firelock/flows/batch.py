"""Batches: jobs without a task, which end when none of their members can continue."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, Self, TypeVar, cast, overload

from firelock.arguments.tags import check_tags
from firelock.errors import (
    ConfigurationError,
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotFound,
    TaskError,
)
from firelock.flows.batch_builder import CHUNK, DEEPEST, BatchBlock, PendingJob, call_of
from firelock.flows.nesting import deep_counts, pages_of, path_to, walk_members
from firelock.jobs.administration import release_continuations, update_batches
from firelock.jobs.dependencies import check_bounded, waiting_words
from firelock.jobs.job import Job, JobPage
from firelock.jobs.pagination import check_limit
from firelock.jobs.results import Observation, result_of
from firelock.model import lifecycle
from firelock.model.aio import in_thread, twin
from firelock.model.batch import BATCH_TASK, BatchCounts, BatchRules, DeepBatchCounts
from firelock.model.clock import SECOND, span_micros
from firelock.model.dependencies import Edge, On, Relations, write_relations
from firelock.model.job import JobFilter, JobRecord, NewJob
from firelock.model.state import State
from firelock.model.text import number_of, shown
from firelock.options import Call, to_choice, to_keep_seconds, to_sources, to_tags

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from firelock.jobs.client import Client
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R2 = TypeVar("R2")
T = TypeVar("T")

OnText = Literal["succeeded", "failed", "deleted", "finished"]
OnFailureText = Literal["continue", "cancel"]

log = logging.getLogger(__name__)
_LONGEST_NAME = 200
_LONGEST_HOLD = timedelta(days=366)


class Batch(PendingJob[BatchCounts]):
    """A job without a task, which ends when none of its members can continue; see `fire.batch`.

    It fails if a member has failed, or if a member waits for an outcome that is no longer possible. It is
    deleted if it was cancelled, or if the jobs for which it waits were deleted. Otherwise it succeeds. `then`
    and `result()` work as for any job; the result of a batch is its counts. Requeuing a member reopens the
    batch. `delete()` cancels the batch permanently. Members and continuations join the caller's transaction;
    `requeue`, `delete` and `restore` act immediately.
    """

    __slots__ = ("_depth", "_is_entered")

    def __init__(
        self, client: Client, record: NewJob | JobRecord, block: BatchBlock | None = None, depth: int = 0
    ) -> None:
        super().__init__(client, record, block)
        self._depth = depth  # 1 for a batch that is not in another batch; 0 if unknown
        self._is_entered = False

    @classmethod
    def of(cls, client: Client, batch_id: str) -> Batch:
        """Return the handle of a stored batch from its id, without reading the batch."""
        return cls(
            client,
            NewJob(
                id=batch_id,
                task=BATCH_TASK,
                arguments="{}",
                serializer="json",
                queue="default",
                priority=0,
                state=State.AWAITING,
                created_at=0,
            ),
        )

    def __repr__(self) -> str:
        """Return the id, name and state."""
        return f"<Batch {self.id} {self.name!r} {self.state}>"

    @property
    def name(self) -> str:
        """The displayed name of the batch; empty if the batch was not read."""
        relations = self._record.relations
        return "" if relations is None or relations.batch is None else relations.batch.name

    @property
    def output(self) -> NoReturn:
        """Not available: a batch has no output.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"{self!r} has no output. Let the job wait for the batch with using(after=batch), and call "
            "batch.results(task) or batch.counts() inside that job."
        )

    def __enter__(self) -> Self:
        """Return the batch; the jobs added to it are stored at the end of the block."""
        return self._enter(is_async=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Store all jobs; if the block raised an error, store no more and cancel a stored batch."""
        block = cast("BatchBlock", self._block)
        is_whole = self.id == block.root and error is None
        within = block.transaction() if is_whole else block.transaction_of_stored()
        block.leave(self.id, within, has_raised=error is not None)

    async def __aenter__(self) -> Self:
        """Return the batch; the jobs added to it are stored at the end of the block."""
        if not self._client.clock.is_fresh:
            await in_thread(self._client.clock.now)
        return self._enter(is_async=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Store all jobs, without blocking the event loop; see `__exit__`."""
        block, has_raised = cast("BatchBlock", self._block), error is not None
        await block.awaited(lambda within: block.leave(self.id, within, has_raised=has_raised))

    def _enter(self, *, is_async: bool) -> Self:
        block = self._block
        if block is None or self._is_entered or not (block.is_open or self.id == block.root):
            raise ConfigurationError(
                f"{self!r} is already stored, or its block was entered before; a batch has only one block. "
                "Use batch.add(task, …) without a block."
            )
        self._is_entered = True
        if self.id == block.root:
            record = cast("NewJob", self._record)
            record.created_at = self._client.clock.now()
            block.is_open, block.is_async = True, is_async
            block.begin(self, record)
        return self

    def add(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Add a member, and return its handle.

        Within the block, the member is collected and stored later. If the batch is already stored, the member
        is stored immediately.

        A member can add to its own batch with `job.batch`; other code can add members until the batch has
        ended. If another job has the unique key of the call, that job does not become a member, and `is_new`
        of the handle is False.

        Raises:
            BatchFinished: If the batch has ended, or was cancelled.
            ConfigurationError: If the job must wait for a job that is not a member; or the block of the batch
                has not been entered.
            SignatureMismatch, ArgumentError, StorageError: as for `enqueue`.
        """
        return cast("Job[R2]", self._add([call_of("add", task, args, kwargs)])[0])

    async def aadd(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Call `add` without blocking the event loop."""
        call, block = call_of("aadd", task, args, kwargs), self._collecting_block()
        if block is None:
            await self.arequire_visible(lambda: call.options.within)
            try:
                return await self._client.acreate(call, batch_id=self.id)
            except JobNotFound as error:
                await in_thread(self.explain, error)
                raise
        return cast("Job[R2]", (await block.aadd(block.members([call], self.id)))[0])

    def add_many(self, calls: Iterable[Call[R2]], /) -> list[Job[R2]]:
        """Add a member for each call that `task.call(…)` returned, in order; return their handles.

        Calls are consumed 500 at a time, so an error in a later call is raised when that call is reached.
        """
        return [job for chunk in _chunks(calls) for job in self._add(chunk)]

    async def aadd_many(self, calls: Iterable[Call[R2]], /) -> list[Job[R2]]:
        """Call `add_many` without blocking the event loop."""
        handles: list[Job[R2]] = []
        for chunk in _chunks(calls):
            handles += await self._aadd(chunk)
        return handles

    def _add(self, calls: Sequence[Call[Any]]) -> Sequence[Job[Any]]:
        block = self._collecting_block()
        if block is not None:
            return block.add(block.members(calls, self.id))
        self.require_visible(partial(self._client.transaction, calls[0].options.within))
        try:
            return self._client.create_members(calls, self.id)
        except JobNotFound as error:
            self.explain(error)
            raise

    async def _aadd(self, calls: Sequence[Call[Any]]) -> Sequence[Job[Any]]:
        block = self._collecting_block()
        if block is not None:
            return await block.aadd(block.members(calls, self.id))
        await self.arequire_visible(lambda: calls[0].options.within)
        try:
            return await self._client.acreate_members(calls, self.id)
        except JobNotFound as error:
            await in_thread(self.explain, error)
            raise

    def _collecting_block(self) -> BatchBlock | None:
        """Return the open block that collects members of this batch; None if members are stored immediately.

        Raises:
            ConfigurationError: If the batch is not stored, and no block collects its members.
        """
        block = self._block
        if block is not None and block.takes(self.id):
            return block
        if block is not None and (why := block.why_not_stored(self.id)) is not None:
            raise ConfigurationError(f"No jobs can be added to {self!r}, because it is not stored: {why}.")
        return None

    def batch(
        self,
        name: str,
        *,
        after: Job[Any] | Sequence[Job[Any]] = (),
        on: OnText = "succeeded",
        on_failure: OnFailureText = "continue",
        tags: Sequence[str] = (),
        keep: timedelta | float | None = None,
    ) -> Batch:
        """Return a batch that is a member of this batch; add its members in its own block, or with `add`.

        The options are those of `fire.batch`. The new batch can wait only for members of this batch. The new
        batch and its members are kept at least as long as this batch; only a longer `keep` has an effect. If
        this batch is already stored, the new batch is stored by its own block.

        Raises:
            ConfigurationError: If an option is wrong, or the batch would be nested more than 8 levels deep.
        """
        return new_batch(
            self._client, name, after=after, on=on, on_failure=on_failure, tags=tags, keep=keep, outer=self
        )

    abatch = twin(batch)

    def depth(self) -> int:
        """Return the nesting depth of the batch; it is 1 for a batch that is not in another batch.

        If the depth is unknown, the enclosing batches are read one after another.
        """
        if not self._depth:
            outer = self.record().relations
            outer_id = None if outer is None else outer.batch_id
            self._depth = 1 if outer_id is None else 1 + Batch.of(self._client, outer_id).depth()
        return self._depth

    adepth = twin(depth)

    @overload
    def counts(self, *, deep: Literal[False] = False) -> BatchCounts: ...
    @overload
    def counts(self, *, deep: Literal[True], limit: int | None = None) -> DeepBatchCounts: ...
    def counts(self, *, deep: bool = False, limit: int | None = None) -> BatchCounts | DeepBatchCounts:
        """Return the counts of the batch's members by state.

        The batch's own members are counted at one point in time, in one round trip. A nested batch counts as
        one member, regardless of its content; `batches` is the number of such members.

        With `deep=True`, the jobs of the batch and of all nested batches are counted instead, but the batches
        themselves are not. The batches are read one after another; each batch that contains others requires
        two round trips per 500 nested batches.

        Args:
            deep: whether the jobs of nested batches are counted.
            limit: with `deep=True`, the maximum number of batches to read; `is_cut` is True if there are
                more.

        Raises:
            JobNotFound: If the batch is not stored.
        """
        counts = self._client.storage.batch_counts((self.id,))[0]
        if counts is None:
            self._read()
            raise JobNotFound(f"Job {self.id} is not a batch.")
        return deep_counts(self._client.storage, self.id, counts, limit) if deep else counts

    @overload
    async def acounts(self, *, deep: Literal[False] = False) -> BatchCounts: ...
    @overload
    async def acounts(self, *, deep: Literal[True], limit: int | None = None) -> DeepBatchCounts: ...
    async def acounts(self, *, deep: bool = False, limit: int | None = None) -> BatchCounts | DeepBatchCounts:
        """Return what `counts` returns, without blocking the event loop."""
        return await in_thread(partial(self.counts, deep=True, limit=limit) if deep else self.counts)

    def members(
        self, *, state: State | str | None = None, limit: int = 50, cursor: str | None = None
    ) -> JobPage:
        """Return a page of the batch's own members in the order they were added; a nested batch is a `Batch`.

        The members of a nested batch are read through its own handle. If a state is given, the members are in
        the order in which they entered that state.

        Raises:
            ConfigurationError: If the state is unknown, or the limit is not from 1 to 500.
        """
        where = JobFilter(state=None if state is None else to_choice(State, "state", state), batch_id=self.id)
        found = self._client.storage.find(
            where, limit=check_limit(limit, "jobs"), cursor=cursor, oldest_first=True
        )
        return JobPage([handle_of(self._client, record) for record in found.jobs], found.cursor)

    amembers = twin(members)

    def results(
        self,
        task: TaskVerbs[..., R2],
        /,
        *,
        after: str | Job[Any] | None = None,
        deep: bool | None = None,
    ) -> Iterator[R2]:
        """Iterate over the results of the members with one task, in the order in which they were added.

        Members that have not succeeded are skipped. Members are read 500 at a time, when they are needed.

        If the batch contains other batches, `deep` must be given. `deep=True` includes the results of all
        members of these batches, `deep=False` only those of the batch's own members. With `deep=True`, the
        batch's own members come first, followed by those of each nested batch, in the order in which these
        batches were added.

        Args:
            task: the task whose results are returned; it determines their type.
            after: a member, or its id; only the results of later members are returned.
            deep: whether members of nested batches are included.

        Raises:
            ConfigurationError: If the batch contains others, and `deep` is not given; or `after` is neither a
                job nor an id.
            JobNotFound: If the batch or the member `after` is not stored; or the batch was pruned while it
                was read, so that results might be missing.
            ResultUnavailable: If a member succeeded without a storable result.
        """
        for page in self._pages_of(task, after, deep):
            yield from (cast("R2", result_of(self._client, record)) for record in page)

    async def aresults(
        self,
        task: TaskVerbs[..., R2],
        /,
        *,
        after: str | Job[Any] | None = None,
        deep: bool | None = None,
    ) -> AsyncIterator[R2]:
        """Call `results` without blocking the event loop: `async for result in batch.aresults(task)`."""
        pages = self._pages_of(task, after, deep)
        while (page := await in_thread(next, pages, None)) is not None:
            for record in page:
                yield cast("R2", result_of(self._client, record))

    def _pages_of(
        self, task: TaskVerbs[..., Any], after: str | Job[Any] | None, deep: bool | None
    ) -> Iterator[list[JobRecord]]:
        """Yield the succeeded members of a task, page by page, beginning after the given member."""
        if after is not None and not isinstance(after, str | Job):
            raise ConfigurationError(
                f"after must be a member of {self!r}, as a job or an id, got {shown(after)}."
            )
        place = after.id if isinstance(after, Job) else after
        batches = self.counts().batches
        if batches and deep is None:
            number = number_of(batches, "batch", "batches")
            raise ConfigurationError(
                f"{self!r} contains {number}, so results({task.info.name}) requires deep. Pass deep=True for "
                "the results of all members, or deep=False for those of its own members only."
            )
        names, storage = {task.info.name, *task.info.aliases}, self._client.storage
        path = [] if place is None else path_to(storage, self.id, place, is_deep=bool(deep))
        if path is None:
            where = "is not in a batch within" if deep else "is not a member of"
            raise JobNotFound(f"{shown(place)} {where} {self!r}, or is not stored.")
        task_name = None if len(names) > 1 else task.info.name
        for page in walk_members(storage, self.id, task_name, path, batches if deep else 0):
            yield [record for record in page if record.task in names and record.state is State.SUCCEEDED]
        if storage.get((self.id,))[0] is None:  # its members are pruned with it
            raise JobNotFound(
                f"{self._words} was pruned while its results were read; some results may be missing. Keep "
                "the batch longer: fire.batch(…, keep=…)."
            )

    def result(self, timeout: float | None = None) -> BatchCounts:
        """Return the batch's counts after it has succeeded; wait up to `timeout` seconds.

        Raises:
            JobFailed: If the batch failed. The message contains the number of failed members.
            JobDeleted: If the batch was cancelled.
            ResultTimeout: If the batch did not end in time.
        """
        super().result(timeout)
        return self.counts()

    async def aresult(self, timeout: float | None = None) -> BatchCounts:
        """Return what `result` returns, without blocking the event loop."""
        await super().aresult(timeout)
        return await self.acounts()

    def _result_of(self, read: Observation) -> BatchCounts:
        record = read.record
        if record is None:
            raise JobNotFound(f"Batch {self.id} is no longer stored.")
        self._show(read.began, record)
        if record.state is State.FAILED:
            raise JobFailed(f"{self._words} failed: {record.reason or 'a member failed'}.")
        if record.state is State.DELETED:
            raise JobDeleted(f"{self._words} was deleted: {record.reason or 'no reason was given'}.")
        return BatchCounts()

    @property
    def _words(self) -> str:
        return f"Batch {self.name!r} ({self.id})"

    def requeue(self, *, from_step: str | None = None, reason: str = "requeued with its batch") -> Batch:
        """Requeue the batch's failed members, including those of nested batches, and reopen the batch.

        The members are enqueued 500 at a time, and the batch is open again after the first 500. If an
        exception is raised before the last 500 members are requeued, the remaining members stay failed and
        can be requeued later. Jobs that wait for the success of these members can then run. Deleted members
        stay deleted. The members' histories show `reason`.

        Raises:
            JobConflict: If no member has failed, or the batch was cancelled.
            ConfigurationError: If `from_step` is given; it can be used only for a member.
            JobNotFound: If the batch is not stored.
        """
        if from_step is not None:
            raise ConfigurationError(
                f"{self!r} has no steps; use from_step={from_step!r} with a member: job.requeue(from_step=…)."
            )
        if self.counts().is_cancelled:
            raise JobConflict(
                f"{self!r} was cancelled, which is permanent; none of its members can run again."
            )
        if not self._requeue_failed(reason):
            raise JobConflict(f"{self!r} has no failed member that could be requeued.")
        self._read()
        return self

    async def arequeue(
        self, *, from_step: str | None = None, reason: str = "requeued with its batch"
    ) -> Batch:
        """Call `requeue` without blocking the event loop."""
        return await in_thread(self.requeue, from_step=from_step, reason=reason)

    def _requeue_failed(self, reason: str) -> int:
        now, number = self._client.clock.now(), 0
        storage = self._client.storage
        where = JobFilter(state=State.FAILED, batch_id=self.id, until=storage.clock() + 1)
        # `until` excludes members that fail again in the meantime, so that the loop ends.
        for page in pages_of(storage, where):
            changes = [
                lifecycle.requeue(record.id, at=now, reason=reason) for record in page if not record.is_batch
            ]
            applied = sum(answer.is_applied for answer in (storage.apply(changes) if changes else ()))
            if applied and not number:
                release_continuations(storage)
                update_batches(storage, self.id)
            number += applied
            number += sum(
                Batch(self._client, record)._requeue_failed(reason)  # noqa: SLF001 - of the same class
                for record in page
                if record.is_batch
            )
        return number

    def delete(self, *, reason: str = "deleted by code") -> Batch:
        """Cancel the batch permanently: delete the members that have not ended, and cancel the running ones.

        The batch itself is deleted when all running members have stopped. Until then, the handle shows its
        current state.

        Args:
            reason: a note that the batch's history and the dashboard show.

        Raises:
            JobConflict: If the batch is already deleted.
            JobNotFound: If the batch is not stored.
        """
        super().delete(reason=reason)
        return self


def _chunks(calls: Iterable[Call[Any]]) -> Iterator[list[Call[Any]]]:
    left = iter(calls)
    while chunk := list(islice(left, CHUNK)):
        for call in chunk:
            if not isinstance(call, Call):
                raise TaskError(f"add_many accepts only calls from task.call(…), got {call!r}.")
        yield chunk


def new_batch(
    client: Client,
    name: str,
    *,
    after: Job[Any] | Sequence[Job[Any]] = (),
    on: OnText = "succeeded",
    on_failure: OnFailureText = "continue",
    tags: Sequence[str] = (),
    keep: timedelta | float | None = None,
    hold: timedelta = timedelta(hours=1),
    within: object | None = None,
    colocate_with: str | None = None,
    outer: Batch | None = None,
) -> Batch:
    """Return a new batch; if `outer` is given, it is a member of that batch. See `fire.batch`.

    Raises:
        ConfigurationError: If an option is wrong, or the batch would be nested too deeply.
    """
    seconds, retention = to_keep_seconds(keep), client.retention
    succeeded = retention.succeeded if seconds is None else int(seconds * SECOND)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"A batch name must have 1 to {_LONGEST_NAME} printable characters, got {shown(name)}."
        )
    if on_failure not in ("continue", "cancel"):
        raise ConfigurationError(f"on_failure must be 'continue' or 'cancel', got {shown(on_failure)}.")
    keeps = (succeeded, retention.failed, retention.deleted)
    rules = BatchRules(name, on_failure == "cancel", keeps)
    outer_id = None if outer is None else outer.id
    block = None if outer is None else outer._collecting_block()  # noqa: SLF001 - of this module
    depth = 1 if outer is None else 1 + outer.depth()
    if depth > DEEPEST:
        raise ConfigurationError(
            f"Batch {name!r} would be at depth {depth}; batches can be nested at most {DEEPEST} deep."
        )
    sources, end = to_sources(after), to_choice(On, "on", on)
    transaction = partial(client.transaction, within)
    ids = [source.as_source(outer_id, transaction) for source in sources]
    edges = tuple(check_bounded({one: Edge(one, end) for one in ids}, is_batch=True).values())
    place = outer_id or colocate_with or (edges[0].parent_id if edges else None)
    record = NewJob(
        id=client.storage.new_ids(1, place)[0],
        task=BATCH_TASK,
        arguments="{}",
        serializer="json",
        queue="default",
        priority=0,
        state=State.AWAITING,
        created_at=client.clock.now() if block is not None else 0,
        reason=waiting_words(edges) if edges else None,
        tags=check_tags(to_tags(tags)),
        meta_json=client.batch_meta(name),
        parents=edges,
        relations_json=write_relations(Relations(outer_id, batch=rules)),
    )
    if block is not None:
        batch = Batch(client, record, block, depth)
        block.begin(batch, record)
        return batch
    if not isinstance(hold, timedelta) or not timedelta(seconds=1) <= hold <= _LONGEST_HOLD:
        raise ConfigurationError(f"hold must be a timedelta from 1 second to 366 days, got {shown(hold)}.")
    waits_for = [*sources] if outer is None else [*sources, outer]
    block = BatchBlock(client, record.id, within, span_micros(hold), sources=waits_for)
    block.promise(record.id)
    return Batch(client, record, block, depth)


def handle_of(client: Client, record: JobRecord) -> Job[Any]:
    """Return the handle of a stored job; the handle of a batch is a `Batch`."""
    is_batch = record.relations_json is not None and record.is_batch
    return Batch(client, record) if is_batch else Job(client, record)


def find_batch(client: Client, batch_id: str) -> Batch:
    """Return the handle of a stored batch.

    Raises:
        JobNotFound: If no batch with this id is stored.
    """
    record = client.storage.get((batch_id,))[0]
    if record is None:
        raise JobNotFound(f"Batch {shown(batch_id)} is not stored: the id is wrong, or it has been pruned.")
    if not record.is_batch:
        raise JobNotFound(f"Job {batch_id} is not a batch, but a job of task {record.task}.")
    return Batch(client, record)
