"""The side that creates jobs and never runs them."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import attrs

from firelock import lifecycle
from firelock.aio import in_thread
from firelock.arguments.tags import MAX_TAGS, format_tags
from firelock.clock import SECOND, StorageClock, micros, span_micros
from firelock.errors import (
    ConfigurationError,
    FirelockError,
    ResultUnavailable,
    ScheduleError,
    StorageError,
    StorageUnavailable,
    TaskError,
    UnknownTask,
)
from firelock.hookspecs import TaskCall
from firelock.job import Job, Observation, reads
from firelock.lifecycle import awaiting_reason
from firelock.meta import NO_META, check_meta, write_meta
from firelock.options import Call, CallOptions, TaskInfo
from firelock.storage import Applied, JobFilter, Storage
from firelock.storage.derived import insert_surely
from firelock.text import shown
from firelock.values import Edge, JobRecord, NewJob, On, State

if TYPE_CHECKING:
    import asyncio

    from firelock.arguments.signature import Binder
    from firelock.lifecycle import Retention
    from firelock.plugins import Plugins
    from firelock.serializer import Serializer
    from firelock.task import Registry
    from firelock.values import JobRecord, Transition

log = logging.getLogger(__name__)

RELEASE_LIMIT = 1_000
CHUNK = 500  # jobs of one call that share an atomic step
_NO_KEYWORDS: Mapping[str, object] = {}
_FIRST = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


@attrs.frozen
class StorageAccess:
    """A storage, and what a client shares of it among its calls."""

    storage: Storage
    clock: StorageClock
    group_commit: GroupCommit
    results: Results

    @classmethod
    def of(cls, storage: Storage) -> StorageAccess:
        """Return the access of an app; threads begin with the first await."""
        return cls(storage, StorageClock(storage), GroupCommit(storage), Results(storage))

    def close(self) -> None:
        """What was awaited is stored, and the threads have ended; the storage stays open."""
        self.group_commit.close()
        self.results.close()


class Client:
    """Makes jobs from calls and stores them; shared by every task and handle of an app: their `Creator`."""

    makes_no_jobs: ClassVar[str | None] = None
    """Why no job may be made now, in the whole process: set while the process of a job imports the app."""

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        plugins: Plugins,
        serializer: str,
        retention: Retention,
    ) -> None:
        self.registry = registry
        self.plugins = plugins
        self.serializers: Mapping[str, Serializer] = plugins.serializers()
        if serializer not in self.serializers:
            known = ", ".join(sorted(self.serializers))
            raise ConfigurationError(f"Serializer {serializer!r} is unknown. Installed: {known}.")
        self.serializer = self.serializers[serializer]  # for new jobs
        self.retention = retention
        self.use(StorageAccess.of(storage))

    def use(self, access: StorageAccess) -> None:
        """Jobs live in this storage from now on; the former access is the caller's to close."""
        self.access = access
        self.storage, self.clock = access.storage, access.clock

    def check_makes_jobs(self) -> None:
        """Jobs may be made.

        Raises:
            ConfigurationError: this process is one of a job and imports the app: each such process would add
                jobs, whose processes would add more.
        """
        if self.makes_no_jobs is not None:
            raise ConfigurationError(self.makes_no_jobs)

    # ---- one job -----------------------------------------------------------------------------------------

    def create(self, call: Call, reason: str | None = None) -> Job[Any]:
        """The call is stored as a job; `reason` is what its history says of its creation."""
        job = self._new_job(call)
        job.reason = reason
        return self._store(job, call.options.within)

    async def acreate(self, call: Call) -> Job[Any]:
        """The call is stored as a job, together with those of other coroutines that await at this moment."""
        await self._read_clock()
        return await self._astore(self._new_job(call), call.options.within)

    def create_child(self, parent_id: str, call: Call, meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation of a job with this meta."""
        return self._store(self._new_child(parent_id, call, meta), call.options.within)

    async def acreate_child(self, parent_id: str, call: Call, meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, without blocking the event loop."""
        await self._read_clock()
        return await self._astore(self._new_child(parent_id, call, meta), call.options.within)

    async def _read_clock(self) -> None:
        if not self.clock.is_fresh:
            await in_thread(self.clock.now)

    def transaction(self, within: object | None) -> object | None:
        """Return the transaction that jobs become part of: the caller's, or what a plugin makes of it."""
        if not self.plugins.has_job_transaction:
            return within
        chosen = self.plugins.job_transaction(self.storage, within)
        return within if chosen is None else chosen

    def _store(self, job: NewJob, within: object | None) -> Job[Any]:
        within = self.transaction(within)
        self._insert((job,), within)
        return Job(self, job, within is not None)

    async def _astore(self, job: NewJob, within: object | None) -> Job[Any]:
        self.check_makes_jobs()
        if within is None:
            await self.access.group_commit.insert(job)
        else:
            await _insert_within(self.storage, job, self.transaction(within))
        if self.plugins.has_jobs_created:
            self.plugins.jobs_created((job,))
        return Job(self, job, within is not None)

    # ---- many --------------------------------------------------------------------------------------------

    def create_many(self, calls: Sequence[Call]) -> list[Job[Any]]:
        """Every call is checked, then all are stored in order, 500 at a time, each chunk atomic."""
        jobs = [self._new_job(call) for call in calls]
        return self._store_many(jobs, self._common_within(calls))

    def create_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """As `create_many` for one task and positional arguments: what the jobs share is worked out once."""
        positional = _each_positional(calls)
        if self.plugins.has_job_options or info.tags or options.tags:
            return self.create_many([Call(info, options, args, {}) for args in positional])
        if not positional:
            return []
        first = self._new_job(Call(info, options, positional[0], _NO_KEYWORDS))
        encode, serializer = self.registry.binder(info).encode_text, self.serializer
        shared = (
            first.serializer, first.queue, first.priority, first.state, first.created_at, first.due_at,
            first.nominal_at, None, (), first.timeout_seconds, first.retry, None, first.meta_json,
        )  # fmt: skip
        # Every call is checked before the first is stored. Texts wait for that rather than jobs, and handles
        # share one job, since each object that lives on is one more for the garbage collector to look at.
        texts = [encode(args, _NO_KEYWORDS, serializer) for args in positional]
        ids = self.storage.new_ids(len(texts))
        within = self.transaction(options.within)
        for start in range(0, len(texts), CHUNK):
            pairs = zip(ids[start : start + CHUNK], texts[start : start + CHUNK], strict=True)
            self._insert([NewJob(job_id, first.task, text, *shared) for job_id, text in pairs], within)
        is_within = within is not None
        return [Job(self, first, is_within, job_id) for job_id in ids]

    def _store_many(self, jobs: list[NewJob], within: object | None) -> list[Job[Any]]:
        within = self.transaction(within)
        for start in range(0, len(jobs), CHUNK):
            self._insert(jobs[start : start + CHUNK], within)
        is_within = within is not None
        return [Job(self, job, is_within) for job in jobs]

    def _insert(self, jobs: Sequence[NewJob], within: object | None) -> None:
        self.check_makes_jobs()
        if within is None:
            insert_surely(self.storage, jobs)
        else:
            self.storage.insert(jobs, within=within)
        if self.plugins.has_jobs_created:
            self.plugins.jobs_created(jobs)

    def _common_within(self, calls: Iterable[Call]) -> object | None:
        found = {id(call.options.within): call.options.within for call in calls}
        if len(found) > 1:
            raise ConfigurationError(
                "The calls of one enqueue_many name different transactions; give each its own call."
            )
        return next(iter(found.values()), None)

    # ---- building ----------------------------------------------------------------------------------------

    def _new_job(self, call: Call, inherited: Mapping[str, str] = NO_META) -> NewJob:
        info, options = call.info, call.options
        binder = self.registry.binder(info)
        if self.plugins.has_job_options:
            options = self._ask_plugins(call)
        if options.on is not None:
            raise ConfigurationError(
                f"on={str(options.on)!r} says what a continuation waits for; use it with job.then(…)."
            )
        text = binder.encode_text(call.args, call.kwargs, self.serializer)
        now = self.clock.now()
        due_at = self._due_at(options, now)
        is_later = due_at is not None and due_at > now
        queue, priority = options.queue, options.priority
        state = State.SCHEDULED if is_later else State.ENQUEUED
        tags = self._tags(binder, call, options.tags or ()) if info.tags or options.tags else ()
        retry = None if options.retry is None else options.retry.to_json()
        meta = options.meta
        if inherited:
            meta = {**inherited, **(meta or {})}
        return NewJob(
            self.storage.new_ids(1)[0], info.name, text, self.serializer.name,
            info.queue if queue is None else queue, info.priority if priority is None else priority,
            state, now, due_at if is_later else None, due_at, None, tags, options.timeout, retry, None,
            None if meta is None else write_meta(meta),
        )  # fmt: skip

    def _new_child(self, parent_id: str, call: Call, meta: Mapping[str, str]) -> NewJob:
        options = call.options
        if options.delay is not None or options.at is not None:
            raise ConfigurationError(
                "A continuation runs when its parent has ended; delay and at cannot be given with then()."
            )
        job = self._new_job(attrs.evolve(call, options=attrs.evolve(options, on=None)), meta)
        on = options.on or On.SUCCEEDED
        job.id = self.storage.new_ids(1, parent_id)[0]
        job.state, job.due_at, job.nominal_at = State.AWAITING, None, None
        job.reason = awaiting_reason(on, parent_id)
        job.parents = (Edge(parent_id, on),)
        return job

    def recurring_arguments(self, call: Call) -> NewJob:
        """Return a job as each run of a recurring job would be, never stored itself.

        Raises:
            ConfigurationError: an option has no meaning for a recurring job.
        """
        if meaningless := sorted(call.options.given().keys() & {"delay", "at", "on", "within"}):
            raise ConfigurationError(
                f"A recurring job takes no {meaningless[0]}; its schedule says when it runs."
            )
        return self._new_job(call)

    def _ask_plugins(self, call: Call) -> CallOptions:
        given = call.options.given()
        chosen = self.plugins.job_options(call.info, TaskCall(call.info.name, call.args, call.kwargs, given))
        if callers := sorted(chosen.keys() & {"on", "within"}):
            raise ConfigurationError(
                f"A job_options hook answered {callers[0]}, which only the caller can give."
            )
        if given.keys() & {"delay", "at"}:  # two ways to say one thing: the caller has said it
            chosen = {name: value for name, value in chosen.items() if name not in {"delay", "at"}}
        if "meta" in given and chosen.get("meta") is not None:
            given["meta"] = {**check_meta(chosen["meta"]), **given["meta"]}
        try:
            return CallOptions(**{**chosen, **given})
        except TypeError as error:
            raise ConfigurationError(
                f"A job_options hook answered {chosen!r}, which using(…) does not take: {error}"
            ) from error

    def _due_at(self, options: CallOptions, now: int) -> int | None:
        if options.at is not None:
            return micros(_instant(options.at))
        if options.delay is not None:
            return now + _delay(options.delay, now)
        return None

    def _tags(self, binder: Binder, call: Call, given: Sequence[str]) -> tuple[str, ...]:
        bound = binder.encode(call.args, call.kwargs)
        own = format_tags(call.info.tags, bound, defaults=binder.defaults)
        tags = tuple(dict.fromkeys((*own, *check_tags(given))))
        if len(tags) > MAX_TAGS:
            raise ConfigurationError(
                f"{len(tags)} tags; a job has at most {MAX_TAGS}, its task's and the call's together."
            )
        return tags

    def release_children(self) -> None:
        """Continuations that an end set free are moved, a batch of them; upkeep does what is left."""
        self.storage.release(RELEASE_LIMIT)

    def release_children_soon(self) -> None:
        """Continuations that a change set free are moved: by upkeep where the storage has gone away since."""
        try:
            self.release_children()
        except StorageUnavailable as error:
            log.warning("Continuations wait for the next sweep of a server: %s", error)

    def restoration(self, record: JobRecord, *, reason: str) -> Transition | str:
        """Return the change that takes the job's delete back, or why nothing can, as the rest of a sentence.

        Reads the job's history, and whether it had continuations. Both may be those of a later delete: apply
        the change by `apply_unless_changed`.
        """
        if record.state is not State.DELETED:
            return f"it is {record.state}, not deleted"
        former = lifecycle.former(self.storage.history(record.id).entries)
        if former is None:
            return "its history does not tell what it was"
        refusal = former.refusal
        if refusal is None and self._had_children(record.id):
            refusal = "continuations waited for it, and its delete decided them"
        if refusal is not None:
            return refusal
        now = self.clock.now()
        expires_at = self.retention.until(former.state, now)
        return lifecycle.restore(record.id, former, at=now, reason=reason, expires_at=expires_at)

    def apply_unless_changed(self, changes: Sequence[Transition], seen: Sequence[JobRecord]) -> list[Applied]:
        """`Storage.apply`, but a job that is no longer stored as it was seen is left alone: REFUSED.

        A change in the one round trip between the look and that is not noticed.
        """
        stored = self.storage.get([change.job_id for change in changes])
        is_as_seen = [one is None or one == former for one, former in zip(stored, seen, strict=True)]
        wanted = [change for change, is_same in zip(changes, is_as_seen, strict=True) if is_same]
        answers = iter(self.storage.apply(wanted) if wanted else ())
        return [next(answers) if is_same else Applied.REFUSED for is_same in is_as_seen]

    def _had_children(self, job_id: str) -> bool:
        page = self.storage.find(JobFilter(parent_id=job_id), limit=1)
        while not page.jobs and page.cursor is not None:  # a page may be empty and not the last
            page = self.storage.find(JobFilter(parent_id=job_id), limit=1, cursor=page.cursor)
        return bool(page.jobs)

    # ---- results -----------------------------------------------------------------------------------------

    def wait_for_end(self, job_id: str) -> Future[Observation]:
        """Return a future of the read that sees the job ended, or gone; StorageError where this is closed."""
        return self.access.results.wait_for(job_id)

    def forget_wait(self, job_id: str, future: Future[Observation]) -> None:
        """Nobody waits for this future any more."""
        self.access.results.forget(job_id, future)

    def decode_result(self, record: JobRecord) -> object:
        """Return the result of a succeeded job.

        Raises:
            UnknownTask: its task is not registered here.
            ResultUnavailable: its serializer is not installed here.
        """
        info, serializer = self.registry.get(record.task), self.serializers.get(record.serializer)
        if info is None or serializer is None:
            raise _unreadable_result(record, is_known=info is not None)
        return self.registry.binder(info).decode_result_text(record.result or "", serializer)


class WrappedClient(Client):
    """A client whose jobs are made within what `enqueue_context` returns; another one looks for nothing."""

    def create(self, call: Call, reason: str | None = None) -> Job[Any]:
        """The call is stored as a job, within the plugins' contexts."""
        with self._contexts((call,)):
            return super().create(call, reason)

    async def acreate(self, call: Call) -> Job[Any]:
        """The call is stored as a job, within the plugins' contexts."""
        with self._contexts((call,)):
            return await super().acreate(call)

    def create_child(self, parent_id: str, call: Call, meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, within the plugins' contexts."""
        with self._contexts((call,), meta):
            return super().create_child(parent_id, call, meta)

    async def acreate_child(self, parent_id: str, call: Call, meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, within the plugins' contexts."""
        with self._contexts((call,), meta):
            return await super().acreate_child(parent_id, call, meta)

    def create_many(self, calls: Sequence[Call]) -> list[Job[Any]]:
        """Every call is checked, then all are stored, within the plugins' contexts."""
        if not calls:
            return []
        with self._contexts(calls):
            return super().create_many(calls)

    def create_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """As `create_many`, for one task and positional arguments."""
        return self.create_many([Call(info, options, args, {}) for args in _each_positional(calls)])

    @contextmanager
    def _contexts(self, calls: Sequence[Call], inherited: Mapping[str, str] = NO_META) -> Iterator[None]:
        task = calls[0].info if len({call.info.name for call in calls}) == 1 else None
        told = [TaskCall(call.info.name, call.args, call.kwargs, call.options.given()) for call in calls]
        refusal: BaseException | None = None
        with ExitStack() as contexts:
            for context in self.plugins.enqueue_contexts(task, told, inherited):
                contexts.enter_context(context)
            try:
                yield
            except BaseException as error:
                refusal = error
                raise
        if refusal is not None:  # a context has swallowed it, and there is no job to return
            raise refusal


def _unreadable_result(record: JobRecord, *, is_known: bool) -> FirelockError:
    if not is_known:
        return UnknownTask(
            f"The result of job {record.id} cannot be read: task {record.task!r} is not registered here."
        )
    return ResultUnavailable(
        f"The result of job {record.id} was stored by the serializer {record.serializer!r}, which is not "
        "installed here."
    )


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ScheduleError(
            f"at={value!r} is no datetime; pass an aware one: datetime.now(UTC) + timedelta(hours=1)."
        )
    bare = value if value.utcoffset() is not None else value.replace(tzinfo=None)
    if bare.tzinfo is not None and not _FIRST <= micros(bare) <= _LAST:
        raise ScheduleError(f"{value.isoformat()} lies outside of the years 1 to 9999, in UTC.")
    return bare


def _delay(value: timedelta | float, now: int) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, timedelta) and not (is_number and abs(value) < math.inf):
        raise ScheduleError(f"Delay {shown(value)} is refused; pass a timedelta or a number of seconds.")
    span = value if not isinstance(value, timedelta) else span_micros(value) / SECOND
    if span < 0:
        raise ScheduleError(f"Delay {shown(value)} is negative; pass zero or more.")
    if span > (_LAST - now) / SECOND:
        raise ScheduleError(f"Delay {shown(value)} ends after the year 9999; pass a shorter one.")
    return span_micros(value) if isinstance(value, timedelta) else int(value * SECOND)


def _each_positional(calls: Iterable[Sequence[object]]) -> list[tuple[object, ...]]:
    """Return the arguments of each call; a text or mapping, which would be taken apart, is refused."""
    given = list(calls) if isinstance(calls, Iterable) and not isinstance(calls, str | bytes) else [calls]
    for args in given:
        if not isinstance(args, tuple | list):
            raise TaskError(
                f"enqueue_many takes a tuple of arguments for each job, not {args!r}: "
                "task.enqueue_many([(1,), (2,)])."
            )
    return [tuple(args) for args in given]


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return plain tags after the same checks as formatted ones; braces are ordinary characters here."""
    return format_tags([tag.replace("{", "{{").replace("}", "}}") for tag in tags], {}, defaults={})


async def _insert_within(storage: Storage, job: NewJob, within: object) -> None:
    """Store within a caller's transaction: an AsyncSession runs it in its own greenlet, others at once."""
    run_sync = getattr(within, "run_sync", None)
    if run_sync is None:
        storage.insert((job,), within=within)
    else:
        await run_sync(lambda session: storage.insert((job,), within=session))


_LARGEST = 500


class GroupCommit:
    """One thread an app, started by the first await; it stores what gathered since its last round trip."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._waiting: list[tuple[NewJob, asyncio.Future[None]]] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._telling: WeakSet[asyncio.AbstractEventLoop] = WeakSet()  # loops that will tell the thread
        self._is_ready = False  # the thread has been told

    async def insert(self, job: NewJob) -> None:
        """The job is stored. A cancelled await may have stored it or not; its id tells.

        Raises:
            StorageError: it is not stored.
        """
        import asyncio  # noqa: PLC0415 - loaded when first used

        if self._pid != os.getpid():  # the thread of before a fork is the parent's
            self._reset()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._condition:
            if self._is_closed:
                raise StorageError("This Firelock is closed; make a new one.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-enqueue", daemon=True)
                self._thread.start()
            self._waiting.append((job, future))
            if loop not in self._telling:  # at the end of its turn: who awaits in the same turn is in it
                self._telling.add(loop)
                loop.call_soon(self._tell, loop)
        await future

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._condition:
            self._telling.discard(loop)
            self._is_ready = True
            self._condition.notify()

    def close(self) -> None:
        """What waits is stored and the thread has ended."""
        if self._pid != os.getpid():
            return
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._is_ready:
                    if self._is_closed and not self._waiting:
                        return
                    if self._is_closed:
                        break
                    self._condition.wait()
                batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
                self._is_ready = bool(self._waiting)
            if not batch:
                continue
            self._answer(batch, self._store(batch))

    def _store(self, batch: list[tuple[NewJob, asyncio.Future[None]]]) -> list[Exception | None]:
        try:
            insert_surely(self._storage, [job for job, _ in batch])
        except StorageUnavailable as error:  # one by one they would meet the same outage, each for its time
            return [_another(error) for _ in batch]
        except Exception as error:  # noqa: BLE001 - it goes to whoever awaits
            if len(batch) == 1:
                return [error]
            # One bad job, such as a continuation of an unknown parent, must not refuse its neighbours.
            return [answer for entry in batch for answer in self._store([entry])]
        return [None] * len(batch)

    def _answer(
        self, batch: list[tuple[NewJob, asyncio.Future[None]]], errors: list[Exception | None]
    ) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
        for (_, future), error in zip(batch, errors, strict=True):
            loops.setdefault(future.get_loop(), []).append((future, error))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:  # the loop was closed meanwhile; nobody awaits any more
                continue


def _another(error: StorageUnavailable) -> StorageUnavailable:
    """Return the error once more: each await raises one of its own, with its own traceback."""
    other = StorageUnavailable(*error.args)
    other.is_untouched = error.is_untouched
    other.__cause__ = error
    return other


def _resolve(answers: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


_FIRST_LOOK, _LONGEST = 0.005, 0.25
_IDS_A_CALL = 500


class Results:
    """Shared by every `result()` of an app. Reads come 5 ms after a wait began, then less and less often."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._waiting: dict[str, list[Future[Observation]]] = {}
        self._interval = _FIRST_LOOK
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def wait_for(self, job_id: str) -> Future[Observation]:
        """Return a future of the look that sees the job ended, or gone.

        Raises:
            StorageError: the app is closed.
        """
        if self._pid != os.getpid():  # the thread of before a fork is the parent's
            self._reset()
        future: Future[Observation] = Future()
        with self._condition:
            if self._is_closed:
                raise StorageError("This Firelock is closed; make a new one.")
            self._waiting.setdefault(job_id, []).append(future)
            self._interval = _FIRST_LOOK
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-results", daemon=True)
                self._thread.start()
            self._condition.notify()
        return future

    def forget(self, job_id: str, future: Future[Observation]) -> None:
        """Nobody waits for this future any more."""
        with self._condition:
            others = [each for each in self._waiting.pop(job_id, ()) if each is not future]
            if others:
                self._waiting[job_id] = others

    def close(self) -> None:
        """The thread has ended; who still waits is told so by a `StorageError`."""
        if self._pid != os.getpid():
            return
        with self._condition:
            self._is_closed = True
            thread, ids = self._thread, list(self._waiting)
            self._condition.notify()
        error = StorageError("This Firelock was closed while a result was awaited.")
        self._answer(dict.fromkeys(ids, error))
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._is_closed or not self._waiting:
                    self._thread = None
                    return
                self._condition.wait(self._interval)
                self._interval = min(_LONGEST, self._interval * 1.3)
                ids = list(self._waiting)
            for start in range(0, len(ids), _IDS_A_CALL):
                self._look(ids[start : start + _IDS_A_CALL])

    def _look(self, ids: list[str]) -> None:
        began = next(reads)
        try:
            records = self._storage.get(ids)
        except StorageUnavailable:
            return  # the waits go on; their own timeouts end them
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            self._answer(dict.fromkeys(ids, error))
            return
        ended = {
            job_id: Observation(began, record)
            for job_id, record in zip(ids, records, strict=True)
            if record is None or record.is_final
        }
        self._answer(ended)

    def _answer(self, ended: Mapping[str, Observation | Exception]) -> None:
        with self._condition:
            answers = [
                (future, ended[job_id]) for job_id in ended for future in self._waiting.pop(job_id, [])
            ]
        for future, answer in answers:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(answer, Observation):
                future.set_result(answer)
            else:
                future.set_exception(answer)
