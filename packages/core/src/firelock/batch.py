"""Batches: jobs without a task, which end when none of their members can go on.

A block gathers members and stores them at its end, together with the batch. Of more than 500 it stores the
first ones while it goes on; such a batch is held meanwhile, for a time that each chunk moves on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, Self, TypeAlias, TypeVar, cast

import attrs

from firelock import lifecycle
from firelock.aio import in_thread, twin
from firelock.arguments.references import sources_in
from firelock.arguments.tags import check_tags
from firelock.clock import SECOND, span_micros
from firelock.errors import (
    BatchFinished,
    ConfigurationError,
    DuplicateJob,
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotCommitted,
    JobNotFound,
    StorageError,
    StorageUnavailable,
    TaskError,
)
from firelock.job import Job, JobPage, Observation, result_of
from firelock.options import Call, makes_calls, to_choice, to_keep_seconds, to_sources, to_tags
from firelock.pages import check_limit
from firelock.text import shown
from firelock.ties import check_bounded, waiting_words
from firelock.values import (
    BATCH_TASK,
    BatchRules,
    Duplicate,
    Edge,
    JobFilter,
    JobRecord,
    NewJob,
    On,
    State,
    Tally,
    Ties,
    read_ties,
    write_ties,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from firelock.job import Continuation, Creator

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
R2 = TypeVar("R2")
T = TypeVar("T")

OnText = Literal["succeeded", "failed", "deleted", "finished"]
OnFailureText = Literal["continue", "cancel"]

log = logging.getLogger(__name__)

CHUNK = 500  # members that one block stores with the batch in one atomic step
DEEPEST = 8  # batches within one another
_MOVED_ON = 4  # a hold is moved on when a quarter of it is over
_LONGEST_NAME = 200
_LONGEST_HOLD = timedelta(days=366)
_PAGE = 500


# ---- what a block has gathered ---------------------------------------------------------------------------


class Gathered(Job[R]):
    """A job that a block has gathered: it is stored at the end of the block, or before it where that is long.

    Where another job has its unique key, the handle becomes that of the other job when it is stored.
    """

    __slots__ = ("_filling",)

    _filling: Filling | None

    def __init__(
        self,
        client: Creator,
        record: NewJob | JobRecord,
        filling: Filling | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(client, record, filling is not None, job_id)
        self._filling = filling

    @property
    def _gathering(self) -> Filling | None:
        """The block that is still open, if one is."""
        filling = self._filling
        return filling if filling is not None and filling.is_open else None

    def _look(self, way_out: str = "") -> JobRecord:
        self._require_stored()
        return super()._look(way_out)

    def _require_stored(self) -> None:
        filling = self._filling
        if filling is not None and (why := filling.why_not_stored(self.id)) is not None:
            raise JobNotCommitted(f"{self!r} is not stored: {why}.")

    def require_visible(self, transaction: Callable[[], object | None]) -> None:
        """See `Job.require_visible`; before its block ends the job is in no transaction."""
        self._require_stored()
        super().require_visible(transaction)

    def became(self, answer: bool | Duplicate, *, is_within: bool) -> None:
        """The job is stored; or another one has its unique key, and the handle is of that one."""
        if isinstance(answer, Duplicate):
            self.id, self.is_new = answer.job_id, False
        if not is_within:
            self._looked = 0

    def then(self, task: Continuation[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """A continuation is stored, within the block together with what it continues: see `Job.then`.

        It is no member of the batch.
        """
        filling = self._gathering
        if filling is None:
            return super().then(task, *args, **kwargs)
        return cast("Job[R2]", filling.add(filling.child(self, call_of("then", task, args, kwargs)))[0])

    async def athen(self, task: Continuation[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Continue without blocking the event loop."""
        filling = self._gathering
        if filling is None:
            return await super().athen(task, *args, **kwargs)
        child = filling.child(self, call_of("athen", task, args, kwargs))
        return cast("Job[R2]", (await filling.aadd(child))[0])


