"""The memos of a running job (steps, sleeps, signals and called jobs), and the suspension of its run.

Each protocol is written once, as a generator (`_Flow`) that yields a request for each round trip; a thread or
a coroutine runs the generator. A wait that has not ended is stored in `JobSteps.wait` and raises
`JobSuspended`. Only `JobSteps.wait` decides whether a run is suspended, because the task's code can swallow
or wrap the exception.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeAlias, TypeVar, cast

import attrs

from firelock.arguments.refusals import advice_for
from firelock.arguments.serializer import Misfit
from firelock.arguments.signature import read_text, write_text
from firelock.errors import (
    ArgumentError,
    FirelockError,
    JobCancelled,
    JobNotFound,
    JobSuspended,
    ResultUnavailable,
    StepError,
    StorageUnavailable,
    TaskError,
    UnknownTask,
    UnsupportedFeature,
)
from firelock.flows.batch import Batch
from firelock.flows.signals import TIMED_OUT
from firelock.flows.streams import EmittedStreams
from firelock.jobs.job import Job
from firelock.jobs.results import without_result
from firelock.model.aio import in_thread
from firelock.model.answers import Applied, Duplicate
from firelock.model.batch import BATCH_TASK, BatchCounts
from firelock.model.clock import SECOND, micros, span_micros
from firelock.model.dependencies import Edge, On
from firelock.model.memo import (
    MEMO_BYTES,
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Memo,
    MemoKind,
    NewMemo,
    memo_words,
)
from firelock.model.state import State
from firelock.model.storage import Feature
from firelock.model.text import clock_time, number_of, shown
from firelock.options import Call, makes_calls

if TYPE_CHECKING:
    from firelock.arguments.codec import Codec
    from firelock.arguments.serializer import JsonValue, Serializer
    from firelock.flows.fake_steps import FakeRun
    from firelock.flows.signals import Signal
    from firelock.flows.streams import StreamFlusher
    from firelock.jobs.client import Client
    from firelock.model.job import ClaimedJob, JobRecord, NewJob
    from firelock.model.memo import Remembered
    from firelock.model.session import ClaimHolder
    from firelock.server.memo_commit import MemoCommit
    from firelock.server.run import Run
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_Request: TypeAlias = NewMemo | float | Callable[[], Any]
"""A memo to store, seconds to wait, or a function that makes a round trip."""
_Flow: TypeAlias = Generator[_Request, Any, T]

CALLS_LIMIT = 500  # maximum number of jobs in one call of `gather`
IN_PLACE = 2 * SECOND  # during a shorter sleep, the job keeps its worker
_LONGEST_NAME = 200
_LONGEST = timedelta(days=3_650)
_NEARLY = 50_000  # micros; if a deadline is nearer than this, the run waits without being suspended
# If less than this is left of a resumed wait, by the estimated time, the storage's clock is read.
_LATE_READ = 60 * SECOND
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_SLICE = 0.05  # seconds between two checks for a cancellation while a waiting job keeps its worker

_inside: ContextVar[tuple[object, str] | None] = ContextVar("firelock_step", default=None)


@attrs.frozen
class Wait:
    """The event for which a suspended run waits."""

    kind: MemoKind
    name: str
    reason: str  # a readable reason
    due_at: int | None = None
    parents: tuple[Edge, ...] = ()

    @property
    def words(self) -> str:
        """The description that is stored as `waits_for`."""
        return memo_words(self.kind, self.name)


class JobSteps:
    """The memos and waits of one run of a job. Any thread or coroutine of the task may use it.

    Args:
        job: the job as it was claimed.
        holder: the holder of the claim.
        client: the client with the tasks, serializers and storage.
        run: the run to which the memos and waits belong.
        memos: stores the memos.
        flusher: stores the emitted output.
        in_place: during a sleep that is shorter than this, in micros, the job keeps its worker.
    """

    def __init__(
        self,
        job: ClaimedJob,
        holder: ClaimHolder,
        client: Client,
        run: Run | FakeRun,
        *,
        memos: MemoCommit,
        flusher: StreamFlusher,
        in_place: int = IN_PLACE,
    ) -> None:
        self._job = job
        self._holder = holder
        self._client = client
        self._run = run
        self._put_by = memos
        self._flusher = flusher
        self._streams: EmittedStreams | None = None
        self._in_place = in_place
        self._condition = threading.Condition()
        self._memos: dict[tuple[MemoKind, str], Memo] | None = None if job.has_memos else {}
        self._used: set[tuple[MemoKind, str]] = set()  # names that this run has completed or begun
        self._tried: set[str] = set()  # steps of this run in transactions that might not have committed
        self._running = 0
        self._tasks: set[object] = set()  # the asyncio tasks of asynchronous steps
        self._total = 0  # total size of the values of `_memos`, in bytes
        self._permanent_errors: list[BaseException] = []
        self.wait: Wait | None = None  # if set, the run must be suspended

    # ---- calls by the server -----------------------------------------------------------------------------

    def fails_permanently(self, error: BaseException) -> bool:
        """Return whether an error raised by the task makes its job fail without a retry.

        This is true if the task used a step incorrectly, or if a job that it called has failed, even if task
        groups have wrapped the error.
        """
        if isinstance(error, BaseExceptionGroup):
            return all(map(self.fails_permanently, error.exceptions))
        return isinstance(error, StepError) or any(error is one for one in self._permanent_errors)

    def rest(self) -> None:
        """If the run must be suspended, wait until its running steps have ended or the job must stop."""
        with self._condition:
            while self.wait is not None and self._running and self._run.refusal is None:
                self._condition.wait(_SLICE)

    async def arest(self) -> None:
        """Call `rest` without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - loaded by now

        pause = 0.0
        while self.wait is not None and self._running and self._run.refusal is None:
            await asyncio.sleep(pause)
            pause = min(_SLICE, pause + 0.001)

    @property
    def batch(self) -> Batch:
        """See `JobContext.batch`."""
        if self._batch_id is None:
            raise StepError(
                f"Job {self._job.id} is not a member of a batch. Create a batch with fire.batch(…)."
            )
        return Batch.of(self._client, self._batch_id)

    # ---- streams -----------------------------------------------------------------------------------------

    def emit(self, stream: str, data: str) -> None:
        """See `JobContext.emit`."""
        streams = self._emitted()
        streams.emit(stream, data)
        if streams.has_much:
            streams.flush_at_last()

    async def aemit(self, stream: str, data: str) -> None:
        """See `JobContext.aemit`."""
        streams = self._emitted()
        streams.emit(stream, data)
        if streams.has_much:
            await in_thread(streams.flush_at_last)

    def _emitted(self) -> EmittedStreams:
        with self._condition:
            if self._streams is None:
                self._streams = EmittedStreams(
                    self._client.storage, self._job, self._holder, self._run, self._flusher
                )
            return self._streams

    def finish(self) -> None:
        """Store the emitted output; it cannot be stored after the run has ended."""
        if self._streams is not None:
            self._streams.flush_at_last()

    async def afinish(self) -> None:
        """Call `finish` without blocking the event loop."""
        if self._streams is not None:
            await in_thread(self._streams.flush_at_last)

    # ---- steps -------------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        function: Callable[..., T],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        session: object | None = None,
    ) -> T:
        """See `JobContext.step`; with a session, the memo is part of that transaction."""
        codec = self._codec_of(name, function)
        with self._entered(MemoKind.STEP, name, is_within=session is not None):
            memo = self._drive(self._known(MemoKind.STEP, name, is_fresh=name in self._tried))
            if memo is not None:
                return cast("T", self._value_of(memo, codec))
            started_at = self._client.clock.now()
            with self._inside_of(name):
                value = function(*args, **kwargs)
            if inspect.iscoroutine(value):
                value.close()
                raise StepError(
                    f"Step {name!r}: {_name_of(function)} is an async function; use await job.astep(…)."
                )
            new = self._new_step(name, codec, value, started_at)
            if session is not None:
                self._put_within(new, session)
                return value
            return self._stored_value(self._drive(self._put(new)), new, value, codec)

    async def astep(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        session: object | None = None,
    ) -> T:
        """See `JobContext.astep`."""
        codec = self._codec_of(name, function)
        with self._entered(MemoKind.STEP, name, is_within=session is not None):
            memo = await self._adrive(self._known(MemoKind.STEP, name, is_fresh=name in self._tried))
            if memo is not None:
                return cast("T", self._value_of(memo, codec))
            started_at = self._client.clock.now()
            with self._inside_of(name):
                awaited: object = function(*args, **kwargs)
                if not inspect.isawaitable(awaited):
                    raise StepError(
                        f"Step {name!r}: {_name_of(function)} is not an async function; use job.step(…), or "
                        "await job.astep(name, asyncio.to_thread, function, …) if it blocks."
                    )
                with self._kept_alive():
                    value = await cast("Awaitable[T]", awaited)
            new = self._new_step(name, codec, value, started_at)
            if session is not None:
                await self._aput_within(new, session)
                return value
            return self._stored_value(await self._adrive(self._put(new)), new, value, codec)

    def _codec_of(self, name: str, function: Callable[..., object]) -> Codec:
        if not callable(function):
            raise StepError(
                f"Step {name!r} requires a function and its arguments, got {shown(function)}. Use for "
                f"example job.step({name!r}, charge, 42)."
            )
        try:
            return self._client.registry.returned_codec(function)
        except TaskError as error:
            raise StepError(f"The return value of step {name!r} cannot be stored: {error}") from error

    def _new_step(self, name: str, codec: Codec, value: object, started_at: int) -> Memo:
        try:
            text = write_text(self._serializer, cast("JsonValue", codec.encode(value)))
        except Misfit as misfit:
            advice = advice_for(misfit.culprit) if misfit.advice is None else misfit.advice
            hint = f"; {advice.replace('the parameter', 'what the function returns')}" if advice else ""
            raise StepError(
                f"Step {name!r} returned a {type(value).__name__} that cannot be stored: {misfit}{hint}"
            ) from misfit
        return self._memo(MemoKind.STEP, name, text, is_done=True, started_at=started_at)

    def _stored_value(self, stored: Memo, new: Memo, value: T, codec: Codec) -> T:
        """Return the stored value: the new one, unless another one was stored first."""
        return value if stored.value == new.value else cast("T", self._value_of(stored, codec))

    def _value_of(self, memo: Memo, codec: Codec) -> object:
        return self._read(memo, codec.decode)

    def _read(self, memo: Memo, decode: Callable[[JsonValue], object]) -> object:
        """Return the value of a memo.

        Raises:
            StepError: If the value no longer has the expected type.
        """
        try:
            return decode(read_text(self._serializer, memo.value or ""))
        except ArgumentError as error:
            raise StepError(
                f"The stored value of {memo_words(memo.kind, memo.name)!r} no longer fits: {error}. Use "
                f"another name, or run the job again from there: job.requeue(from_step={memo.name!r})."
            ) from error

    @property
    def _serializer(self) -> Serializer:
        return self._client.serializers[self._job.serializer]

    # ---- within a transaction ----------------------------------------------------------------------------

    def check_within(self) -> None:
        """Check that the storage can take part in a transaction of the caller.

        Raises:
            UnsupportedFeature: If the storage cannot join a transaction.
        """
        storage = self._client.storage
        if Feature.TRANSACTIONAL_ENQUEUE not in storage.features:
            raise UnsupportedFeature(
                f"The storage {storage.url} cannot join your transaction, so job.within(…) cannot be used. "
                "Use job.step(…), and pass job.key(…) to each call that must not happen twice."
            )

    def _put_within(self, new: Memo, session: object) -> None:
        self._tried.add(new.name)
        joined = self._client.transaction(session)
        self._check_put_within(self._client.storage.remember([self._new(new)], within=joined)[0])

    async def _aput_within(self, new: Memo, session: object) -> None:
        self._tried.add(new.name)
        joined = self._client.transaction(session)
        run_sync = getattr(joined, "run_sync", None)
        if run_sync is None:
            self._put_within(new, session)
            return
        memos, storage = [self._new(new)], self._client.storage
        answers = await run_sync(lambda inner: storage.remember(memos, within=inner))
        self._check_put_within(answers[0])

    def _check_put_within(self, answer: Remembered) -> None:
        if answer.answer not in (Applied.APPLIED, Applied.ALREADY):
            why = "the job is no longer this run's; nothing of its transaction may stay"
            self._run.lose(why, is_raised=True)
            raise JobCancelled(why)

    # ---- waits -------------------------------------------------------------------------------------------

    def sleep(self, name: str, span: timedelta | float | datetime) -> None:
        """See `JobContext.sleep`."""
        with self._entered(MemoKind.SLEEP, name):
            self._drive(self._sleeping(name, span))

    async def asleep(self, name: str, span: timedelta | float | datetime) -> None:
        """See `JobContext.asleep`."""
        with self._entered(MemoKind.SLEEP, name):
            await self._adrive(self._sleeping(name, span))

    def receive(self, signal: Signal[T], timeout: timedelta | float | None) -> T | None:
        """See `JobContext.receive`."""
        _check_signal(signal)
        with self._entered(MemoKind.SIGNAL, signal.name):
            return cast("T | None", self._drive(self._receiving(signal, timeout)))

    async def areceive(self, signal: Signal[T], timeout: timedelta | float | None) -> T | None:
        """See `JobContext.areceive`."""
        _check_signal(signal)
        with self._entered(MemoKind.SIGNAL, signal.name):
            return cast("T | None", await self._adrive(self._receiving(signal, timeout)))

    def run(self, name: str, call: Call[Any]) -> Any:  # noqa: ANN401 - the task's
        """See `JobContext.run`."""
        with self._entered(MemoKind.CALL, name):
            return self._drive(self._calling(name, [call], is_one=True))

    async def arun(self, name: str, call: Call[Any]) -> Any:  # noqa: ANN401 - the task's
        """See `JobContext.arun`."""
        with self._entered(MemoKind.CALL, name):
            return await self._adrive(self._calling(name, [call], is_one=True))

    def gather(self, name: str, calls: Iterable[Call[Any]]) -> list[Any]:
        """See `JobContext.gather`."""
        chosen = _checked_calls(name, calls)
        with self._entered(MemoKind.CALL, name):
            return cast("list[Any]", self._drive(self._calling(name, chosen)))

    async def agather(self, name: str, calls: Iterable[Call[Any]]) -> list[Any]:
        """See `JobContext.agather`."""
        chosen = _checked_calls(name, calls)
        with self._entered(MemoKind.CALL, name):
            return cast("list[Any]", await self._adrive(self._calling(name, chosen)))

    def join(self, job: Job[T], name: str | None) -> T:
        """See `JobContext.join`."""
        chosen = _join_name(job, name)
        with self._entered(MemoKind.CALL, chosen, renamed=_JOINED_AGAIN):
            return cast("T", self._drive(self._joining(job, chosen)))

    async def ajoin(self, job: Job[T], name: str | None) -> T:
        """See `JobContext.ajoin`."""
        chosen = _join_name(job, name)
        with self._entered(MemoKind.CALL, chosen, renamed=_JOINED_AGAIN):
            return cast("T", await self._adrive(self._joining(job, chosen)))

    def _sleeping(self, name: str, span: timedelta | float | datetime) -> _Flow[None]:
        memo = yield from self._known(MemoKind.SLEEP, name)
        is_new = memo is None
        if memo is None:
            now = self._client.clock.now()
            due_at = micros(span) if isinstance(span, datetime) else now + _span(span, f"sleep({name!r}, …)")
            memo = yield from self._put(self._memo(MemoKind.SLEEP, name, str(due_at), is_done=True))
        due_at = int(memo.value or 0)
        left = yield from self._left(due_at, is_new=is_new)
        if left <= 0:
            return
        if left <= self._in_place:
            yield left / SECOND
            return
        self._suspend(Wait(MemoKind.SLEEP, name, f"sleeps until {clock_time(due_at)}", due_at))

    def _receiving(self, signal: Signal[Any], timeout: timedelta | float | None) -> _Flow[Any]:
        name = signal.name
        memo = yield from self._known(MemoKind.SIGNAL, name)
        is_new = memo is None
        if memo is None:
            now = self._client.clock.now()
            deadline = None if timeout is None else now + _span(timeout, f"receive({name!r}, timeout=…)")
            begun = self._memo(MemoKind.SIGNAL, name, None if deadline is None else str(deadline))
            memo = yield from self._put(begun, replaces=False)
        if not memo.is_done:
            deadline = int(memo.value) if memo.value else None
            left = None if deadline is None else (yield from self._left(deadline, is_new=is_new))
            if left is None or left > min(_NEARLY, self._in_place):
                until = "" if deadline is None else f" until {clock_time(deadline)}"
                self._suspend(Wait(MemoKind.SIGNAL, name, f"waits for signal {name}{until}", deadline))
            if left > 0:
                yield left / SECOND
            over = self._memo(MemoKind.SIGNAL, name, None, is_done=True, author=TIMED_OUT)
            memo = yield from self._put(over)
        if memo.value is None:
            return None
        text = memo.value
        try:
            return signal.decode(text)
        except ArgumentError as error:
            raise StepError(f"The payload of signal {name!r} does not fit: {error}.") from error

    def _left(self, due_at: int, *, is_new: bool) -> _Flow[int]:
        """Return the micros until that time, by the storage's clock if a resumed wait is about to end."""
        left = due_at - self._client.clock.now()
        if not is_new and self._in_place < left < _LATE_READ:
            left = due_at - (yield self._client.storage.clock)
        return left

    # ---- other jobs --------------------------------------------------------------------------------------

    def _calling(self, name: str, calls: Sequence[Call[Any]], *, is_one: bool = False) -> _Flow[Any]:
        """Return the results of the called jobs: a list, or for a single call the result itself."""
        if not calls:
            return []
        if len(calls) > CALLS_LIMIT:
            raise StepError(
                f"gather({name!r}) has {len(calls):,} calls, above the limit of {CALLS_LIMIT}. Create a "
                "batch of them in a step, and wait for the batch: job.join(fire.batches.get(job.step(…)))."
            )
        memo = yield from self._known(MemoKind.CALL, name)
        if memo is not None and memo.is_done:
            return self._results(memo, calls, is_one=is_one)
        records: list[JobRecord | None] = []
        if memo is None:
            ids = yield from self._start(name, calls, range(len(calls)), [""] * len(calls))
        else:
            begun = json.loads(memo.value or "{}")
            ids = list(begun["ids"])
            self._check_number(name, ids, calls)
            records = yield lambda: self._client.storage.get(ids)
            failed: set[int] = set()
            if begun["attempt"] < self._job.attempt:  # the next attempt retries failed calls
                unsuccessful = (State.FAILED, State.DELETED)
                failed = {at for at, record in enumerate(records) if record and record.state in unsuccessful}
            to_start = [at for at, record in enumerate(records) if record is None or at in failed]
            if to_start:
                wanted = ["" if at in failed else job_id for at, job_id in enumerate(ids)]
                ids = yield from self._start(name, calls, to_start, wanted)
                records = yield lambda: self._client.storage.get(ids)
        pending = [
            job_id
            for job_id, record in zip(ids, records or [None] * len(ids), strict=True)
            if record is None or not record.is_final
        ]
        if pending:
            self._suspend(_wait_for_jobs(name, pending))
        values = [self._result_of(each) for each in records if each is not None]
        text = write_text(self._serializer, values[0] if is_one else values)
        memo = self._memo(MemoKind.CALL, name, text, is_done=True)
        # Otherwise results are read from the called jobs, which are kept as long as this job.
        if self._why_no_room(memo) is None:
            memo = yield from self._put(memo)
        return self._results(memo, calls, is_one=is_one)

    def _start(
        self, name: str, calls: Sequence[Call[Any]], places: Sequence[int], ids: list[str]
    ) -> _Flow[list[str]]:
        """Store the ids of the calls at these indexes in a memo, then the calls as jobs; return all ids.

        An existing id is kept, because it is already in the memo, and the job with that id might be stored.
        """
        jobs: list[NewJob] = yield lambda: self._client.called_jobs([calls[at] for at in places], self._job)
        all_ids = list(ids)
        for at, job in zip(places, jobs, strict=True):
            if ids[at]:
                job.id = ids[at]
            all_ids[at] = job.id
        if all_ids != ids:
            yield from self._name(name, all_ids)
        answers: Sequence[bool | Duplicate] = yield lambda: self._client.insert(jobs, None)
        others = {
            at: answer.job_id
            for at, answer in zip(places, answers, strict=True)
            if isinstance(answer, Duplicate)
        }
        if others:  # another job has the unique key, so wait for that job
            all_ids = [others.get(at, job_id) for at, job_id in enumerate(all_ids)]
            yield from self._name(name, all_ids)
        return all_ids

    def _name(self, name: str, ids: list[str]) -> _Flow[None]:
        value = json.dumps({"ids": ids, "attempt": self._job.attempt}, separators=(",", ":"))
        yield from self._put(self._memo(MemoKind.CALL, name, value))

    def _result_of(self, record: JobRecord) -> JsonValue:
        if record.state is not State.SUCCEEDED or record.result is None:
            self._raise_permanently(without_result(record))
        serializer = self._client.serializers.get(record.serializer)
        if serializer is None:
            self._raise_permanently(
                ResultUnavailable(
                    f"The result of job {record.id} was stored by the serializer {record.serializer!r}, "
                    "which is not installed here."
                )
            )
        return read_text(serializer, record.result)

    def _results(self, memo: Memo, calls: Sequence[Call[Any]], *, is_one: bool) -> object:
        def decode(values: JsonValue) -> object:
            if is_one:
                return self._client.registry.binder(calls[0].info).decode_result(values)
            if not isinstance(values, list):
                raise ArgumentError("it is not a list of results")
            self._check_number(memo.name, values, calls)
            return [
                self._client.registry.binder(call.info).decode_result(value)
                for call, value in zip(calls, values, strict=True)
            ]

        return self._read(memo, decode)

    def _check_number(self, name: str, stored: Sequence[object], calls: Sequence[Call[Any]]) -> None:
        if len(stored) != len(calls):
            raise StepError(
                f"{name!r} called {number_of(len(stored), 'job')} before, but now has "
                f"{number_of(len(calls), 'call')}. Use another name, or run the job again from there: "
                f"job.requeue(from_step={name!r})."
            )

    def _joining(self, job: Job[Any], name: str) -> _Flow[object]:
        if job.id in (self._job.id, self._batch_id):
            what = "itself" if job.id == self._job.id else f"batch {job.id}, of which it is a member"
            raise StepError(f"Job {self._job.id} cannot wait for {what}, because the wait would never end.")
        memo = yield from self._known(MemoKind.CALL, name)
        if memo is not None and not memo.is_done:
            raise StepError(
                f"{name!r} is already the name of a call that has not ended, so job.join(…, name={name!r}) "
                "cannot use it. Use another name."
            )
        if memo is None:
            record: JobRecord | None = (yield lambda: self._client.storage.get([job.id]))[0]
            if record is None:
                missing = JobNotFound(f"Job {job.id} is not stored, so no job can wait for it.")
                self._raise_permanently(missing)
            if not record.is_final:
                self._suspend(_wait_for_jobs(name, [job.id]))
            value: JsonValue
            if record.is_batch and record.state is State.SUCCEEDED:
                counts: BatchCounts | None = (yield lambda: self._client.storage.batch_counts([job.id]))[0]
                value = attrs.asdict(counts or BatchCounts())
            else:
                value = self._result_of(record)
            memo = self._memo(MemoKind.CALL, name, write_text(self._serializer, value), is_done=True)
            if self._why_no_room(memo) is None:
                memo = yield from self._put(memo)
        return self._read(memo, lambda value: self._joined(job, value))

    @property
    def _batch_id(self) -> str | None:
        relations = self._job.relations
        return None if relations is None else relations.batch_id

    def _joined(self, job: Job[Any], value: JsonValue) -> object:
        if job.task == BATCH_TASK:
            fields = cast("dict[str, Any]", value)
            return BatchCounts(
                **{name: fields[name] for name in attrs.fields_dict(BatchCounts) if name in fields}
            )
        info = self._client.registry.get(job.task)
        if info is None:
            raise UnknownTask(
                f"The result of job {job.id} cannot be read: task {job.task!r} is not registered here."
            )
        return self._client.registry.binder(info).decode_result(value)

    def _raise_permanently(self, error: FirelockError) -> NoReturn:
        self._permanent_errors.append(error)
        raise error

    # ---- names -------------------------------------------------------------------------------------------

    @contextmanager
    def _entered(
        self, kind: MemoKind, name: str, *, is_within: bool = False, renamed: str = ""
    ) -> Iterator[None]:
        """Mark the name as used in this run, unless the block ends with an exception."""
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise StepError(
                f"The name of a {kind} must be a string of 1 to {_LONGEST_NAME} printable characters, got "
                f"{shown(name)}."
            )
        outer = _inside.get()
        if outer is not None and outer[0] is self:
            raise StepError(
                f"{memo_words(kind, name)!r} is inside step {outer[1]!r}, but a step cannot contain another "
                "step or a wait. Move it before or after that step."
            )
        key = kind, name
        with self._condition:
            if self.wait is not None:
                raise JobSuspended(self.wait.reason)
            if key in self._used:
                raise StepError(
                    f"{memo_words(kind, name)!r} is used twice in this run, but a name has only one value. "
                    f"In a loop, {renamed or _RENAMED[kind]}."
                )
            self._used.add(key)
            self._running += 1
        is_used = False
        try:
            yield
            is_used = not is_within  # it is unknown whether a step within a transaction was committed
        finally:
            with self._condition:
                if not is_used:
                    self._used.discard(key)
                self._running -= 1
                self._condition.notify_all()

    @contextmanager
    def _kept_alive(self) -> Iterator[None]:
        """Keep a reference to the asyncio task of a step, because asyncio has only a weak reference.

        Otherwise, a task that awaits an object to which only its own step refers is garbage-collected, and
        the run is suspended as if the step had ended.
        """
        import asyncio  # noqa: PLC0415 - loaded by now

        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    @contextmanager
    def _inside_of(self, name: str) -> Iterator[None]:
        token = _inside.set((self, name))
        try:
            yield
        finally:
            _inside.reset(token)

    def _suspend(self, wait: Wait) -> NoReturn:
        with self._condition:
            self.wait = self.wait or wait
        raise JobSuspended(wait.reason)

    # ---- memos -------------------------------------------------------------------------------------------

    def _memo(
        self,
        kind: MemoKind,
        name: str,
        value: str | None,
        *,
        is_done: bool = False,
        started_at: int | None = None,
        author: str = "",
    ) -> Memo:
        return Memo(
            kind=kind,
            name=name,
            value=value,
            is_done=is_done,
            at=self._client.clock.now(),
            started_at=started_at,
            attempt=self._job.attempt,
            author=author,
        )

    def _new(self, memo: Memo, *, replaces: bool = True) -> NewMemo:
        return NewMemo(self._job.id, memo, self._holder.session, self._job.fence, replaces)

    def _known(self, kind: MemoKind, name: str, *, is_fresh: bool = False) -> _Flow[Memo | None]:
        """Return the memo of this name; all memos are read once, and again if `is_fresh` is set."""
        if (refusal := self._run.refusal) is not None:
            raise JobCancelled(refusal)
        memos = self._memos
        if memos is None or is_fresh:
            memos = yield from self._recall()
        return memos.get((kind, name))

    def _recall(self) -> _Flow[dict[tuple[MemoKind, str], Memo]]:
        storage, job = self._client.storage, self._job
        found: list[Memo] | None = yield lambda: storage.recall(
            job.id, session=self._holder.session, fence=job.fence
        )
        if found is None:
            self._lose()
            raise JobCancelled(_NOT_OURS)
        with self._condition:
            self._memos = {(memo.kind, memo.name): memo for memo in found} | (self._memos or {})
            self._total = sum(map(_bytes, self._memos.values()))
            return self._memos

    def _put(self, memo: Memo, *, replaces: bool = True) -> _Flow[Memo]:
        """Store the memo, unless a completed one exists; return the memo that is now stored."""
        if (why := self._why_no_room(memo)) is not None:
            raise StepError(why)
        answer: Remembered = yield self._new(memo, replaces=replaces)
        if answer.answer is Applied.REFUSED:
            yield from self._recall()  # raises an error, unless the limits were the reason for the refusal
            raise StepError(self._why_no_room(memo) or _FULL)
        if answer.answer is Applied.MISSING:
            self._lose()
            raise JobCancelled(_NOT_OURS)
        stored, key = answer.memo or memo, (memo.kind, memo.name)
        with self._condition:
            if self._memos is not None:
                previous = self._memos.get(key)
                self._total += _bytes(stored) - (0 if previous is None else _bytes(previous))
                self._memos[key] = stored
        return stored

    def _lose(self) -> None:
        self._run.lose(_NOT_OURS, is_raised=True)

    def _why_no_room(self, memo: Memo) -> str | None:
        """Return why a memo would exceed the limits, given the other known memos; None if it would not."""
        words, size = memo_words(memo.kind, memo.name), _bytes(memo)
        if size > MEMO_BYTES:
            return (
                f"The value of {words!r} has {size:,} bytes, above the limit of {MEMO_BYTES:,}. Store the "
                "value elsewhere, and return a reference to it."
            )
        with self._condition:
            memos = self._memos or {}
            previous = memos.get((memo.kind, memo.name))
            number = len(memos) + (previous is None)
            total = self._total + size - (0 if previous is None else _bytes(previous))
        if number > MEMOS_LIMIT:
            return f"{words!r} would be memo {number:,} of this job. {_FULL}"
        if total > MEMOS_BYTES:
            return f"With {words!r}, the memos of this job would have {total:,} bytes. {_FULL}"
        return None

    # ---- driving -----------------------------------------------------------------------------------------

    def _drive(self, flow: _Flow[T]) -> T:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                request = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as over:
                return cast("T", over.value)
            answer = error = None
            try:
                answer = self._perform(request)
            except BaseException as raised:  # noqa: BLE001 - raised in the flow
                error = raised

    def _perform(self, request: _Request) -> object:
        if isinstance(request, float):
            self._wait_in_place(request)
            return None
        pause = _FIRST_PAUSE
        while True:
            try:
                if isinstance(request, NewMemo):
                    return self._put_by.put(request)
                return request()
            except StorageUnavailable as error:
                self._check_may_continue(error)
            self._wait_in_place(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _wait_in_place(self, seconds: float) -> None:
        """Wait for this many seconds; raise an exception if the job must stop in the meantime."""
        waits = threading.Event()
        while seconds > 0:
            self._check_may_continue(None)
            waits.wait(min(_SLICE, seconds))
            seconds -= _SLICE

    async def _adrive(self, flow: _Flow[T]) -> T:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                request = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as over:
                return cast("T", over.value)
            answer = error = None
            try:
                answer = await self._aperform(request)
            except BaseException as raised:  # noqa: BLE001 - raised in the flow
                error = raised

    async def _aperform(self, request: _Request) -> object:
        import asyncio  # noqa: PLC0415 - loaded by now

        if isinstance(request, float):
            await asyncio.sleep(request)
            return None
        pause = _FIRST_PAUSE
        while True:
            try:
                if isinstance(request, NewMemo):
                    return await self._put_by.aput(request)
                return await in_thread(request)
            except StorageUnavailable as error:
                self._check_may_continue(error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _check_may_continue(self, cause: Exception | None) -> None:
        """Return normally if a wait may continue.

        Raises:
            JobCancelled: If the job must stop.
        """
        run = self._run
        if run.refusal is None and cause is not None and not run.has_right:
            why = "the storage is unavailable, and the server could not renew its session in time"
            run.lose(why, is_raised=True)
        if run.refusal is not None:
            raise JobCancelled(run.refusal) from cause


class Steps:
    """The object that `job.within(session)` returns: its steps are stored if that transaction commits."""

    def __init__(self, steps: JobSteps, session: object) -> None:
        steps.check_within()
        self._steps = steps
        self._session = session

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step like `JobContext.step`; this transaction commits its work together with its memo.

        The work is therefore done exactly once, even if a process crashes. From this call on, the job's row
        is locked until the transaction ends; make this call the last one before the commit.

        Raises:
            JobCancelled: If the job no longer belongs to this run; do not catch it, so that the transaction
                rolls back.
            StepError: as for `JobContext.step`.
        """
        return self._steps.step(name, function, args, kwargs, self._session)

    async def astep(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `step` for an async function, with an AsyncSession or AsyncConnection."""
        return await self._steps.astep(name, function, args, kwargs, self._session)


# ---- helpers ---------------------------------------------------------------------------------------------

_NOT_OURS = "the job is no longer this run's"
_FULL = (
    f"A job can have at most {MEMOS_LIMIT:,} memos with {MEMOS_BYTES // (1024 * 1024)} MiB of values. Do "
    "more work in one step, or divide the work into jobs of a batch."
)
_RENAMED = {
    MemoKind.STEP: "use f'page:{n}'",
    MemoKind.SLEEP: "use f'day:{n}'",
    MemoKind.SIGNAL: "use signal.named(key)",
    MemoKind.CALL: "use f'part:{n}'",
}
_JOINED_AGAIN = "or after a requeue, pass a different name each time: job.join(job, name=f'turn:{n}')"


def call_to_run(
    name: str, task: TaskVerbs[P, R], args: Sequence[object], kwargs: Mapping[str, object]
) -> Call[R]:
    """Return the call of `job.run(name, task, …)`.

    Raises:
        StepError: If `task` is not a task.
    """
    if makes_calls(task):
        return task.call(*args, **kwargs)  # type: ignore[arg-type]  # the arguments of the task
    if isinstance(task, Call):
        what = f"a call: pass the task itself, job.run({shown(name)}, {task.info.name}, …)"
    elif isinstance(task, Job):
        what = "a stored job: use job.join(…) to wait for it"
    elif callable(task):
        what = f"a function: make it a task with @fire.task, or call it here with job.step({shown(name)}, …)"
    else:
        what = "not a task: pass the task itself and then its arguments"
    raise StepError(f"job.run({shown(name)}, …) requires a task, but {shown(task)} is {what}.")


def _checked_calls(name: str, calls: Iterable[Call[Any]]) -> list[Call[Any]]:
    if not isinstance(calls, Iterable):
        raise StepError(
            f"job.gather({shown(name)}, …) requires a list of calls, [task.call(…), …], got {shown(calls)}. "
            f"For a single call, use job.run({shown(name)}, task, …)."
        )
    chosen = list(calls)
    for at, call in enumerate(chosen):
        if isinstance(call, Call):
            continue
        why = (
            "a stored job: use job.join(…) to wait for it"
            if isinstance(call, Job)
            else "not a call: use task.call(…), because task(…) runs the function immediately"
        )
        raise StepError(f"job.gather({shown(name)}, …): item {at} is {shown(call)}, which is {why}.")
    return chosen


def _join_name(job: object, name: str | None) -> str:
    """Return the name of the memo for the result of a joined job: its id, unless a name is given."""
    if not isinstance(job, Job):
        how = (
            f"fire.jobs.get({shown(job)})" if isinstance(job, str) else "the return value of task.enqueue(…)"
        )
        raise StepError(f"job.join() requires the handle of a job or batch, got {shown(job)}. Use {how}.")
    return job.id if name is None else name


def _check_signal(signal: object) -> None:
    if not (isinstance(getattr(signal, "name", None), str) and hasattr(signal, "decode")):
        name = shown(signal) if isinstance(signal, str) else '"name"'
        raise StepError(
            f"job.receive() requires a signal, got {shown(signal)}. Create it once, next to the tasks: "
            f"fire.signal({name}, type)."
        )


def _span(span: timedelta | float, where: str) -> int:
    """Return a duration in micros."""
    if isinstance(span, timedelta):
        if timedelta(0) <= span <= _LONGEST:
            return span_micros(span)
    elif isinstance(span, int | float) and type(span) is not bool and 0 <= span <= _LONGEST.total_seconds():
        return int(span * SECOND)
    days = f"{_LONGEST.days:,}"
    raise StepError(
        f"{where} requires a timedelta or a number of seconds, from 0 to {days} days, got {shown(span)}."
    )


def _wait_for_jobs(name: str, ids: Sequence[str]) -> Wait:
    what = f"job {ids[0]}" if len(ids) == 1 else f"{len(ids)} jobs"
    edges = tuple(Edge(job_id, On.FINISHED) for job_id in ids)
    return Wait(MemoKind.CALL, name, f"waits for {what}", parents=edges)


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def _bytes(memo: Memo) -> int:
    text = memo.value or ""
    return len(text) if text.isascii() else len(text.encode())