def call_of(
    verb: str, task: Continuation[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> Call[Any]:
    """Return the call of a task; TaskError for what is none."""
    if not makes_calls(task):
        raise TaskError(f"{verb}() takes a task, then its arguments: {verb}(task, …), not {task!r}.")
    call: Call[Any] = task.call(*args, **kwargs)
    return call


_Pair: TypeAlias = tuple[NewJob, Gathered[Any]]


@attrs.define(eq=False)
class Filling:
    """What a block has gathered and not stored yet: of its batch, and of those within it."""

    client: Creator
    root: str  # the id of the batch whose block it is
    within: object | None
    hold: int  # micros
    is_open: bool = False
    is_async: bool = False
    has_raised: bool = False
    _sources: list[Job[Any]] = attrs.Factory(list)  # what the batch and its continuations wait for
    _waiting: list[_Pair] = attrs.Factory(list)
    _unstored: set[str] = attrs.Factory(set)  # ids of what waits, and of what never will be stored
    _dropped: set[str] = attrs.Factory(
        set
    )  # of these, what a block within this one gathered before it raised
    _open: dict[str, None] = attrs.Factory(dict)  # ids of batches that are being filled, outer ones first
    _empty: set[str] = attrs.Factory(set)  # of batches without members
    _held: set[str] = attrs.Factory(set)  # of batches that are stored and not filled yet
    _held_at: int = 0  # when their holds were moved on last
    _has_stored: bool = False
    _is_within: bool = False  # what was stored is in a transaction of the caller's
    _storing: threading.Lock = attrs.Factory(threading.Lock)

    # ---- gathering ---------------------------------------------------------------------------------------

    def promise(self, batch_id: str) -> None:
        """The batch is not stored, and will be where its block is entered."""
        self._unstored.add(batch_id)

    def begin(self, batch: Batch, record: NewJob) -> None:
        """The batch is among what is gathered, and may be filled."""
        self._gather([(record, batch)])
        self._open[batch.id] = None
        self._empty.add(batch.id)

    def takes(self, batch_id: str) -> bool:
        """Tell whether members of that batch are gathered here, rather than stored at once."""
        return self.is_open and (
            batch_id in self._open or batch_id in self._unstored or batch_id in self._held
        )

    def members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[_Pair]:
        """Return jobs and handles of new members; none is gathered yet."""
        self._check_within(calls)
        return self._pairs(self.client.new_members(calls, batch_id))

    def child(self, parent: Job[Any], call: Call[Any]) -> list[_Pair]:
        """Return job and handle of a continuation; it is not gathered yet."""
        self._check_within((call,))
        job = self.client.new_child(parent.id, call, parent.meta, self.transaction)
        self._sources += (*(call.options.after or ()), *sources_in(call.args), *sources_in(call.kwargs))
        return self._pairs([(job,)])

    def transaction(self) -> object | None:
        """Return the transaction that the block is stored in; None for none."""
        return self.within if self.is_async else self.client.transaction(self.within)

    def transaction_of_stored(self) -> object | None:
        """Return the transaction that chunks of the block are stored in; None if there are none in one.

        Never raises: it is needed at the end of a block that has raised itself.
        """
        if not self._is_within:
            return None
        try:
            return self.transaction()
        except Exception:  # noqa: BLE001 - a plugin's; a transaction that it refuses can only be rolled back
            return self.within

    def _check_within(self, calls: Sequence[Call[Any]]) -> None:
        if any(call.options.within is not None for call in calls):
            raise ConfigurationError(
                "using(within=…) has no meaning in the block of a batch, which is stored as a whole: "
                "fire.batch(…, within=session)."
            )

    def _pairs(self, runs: Sequence[Sequence[NewJob]]) -> list[_Pair]:
        """Return jobs with handles; those of a run share one job, so that the others need not live on."""
        return [(job, Gathered(self.client, run[0], self, job.id)) for run in runs for job in run]

    def add(self, pairs: Sequence[_Pair]) -> list[Gathered[Any]]:
        """They are gathered, and the first ones stored where there are many; return the handles.

        In an async block nothing is stored here, since that would block the event loop.
        """
        self._gather(pairs)
        if len(self._waiting) > self._size and not self.is_async:
            self._store(self.client.transaction(self.within))
        return [handle for _, handle in pairs]

    async def aadd(self, pairs: Sequence[_Pair]) -> list[Gathered[Any]]:
        """`add` that does not block the event loop."""
        self._gather(pairs)
        if len(self._waiting) > self._size and not (self.within is not None and self._storing.locked()):
            await self.awaited(self._store)
        return [handle for _, handle in pairs]

    async def awaited(self, store: Callable[[object | None], None]) -> None:
        """That is done within the transaction, without blocking the event loop."""
        if self.within is None:
            await in_thread(store, None)
            return
        chosen = self.client.transaction(self.within)
        run_sync = getattr(chosen, "run_sync", None)  # of an AsyncSession
        if run_sync is None:
            store(chosen)
        else:
            await run_sync(store)

    def _gather(self, pairs: Sequence[_Pair]) -> None:
        batches = _batches_of(pairs)
        if self._dropped:
            sources = {edge.parent_id for job, _ in pairs for edge in job.parents}
            if gone := self._dropped & (sources | batches):
                raise ConfigurationError(
                    f"Job {gone.pop()} is not stored, since the block of its batch raised; nothing can wait "
                    "for it, or be added to it."
                )
        self._empty -= batches
        self._unstored.update([job.id for job, _ in pairs])
        self._waiting += pairs

    # ---- storing -----------------------------------------------------------------------------------------

    @property
    def _size(self) -> int:
        """How many are stored in one step: the first time the batch as well."""
        return CHUNK + (not self._has_stored)

    def why_not_stored(self, job_id: str) -> str | None:
        """Why what was gathered is not stored, as the rest of a sentence; None where it was."""
        if job_id not in self._unstored:
            return None
        if self.has_raised or job_id in self._dropped:
            return "the block of its batch raised, and nothing of it was stored"
        if self.is_open:
            return "that happens at the end of the block of its batch"
        return "a batch is filled in a block, which was not entered: with fire.batch(…) as batch"

    def leave(self, batch_id: str, transaction: object | None, *, has_raised: bool) -> None:
        """The block of a batch has ended: all of it is stored, or as little as can be where it raised."""
        if batch_id != self.root:
            (self._drop if has_raised else self._close)(batch_id, transaction)
        elif has_raised:
            self._abandon(transaction)
        else:
            self._finish(transaction)

    def _finish(self, transaction: object | None) -> None:
        """All that was gathered is stored, and no batch is held any more."""
        self.is_open = False
        self._open.clear()
        try:
            self._store(transaction, most_left=0)
        except BaseException:
            self._abandon(transaction)
            raise
        if self._empty and transaction is None:
            self.client.release_children_soon()

    def _abandon(self, transaction: object | None) -> None:
        """Nothing that waits is stored; the batch, where it is stored already, is cancelled."""
        self.is_open, self.has_raised = False, True
        self._waiting.clear()
        if self._has_stored:
            self._cancel(self.root, transaction)

    def _close(self, batch_id: str, _transaction: object | None) -> None:
        """A batch within the block is filled: it may end once all of it is stored."""
        with self._storing:
            self._open.pop(batch_id, None)
            self._let_go(self._held - self._filled_later(0))

    def _drop(self, batch_id: str, transaction: object | None) -> None:
        """As `_abandon`, of a batch within the block, whose own one goes on."""
        with self._storing:
            gone = {batch_id}
            for job, _ in self._waiting:  # what belongs to it, or waits for that, came after it
                ties = job.ties
                sources = {edge.parent_id for edge in job.parents}
                if (ties is not None and ties.batch_id in gone) or sources & gone:
                    gone.add(job.id)
            self._waiting = [pair for pair in self._waiting if pair[0].id not in gone]
            self._dropped |= gone
            self._open = {one: None for one in self._open if one not in gone}
            self._empty -= gone
            self._held -= gone
        if batch_id not in self._unstored:
            self._cancel(batch_id, transaction)

    def _store(self, transaction: object | None, most_left: int | None = None) -> None:
        """What was gathered is stored chunk by chunk until less than one is left, or as many as that."""
        with self._storing:
            while len(self._waiting) > (self._size if most_left is None else most_left):
                self._store_chunk(transaction)

    def _store_chunk(self, transaction: object | None) -> None:
        size = self._size
        chunk, unfilled = self._waiting[:size], self._filled_later(size)
        if transaction is None:
            self._hold([job for job, _ in chunk if job.id in unfilled])
        answers = self._insert([job for job, _ in chunk], transaction)
        del self._waiting[:size]
        self._has_stored = True
        self._is_within = transaction is not None
        self._unstored.difference_update([job.id for job, _ in chunk])
        for (_, handle), answer in zip(chunk, answers, strict=True):
            handle.became(answer, is_within=transaction is not None)
        if transaction is None:
            self._held |= {job.id for job, _ in chunk if job.id in unfilled}
            self._let_go(self._held - unfilled)

    def _filled_later(self, start: int) -> set[str]:
        """Return the batches that are filled still, or have members that wait from this place on."""
        return {*self._open, *_batches_of(self._waiting[start:])}

    def _insert(self, jobs: Sequence[NewJob], transaction: object | None) -> Sequence[bool | Duplicate]:
        try:
            return self.client.insert(jobs, transaction)
        except JobNotFound as error:
            for source in self._sources:
                source.explain(error)
            raise self._duplicate(jobs) or error from error

    def _duplicate(self, jobs: Sequence[NewJob]) -> DuplicateJob | None:
        """Return the error of a job that others wait for, and whose unique key another one has."""
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
                    f"Job {holder} has the unique key {use.key.partition(' ')[2]!r} of {job.task}, so that "
                    "the call is no member of the batch, and another member waits for it. Call it through "
                    "using(unique=False), or wait for that job outside of the batch. Nothing was stored.",
                    holder,
                )
                error.job = Job(self.client, job, job_id=holder, is_new=False)
                return error
        return None

    # ---- holding -----------------------------------------------------------------------------------------

    def _hold(self, records: Sequence[NewJob]) -> None:
        """These are stored held, and holds that began a while ago are moved on."""
        now = self.client.clock.now()
        for record in records:
            record.due_at = now + self.hold
        if not self._held:
            self._held_at = now
        elif now - self._held_at >= self.hold // _MOVED_ON:
            self._change(dict.fromkeys(self._held, now + self.hold), now)
            self._held_at = now

    def _let_go(self, batches: set[str]) -> None:
        """These are filled, and may end."""
        if batches:
            self._change(dict.fromkeys(batches), self.client.clock.now())
            self._held -= batches
            self.client.release_children_soon()

    def _change(self, until: Mapping[str, int | None], now: int) -> None:
        """Each batch is held until then, or no more.

        Raises:
            BatchFinished: one of them was cancelled meanwhile.
        """
        storage = self.client.storage
        changes = [lifecycle.hold(one, at=now, until=end) for one, end in until.items()]
        try:
            answers = storage.apply(changes)
        except StorageUnavailable as error:
            if error.is_untouched:
                raise
            answers = storage.apply(changes)
        refused = [one.job_id for one, answer in zip(changes, answers, strict=True) if not answer.is_applied]
        for one, tally in zip(refused, storage.tally(refused) if refused else (), strict=True):
            if tally is None or tally.is_cancelled:
                raise BatchFinished(
                    f"Batch {one} was cancelled while it was filled; nothing more was stored."
                )

    def _cancel(self, batch_id: str, transaction: object | None) -> None:
        """The batch is cancelled; where that is impossible, the end of its hold does it."""
        try:
            now = self.client.clock.now()
            change = lifecycle.delete(
                batch_id, at=now, reason="the block that filled it raised", expires_at=None
            )
            self.client.storage.apply([change], within=transaction)
        except StorageError as error:
            log.warning("Batch %s was not cancelled; the end of its hold will do it: %s", batch_id, error)
            return
        if transaction is None:
            self.client.release_children_soon()


def _batches_of(pairs: Sequence[_Pair]) -> set[str]:
    """Return the batches that the jobs are members of; their ties are read once where they are the same."""
    texts = {job.ties_json for job, _ in pairs}
    found = (read_ties(text).batch_id for text in texts if text is not None)
    return {id for id in found if id is not None}


# ---- batches ---------------------------------------------------------------------------------------------


class Batch(Gathered[Tally]):
    """A job without a task, which ends when none of its members can go on: see `fire.batch`.

    It is failed if a member has failed, or waits for what will not come; deleted if it was cancelled, or what
    it is after was deleted; else succeeded. `then` and `result()` are those of any job: of a batch the result
    is its tally. A requeue of a member opens it again. `delete()` cancels it, for good. Members and
    continuations join the caller's transaction; `requeue`, `delete` and `restore` act immediately.
    """

    __slots__ = ("_depth", "_is_entered")

    def __init__(
        self, client: Creator, record: NewJob | JobRecord, filling: Filling | None = None, depth: int = 0
    ) -> None:
        super().__init__(client, record, filling)
        self._depth = depth  # 1 for one that is in no other; 0 where nobody has looked
        self._is_entered = False

    @classmethod
    def of(cls, client: Creator, batch_id: str) -> Batch:
        """Return the handle of a stored batch of which no more is known than its id; nothing is read."""
        return cls(client, NewJob(batch_id, BATCH_TASK, "{}", "json", "default", 0, State.AWAITING, 0))

    def __repr__(self) -> str:
        """Return id, name and state."""
        return f"<Batch {self.id} {self.name!r} {self.state}>"

    @property
    def name(self) -> str:
        """Its name, for people; empty where nobody has looked."""
        ties = self._record.ties
        return "" if ties is None or ties.batch is None else ties.batch.name

    @property
    def output(self) -> NoReturn:
        """Nothing: a batch has no output.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"{self!r} has no output. Let the job wait for it, using(after=batch), and read "
            "batch.results(task) or batch.tally() inside that job."
        )

    # ---- filling it --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Return the batch; what is added to it is stored at the end of the block."""
        return self._enter(is_async=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All is stored; where the block raised nothing is, and what was stored before is cancelled."""
        filling = cast("Filling", self._filling)
        is_whole = self.id == filling.root and error is None
        within = filling.transaction() if is_whole else filling.transaction_of_stored()
        filling.leave(self.id, within, has_raised=error is not None)

    async def __aenter__(self) -> Self:
        """Return the batch; what is added to it is stored at the end of the block."""
        if not self._client.clock.is_fresh:
            await in_thread(self._client.clock.now)
        return self._enter(is_async=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All is stored, without blocking the event loop; see `__exit__`."""
        filling, has_raised = cast("Filling", self._filling), error is not None
        await filling.awaited(lambda within: filling.leave(self.id, within, has_raised=has_raised))

    def _enter(self, *, is_async: bool) -> Self:
        filling = self._filling
        if filling is None or self._is_entered or not (filling.is_open or self.id == filling.root):
            raise ConfigurationError(
                f"{self!r} is stored, or its block was entered before: a batch has one block. Add to it "
                "without one: batch.add(task, …)."
            )
        self._is_entered = True
        if self.id == filling.root:
            record = cast("NewJob", self._record)
            record.created_at = self._client.clock.now()
            filling.is_open, filling.is_async = True, is_async
            filling.begin(self, record)
        return self

    def add(self, task: Continuation[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """A member is gathered within the block, or stored at once where the batch is stored; its handle.

        A member may add to its own batch by `job.batch`, others until it has ended. Where another job has the
        unique key of the call, that one is no member, and `is_new` of the handle is False.

        Raises:
            BatchFinished: the batch has ended, or was cancelled.
            ConfigurationError: the job is to wait for one that is no member; or the batch has not been
                entered.
            SignatureMismatch, ArgumentError, StorageError: as of `enqueue`.
        """
        return cast("Job[R2]", self._add([call_of("add", task, args, kwargs)])[0])

    async def aadd(self, task: Continuation[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """`add` without blocking the event loop."""
        call, filling = call_of("aadd", task, args, kwargs), self._taker()
        if filling is None:
            await self.arequire_visible(lambda: call.options.within)
            try:
                return await self._client.acreate_member(call, self.id)
            except JobNotFound as error:
                await in_thread(self.explain, error)
                raise
        return cast("Job[R2]", (await filling.aadd(filling.members([call], self.id)))[0])

    def add_many(self, calls: Iterable[Call[R2]], /) -> list[Job[R2]]:
        """A member is added for each call of `task.call(…)`, in order; return their handles.

        Calls are taken 500 at a time: what is wrong with a later one shows when it is met.
        """
        return [job for chunk in _chunks(calls) for job in self._add(chunk)]

    async def aadd_many(self, calls: Iterable[Call[R2]], /) -> list[Job[R2]]:
        """`add_many` without blocking the event loop."""
        handles: list[Job[R2]] = []
        for chunk in _chunks(calls):
            filling = self._taker()
            if filling is None:
                handles += await self._acreate_members(chunk)
            else:
                handles += await filling.aadd(filling.members(chunk, self.id))
        return handles

    def _add(self, calls: Sequence[Call[Any]]) -> Sequence[Job[Any]]:
        filling = self._taker()
        if filling is None:
            return self._create_members(calls)
        return filling.add(filling.members(calls, self.id))

    def _create_members(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        self.require_visible(partial(self._client.transaction, calls[0].options.within))
        try:
            return self._client.create_members(calls, self.id)
        except JobNotFound as error:
            self.explain(error)
            raise

    async def _acreate_members(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        await self.arequire_visible(lambda: calls[0].options.within)
        try:
            return await self._client.acreate_members(calls, self.id)
        except JobNotFound as error:
            await in_thread(self.explain, error)
            raise

    def _taker(self) -> Filling | None:
        """Return what gathers members of this batch; None where they are stored at once.

        Raises:
            ConfigurationError: the batch is not stored, and nobody gathers.
        """
        filling = self._filling
        if filling is not None and filling.takes(self.id):
            return filling
        if filling is not None and (why := filling.why_not_stored(self.id)) is not None:
            raise ConfigurationError(f"Nothing can be added to {self!r}, which is not stored: {why}.")
        return None

    def batch(
        self,
        name: str,
        *,
        after: Job[Any] | Sequence[Job[Any]] = (),
        on: OnText = "succeeded",
        on_failure: OnFailureText = "continue",
        tags: Sequence[str] = (),
    ) -> Batch:
        """Return a batch that is a member of this one; fill it in a block of its own, or by `add`.

        Options are those of `fire.batch`; it waits for members of this one alone. Of a batch that is stored
        already it is stored with its own block.

        Raises:
            ConfigurationError: an option is wrong, or it would be more than 8 deep.
        """
        return new_batch(self._client, name, after=after, on=on, on_failure=on_failure, tags=tags, outer=self)

    abatch = twin(batch)

    def depth(self) -> int:
        """Return how many batches it is in, itself included; reads one after another where nobody knows."""
        if not self._depth:
            outer = self.record().ties
            outer_id = None if outer is None else outer.batch_id
            self._depth = 1 if outer_id is None else 1 + Batch.of(self._client, outer_id).depth()
        return self._depth

    adepth = twin(depth)

    # ---- looking -----------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """Return how far it is: its members by what they do, all of one instant. One round trip.

        Raises:
            JobNotFound: it is not stored.
        """
        tally = self._client.storage.tally((self.id,))[0]
        if tally is None:
            self._look()
            raise JobNotFound(f"Job {self.id} is no batch.")
        return tally

    atally = twin(tally)

    def members(
        self, *, state: State | str | None = None, limit: int = 50, cursor: str | None = None
    ) -> JobPage:
        """Return a page of its members, those added first first; a batch among them is a `Batch`.

        With a state they are in order of when they came into it.

        Raises:
            ConfigurationError: the state is unknown, or the limit is not 1 to 500.
        """
        where = JobFilter(state=None if state is None else to_choice(State, "state", state), batch_id=self.id)
        found = self._client.storage.find(
            where, limit=check_limit(limit, "jobs"), cursor=cursor, oldest_first=True
        )
        return JobPage([handle_of(self._client, record) for record in found.jobs], found.cursor)

    amembers = twin(members)

    def _pages(self, where: JobFilter) -> Iterator[list[JobRecord]]:
        cursor = None
        while True:
            page = self._client.storage.find(where, limit=_PAGE, cursor=cursor, oldest_first=True)
            yield page.jobs
            cursor = page.cursor
            if cursor is None:
                return

    def results(self, task: Continuation[..., R2], /, *, after: str | None = None) -> Iterator[R2]:
        """Iterate over what its members of a task returned, in the order in which they were added.

        Left out are those that have not succeeded, and members of batches within it. They are read 500 at a
        time, when they are needed.

        Args:
            task: whose results, and so of which type.
            after: the id of a member; only what was added behind it comes.

        Raises:
            JobNotFound: no such member is stored.
            ResultUnavailable: a member succeeded without a storable result.
        """
        for page in self._pages_of(task, after):
            yield from (cast("R2", result_of(self._client, record)) for record in page)

    async def aresults(
        self, task: Continuation[..., R2], /, *, after: str | None = None
    ) -> AsyncIterator[R2]:
        """`results` without blocking the event loop: `async for result in batch.aresults(task)`."""
        pages = self._pages_of(task, after)
        while (page := await in_thread(next, pages, None)) is not None:
            for record in page:
                yield cast("R2", result_of(self._client, record))

    def _pages_of(self, task: Continuation[..., Any], after: str | None) -> Iterator[list[JobRecord]]:
        """Yield the succeeded members of a task behind one of them, page by page."""
        names, since, behind = {task.info.name, *task.info.aliases}, None, (0, "")
        if after is not None:
            record = self._client.storage.get((after,))[0]
            if record is None or record.ties is None or record.ties.batch_id != self.id:
                raise JobNotFound(f"{shown(after)} is no member of {self!r} that is stored.")
            since, behind = record.created_at, (record.created_at, after)
        where = JobFilter(batch_id=self.id, task=None if len(names) > 1 else task.info.name, since=since)
        for page in self._pages(where):
            yield [
                record
                for record in page
                if record.task in names
                and record.state is State.SUCCEEDED
                and (record.created_at, record.id) > behind
            ]

    def result(self, timeout: float | None = None) -> Tally:
        """Return its tally once it has succeeded; waits up to `timeout` seconds.

        Raises:
            JobFailed: it failed; the message says how many of its members did.
            JobDeleted: it was cancelled.
            ResultTimeout: it had not ended in time.
        """
        super().result(timeout)
        return self.tally()

    async def aresult(self, timeout: float | None = None) -> Tally:
        """`result` without blocking the event loop."""
        await super().aresult(timeout)
        return await self.atally()

    def _result_of(self, look: Observation) -> Tally:
        record = look.record
        if record is None:
            raise JobNotFound(f"Batch {self.id} is not stored any more.")
        self._saw(look.began, record)
        if record.state is State.FAILED:
            raise JobFailed(f"{self._words} failed: {record.reason or 'a member failed'}.")
        if record.state is State.DELETED:
            raise JobDeleted(f"{self._words} was deleted: {record.reason or 'no reason was given'}.")
        return Tally()

    @property
    def _words(self) -> str:
        return f"Batch {self.name!r} ({self.id})"

    # ---- acting ------------------------------------------------------------------------------------------

    def requeue(self, *, from_step: str | None = None) -> Batch:
        """Its failed members are enqueued, also of batches within it, and it is open again.

        It is with the first 500 of them; all are enqueued 500 at a time. Where this raises in between, the
        rest has failed still and can be requeued anew. What waits for their success runs then. Members that
        were deleted stay so.

        Raises:
            JobConflict: none has failed, or the batch was cancelled.
            ConfigurationError: `from_step` is given, which is a member's.
            JobNotFound: it is not stored.
        """
        if from_step is not None:
            raise ConfigurationError(
                f"{self!r} has no steps: from_step={from_step!r} is for a member, job.requeue(from_step=…)."
            )
        if self.tally().is_cancelled:
            raise JobConflict(
                f"{self!r} was cancelled, which is for good; none of its members can run again."
            )
        if not self._requeue_failed():
            raise JobConflict(f"{self!r} has no failed member that could be requeued.")
        self._look()
        return self

    def _requeue_failed(self) -> int:
        now, number = self._client.clock.now(), 0
        storage = self._client.storage
        where = JobFilter(state=State.FAILED, batch_id=self.id, until=storage.clock() + 1)
        for page in self._pages(where):  # those that fail again meanwhile are left out, so that it ends
            changes = [
                lifecycle.requeue(record.id, at=now, reason="requeued with its batch")
                for record in page
                if not record.is_batch
            ]
            applied = sum(answer.is_applied for answer in (storage.apply(changes) if changes else ()))
            if applied and not number:
                self._client.release_children_soon()
                self._client.tell_batches_soon(self.id)
            number += applied
            number += sum(
                Batch(self._client, record)._requeue_failed()  # noqa: SLF001 - of the same class
                for record in page
                if record.is_batch
            )
        return number

    def delete(self) -> Batch:
        """It is cancelled, for good: members that have not ended are deleted, running ones told to stop.

        It is deleted itself once none runs; the handle shows it as it is until then.

        Raises:
            JobConflict: it is deleted already.
            JobNotFound: it is not stored.
        """
        super().delete()
        return self


def _chunks(calls: Iterable[Call[Any]]) -> Iterator[list[Call[Any]]]:
    left = iter(calls)
    while chunk := list(islice(left, CHUNK)):
        for call in chunk:
            if not isinstance(call, Call):
                raise TaskError(f"add_many takes what task.call(…) returns, not {call!r}.")
        yield chunk


# ---- making one ------------------------------------------------------------------------------------------


def new_batch(
    client: Creator,
    name: str,
    *,
    after: Job[Any] | Sequence[Job[Any]] = (),
    on: OnText = "succeeded",
    on_failure: OnFailureText = "continue",
    tags: Sequence[str] = (),
    keep: timedelta | float | None = None,
    hold: timedelta = timedelta(hours=1),
    within: object | None = None,
    beside: str | None = None,
    outer: Batch | None = None,
) -> Batch:
    """Return a batch to be filled, a member of the outer one if one is given; see `fire.batch`.

    Raises:
        ConfigurationError: an option is wrong, or it would be too deep.
    """
    keeps = _keeps(client, keep)
    rules = BatchRules(_name(name), _fails_fast(on_failure), keeps)
    outer_id = None if outer is None else outer.id
    filling = None if outer is None else outer._taker()  # noqa: SLF001 - of this module
    depth = 1 if outer is None else 1 + outer.depth()
    if depth > DEEPEST:
        raise ConfigurationError(
            f"Batch {name!r} would be {depth} deep; at most {DEEPEST} lie within one another."
        )
    sources = to_sources(after)
    edges = _edges(sources, on, outer_id, partial(client.transaction, within))
    place = outer_id or beside or (edges[0].parent_id if edges else None)
    record = NewJob(
        client.storage.new_ids(1, place)[0], BATCH_TASK, "{}", "json", "default", 0, State.AWAITING,
        client.clock.now() if filling is not None else 0, reason=waiting_words(edges) if edges else None,
        tags=check_tags(to_tags(tags)), meta_json=client.batch_meta(name), parents=edges,
        ties_json=write_ties(Ties(outer_id, batch=rules)),
    )  # fmt: skip
    if filling is not None:
        batch = Batch(client, record, filling, depth)
        filling.begin(batch, record)
        return batch
    filling = Filling(client, record.id, within, _hold(hold), sources=[*sources, *([outer] if outer else [])])
    filling.promise(record.id)
    return Batch(client, record, filling, depth)


def _edges(
    sources: Sequence[Job[Any]], on: str, outer_id: str | None, transaction: Callable[[], object | None]
) -> tuple[Edge, ...]:
    end = to_choice(On, "on", on)
    ids = [source.as_source(outer_id, transaction) for source in sources]
    return tuple(check_bounded({one: Edge(one, end) for one in ids}, is_batch=True).values())


def _name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"Batch name {shown(name)} is refused; use 1 to {_LONGEST_NAME} printable characters."
        )
    return name


def _fails_fast(on_failure: object) -> bool:
    if on_failure not in ("continue", "cancel"):
        raise ConfigurationError(f"on_failure={shown(on_failure)} is unknown; use one of continue, cancel.")
    return on_failure == "cancel"


def _keeps(client: Creator, keep: timedelta | float | None) -> tuple[int | None, int | None, int | None]:
    seconds, retention = to_keep_seconds(keep), client.retention
    succeeded = retention.succeeded if seconds is None else int(seconds * SECOND)
    return (succeeded, retention.failed, retention.deleted)


def _hold(hold: object) -> int:
    if not isinstance(hold, timedelta) or not timedelta(seconds=1) <= hold <= _LONGEST_HOLD:
        raise ConfigurationError(
            f"hold={shown(hold)} is refused; pass a timedelta from a second to 366 days."
        )
    return span_micros(hold)


# ---- handles of what is stored ---------------------------------------------------------------------------


def handle_of(client: Creator, record: JobRecord) -> Job[Any]:
    """Return the handle of a stored job: a `Batch` of a batch."""
    is_batch = record.ties_json is not None and record.is_batch
    return Batch(client, record) if is_batch else Job(client, record)


def find_batch(client: Creator, batch_id: str) -> Batch:
    """Return the handle of a stored batch.

    Raises:
        JobNotFound: no batch of that id is stored.
    """
    record = client.storage.get((batch_id,))[0]
    if record is None:
        raise JobNotFound(f"Batch {shown(batch_id)} is not stored: the id is wrong, or it has been pruned.")
    if not record.is_batch:
        raise JobNotFound(f"Job {batch_id} is no batch, but one of task {record.task}.")
    return Batch(client, record)
