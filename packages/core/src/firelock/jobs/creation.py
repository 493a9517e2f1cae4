"""The side that creates jobs and never runs them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from firelock.arguments.references import check_made_of, holds_output, sources_in
from firelock.arguments.tags import MAX_TAGS, check_tags, format_tags
from firelock.arguments.templates import names_in
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    DuplicateJob,
    FirelockError,
    JobNotFound,
    ResultUnavailable,
    ScheduleError,
    StorageError,
    StorageUnavailable,
    TaskError,
    UnknownTask,
    UnsupportedFeature,
)
from firelock.jobs.dependencies import (
    Tie,
    tie_to_batch,
    tie_to_outputs,
    tie_to_parent,
    tie_to_sources,
)
from firelock.jobs.group_commit import insert_surely
from firelock.jobs.job import Job, Observation
from firelock.jobs.storage_access import StorageAccess
from firelock.limits.keys import check_known
from firelock.limits.unique import Debounce
from firelock.model import lifecycle
from firelock.model.aio import in_thread
from firelock.model.answers import Duplicate
from firelock.model.clock import SECOND, micros, span_micros
from firelock.model.job import JobRecord, NewJob
from firelock.model.meta import NO_META, check_meta, write_meta
from firelock.model.state import State
from firelock.model.storage import Feature
from firelock.model.text import shown
from firelock.options import Call, CallOptions, TaskInfo
from firelock.plugins.hookspecs import TaskCall
from firelock.storage import Applied, JobFilter, Storage
from firelock.storage.batches import end_of

if TYPE_CHECKING:
    from firelock.arguments.references import Reference
    from firelock.arguments.serializer import JsonValue, Serializer
    from firelock.arguments.signature import Binder
    from firelock.limits.keys import Asked, KeyMaker
    from firelock.model.answers import Inserted
    from firelock.model.job import ClaimedJob, JobRecord, Transition
    from firelock.model.lifecycle import Retention
    from firelock.plugins.loader import Plugins
    from firelock.task import Registry

log = logging.getLogger("firelock.client")  # not below firelock.jobs, the logger of failed attempts

P = ParamSpec("P")
R = TypeVar("R")

_is_awaited = ContextVar("firelock_is_awaited", default=False)  # this thread works for an async verb

RELEASE_LIMIT = 1_000
_TELLING, _LOOK_AGAIN = 1.0, 0.01  # seconds
CHUNK = 500  # jobs of one call that share an atomic step
_NO_KEYWORDS: Mapping[str, object] = {}
_FIRST = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


class Client:
    """Makes jobs from calls and stores them; shared by every task and handle of an app."""

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

    def create(self, call: Call[Any], reason: str | None = None) -> Job[Any]:
        """The call is stored as a job; `reason` is what its history says of its creation."""
        job = self._new_job(call)
        if reason is not None:
            job.reason = reason
        try:
            return self.store(job, self.transaction(call.options.within))
        except JobNotFound as error:
            _explain(error, (call,))
            raise

    async def acreate(self, call: Call[Any], reason: str | None = None) -> Job[Any]:
        """The call is stored as a job, together with those of other coroutines that await at this moment."""
        await self._read_clock()
        return await self._acreate(call, reason=reason)

    async def _acreate(
        self,
        call: Call[Any],
        inherited: Mapping[str, str] = NO_META,
        tie: Tie | None = None,
        reason: str | None = None,
    ) -> Job[Any]:
        job = self._new_job(call, inherited, tie, lambda: call.options.within)
        if reason is not None:
            job.reason = reason
        try:
            return await self.astore(job, call.options.within)
        except JobNotFound as error:
            await in_thread(_explain, error, (call,))
            raise

    def create_child(self, parent_id: str, call: Call[Any], meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation of a job with this meta."""
        job = self._new_job(call, meta, tie_to_parent(parent_id, call.options))
        try:
            return self.store(job, self.transaction(call.options.within))
        except JobNotFound as error:
            _explain(error, (call,))
            raise

    async def acreate_child(self, parent_id: str, call: Call[Any], meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, without blocking the event loop."""
        await self._read_clock()
        return await self._acreate(call, meta, tie_to_parent(parent_id, call.options))

    def new_child(
        self,
        parent_id: str,
        call: Call[Any],
        meta: Mapping[str, str],
        transaction: Callable[[], object | None],
    ) -> NewJob:
        """Return the continuation that the call makes, for that transaction; nothing is stored."""
        return self._new_job(call, meta, tie_to_parent(parent_id, call.options), transaction)

    def new_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Sequence[NewJob]]:
        """Return the members of a batch that the calls make, in runs of jobs that `create_alike` would make.

        Nothing is stored.
        """
        return self._new_members(calls, tie_to_batch(batch_id))

    def batch_meta(self, name: str) -> str | None:
        """Return what plugins have travel with a batch of that name, as it is stored."""
        return write_meta(self.plugins.batch_meta(name)) if self.plugins.has_batch_meta else None

    def create_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """As `create_many`, of members of a batch that is stored."""
        jobs = [job for run in self._new_members(calls, tie_to_batch(batch_id)) for job in run]
        return self._store_many(jobs, self._common_within(calls))

    def _new_members(self, calls: Sequence[Call[Any]], tie: Tie) -> list[Sequence[NewJob]]:
        """Return jobs of such a tie; what those of one task and the same options share is worked out once."""
        runs: list[Sequence[NewJob]] = []
        for first, *others in _runs_of_alike(calls):
            job = self._new_job(first, tie=tie)
            alike = self._likewise(others, job, tie) if others else ()
            runs.append((job, *alike))
            if len(alike) < len(others):
                runs += [(self._new_job(call, tie=tie),) for call in others]
        return runs

    def _likewise(self, calls: Sequence[Call[Any]], first: NewJob, tie: Tie) -> Sequence[NewJob]:
        """Return jobs that differ from the first one in arguments alone; none where that cannot be."""
        info, options = calls[0].info, calls[0].options
        is_odd = first.parents or info.has_admission or options.has_admission
        if not is_odd and self._differ_in_arguments(info, options):
            encode, serializer = self.registry.binder(info).encode_text, self.serializer
            try:
                texts = [encode(call.args, call.kwargs, serializer) for call in calls]
            except ArgumentError:
                texts = []  # an output is among them, or what is refused below
            if texts:
                shared = (*_shared(first), None, (), first.ties_json)
                ids = self.storage.new_ids(len(texts), tie.beside)
                return [NewJob(one, first.task, text, *shared) for one, text in zip(ids, texts, strict=True)]
        return ()

    async def acreate_member(self, call: Call[Any], batch_id: str) -> Job[Any]:
        """The call is stored as a member, without blocking the event loop."""
        await self._read_clock()
        return await self._acreate(call, tie=tie_to_batch(batch_id))

    async def _read_clock(self) -> None:
        if not self.clock.is_fresh:
            await in_thread(self.clock.now)

    def transaction(self, within: object | None) -> object | None:
        """Return the transaction that jobs become part of: the caller's, or what a plugin makes of it.

        An async verb joins none that it is not given, in whichever thread it does its work.
        """
        if not self.plugins.has_job_transaction or (within is None and _is_awaited.get()):
            return within
        chosen = self.plugins.job_transaction(self.storage, within)
        return within if chosen is None else chosen

    def store(self, job: NewJob, within: object | None = None) -> Job[Any]:
        """The job is stored as it is; return the handle of it, or of the job that has its unique key.

        Raises:
            DuplicateJob: another job has its unique key, and it is refused then.
            StorageError: nothing was stored.
        """
        answer = self.insert((job,), within)[0]
        if isinstance(answer, Duplicate):
            return Job(self, job, within is not None, answer.job_id, False)
        return Job(self, job, within is not None)

    async def astore(self, job: NewJob, within: object | None = None) -> Job[Any]:
        """The job is stored as it is, without blocking the event loop; return the handle as `store` does.

        Without `within` it joins no transaction: code on an event loop is in none.

        Raises:
            DuplicateJob: another job has its unique key, and it is refused then.
            StorageError: nothing was stored.
        """
        self.check_makes_jobs()
        try:
            if within is None:
                answer = await self.access.group_commit.insert(job)
            else:
                answer = await _insert_within(self.storage, job, self.transaction(within))
        except DuplicateJob as error:
            self._name_holder(error, (job,))
            raise
        if isinstance(answer, Duplicate):
            return Job(self, job, within is not None, answer.job_id, False)
        if self.plugins.has_jobs_created:
            self.plugins.jobs_created((job,))
        return Job(self, job, within is not None)

    # ---- many --------------------------------------------------------------------------------------------

    async def acreate_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """`create_many` without blocking the event loop."""
        return await _awaited(self.create_many, calls)

    async def acreate_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """`create_alike` without blocking the event loop."""
        return await _awaited(self.create_alike, info, options, calls)

    async def acreate_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """`create_members` without blocking the event loop."""
        return await _awaited(self.create_members, calls, batch_id)

    def create_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """Every call is checked, then all are stored in order, 500 at a time, each chunk atomic."""
        within = self._common_within(calls)
        jobs = [self._new_job(call) for call in calls]
        try:
            return self._store_many(jobs, within)
        except JobNotFound as error:
            _explain(error, calls)
            raise

    def create_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """As `create_many` for one task and positional arguments: what the jobs share is worked out once."""
        positional = _each_positional(calls)
        if not self._differ_in_arguments(info, options):
            return self.create_many([Call(info, options, args, {}) for args in positional])
        if not positional:
            return []
        try:
            if info.has_admission or options.has_admission:
                return self._create_keyed(info, options, positional)
            return self._create_plain(info, options, positional)
        except ArgumentError:
            if not holds_output(positional):
                raise
        return self.create_many([Call(info, options, args, {}) for args in positional])

    def _differ_in_arguments(self, info: TaskInfo, options: CallOptions) -> bool:
        """Tell whether calls by these options make jobs that differ in arguments and keys alone."""
        return not (self.plugins.has_job_options or info.tags or options.tags or options.after or options.on)

    def _create_plain(
        self, info: TaskInfo, options: CallOptions, positional: Sequence[tuple[object, ...]]
    ) -> list[Job[Any]]:
        """As `create_alike`, of jobs that ask for nothing."""
        first = self._new_job(Call(info, options, positional[0], _NO_KEYWORDS))
        encode, serializer = self.registry.binder(info).encode_text, self.serializer
        shared = _shared(first)
        # Every call is checked before the first is stored. Texts wait for that rather than jobs, and handles
        # share one job, since each object that lives on is one more for the garbage collector to look at.
        texts = [encode(args, _NO_KEYWORDS, serializer) for args in positional]
        ids = self.storage.new_ids(len(texts))
        within = self.transaction(options.within)
        for start in range(0, len(texts), CHUNK):
            pairs = zip(ids[start : start + CHUNK], texts[start : start + CHUNK], strict=True)
            self.insert([NewJob(job_id, first.task, text, *shared) for job_id, text in pairs], within)
        is_within = within is not None
        return [Job(self, first, is_within, job_id) for job_id in ids]

    def _create_keyed(
        self, info: TaskInfo, options: CallOptions, positional: Sequence[tuple[object, ...]]
    ) -> list[Job[Any]]:
        """As `create_alike`, of jobs whose keys are their own, and so their handles."""
        first = self._new_job(Call(info, options, positional[0], _NO_KEYWORDS))
        binder, keys, serializer = self.registry.binder(info), info.keys(options), self.serializer
        start_before = info.start_before if options.start_before is None else options.start_before
        defaults = binder.defaults
        shared = _shared(first)
        texts, asks = list[str](), list["Asked"]()
        for args in positional:
            arguments, text = binder.encode_both(args, _NO_KEYWORDS, serializer)
            texts.append(text)
            asks.append(keys.asked(arguments, defaults, start_before))
        ids = self.storage.new_ids(len(texts), [asked.beside for asked in asks])
        within = self.transaction(options.within)
        is_within = within is not None
        handles: list[Job[Any]] = []
        alike: dict[str | None, NewJob] = {}  # handles share one of those that ask the same
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            jobs = [
                NewJob(job_id, first.task, text, *(*shared, asked.text))
                for job_id, text, asked in zip(ids[part], texts[part], asks[part], strict=True)
            ]
            for job, answer in zip(jobs, self.insert(jobs, within), strict=True):
                shows = alike.setdefault(job.admission_json, job)
                holder = answer.job_id if isinstance(answer, Duplicate) else None
                handles.append(Job(self, shows, is_within, holder or job.id, holder is None))
        return handles

    def _store_many(self, jobs: list[NewJob], within: object | None) -> list[Job[Any]]:
        within = self.transaction(within)
        is_within = within is not None
        handles: list[Job[Any]] = []
        for start in range(0, len(jobs), CHUNK):
            chunk = jobs[start : start + CHUNK]
            for job, answer in zip(chunk, self.insert(chunk, within), strict=True):
                holder = answer.job_id if isinstance(answer, Duplicate) else None
                handles.append(Job(self, job, is_within, holder, holder is None))
        return handles

    def insert(self, jobs: Sequence[NewJob], within: object | None) -> Sequence[bool | Duplicate]:
        """The jobs are stored, or none, and plugins are told; return what became of each."""
        self.check_makes_jobs()
        try:
            inserted = (
                insert_surely(self.storage, jobs)
                if within is None
                else self.storage.insert(jobs, within=within)
            )
        except DuplicateJob as error:
            self._name_holder(error, jobs)
            raise
        if self.plugins.has_jobs_created:
            self.tell_created(jobs, inserted.is_new)
        return inserted.is_new

    def tell_created(self, jobs: Sequence[NewJob], answers: Sequence[bool | Duplicate]) -> None:
        """Plugins are told of the jobs, but of those that were not stored, as another one has their key."""
        if not self.plugins.has_jobs_created:
            return
        stored = [job for job, answer in zip(jobs, answers, strict=True) if not isinstance(answer, Duplicate)]
        if stored:
            self.plugins.jobs_created(stored)

    def _name_holder(self, error: DuplicateJob, jobs: Sequence[NewJob]) -> None:
        """The error has the handle of the job that has the key; of a single call it shows that call."""
        shows: NewJob | JobRecord | None = jobs[0]
        if len(jobs) > 1:
            with suppress(StorageError):
                shows = self.storage.get((error.job_id,))[0]
        error.job = Job(self, shows or jobs[0], job_id=error.job_id, is_new=False)

    def _common_within(self, calls: Iterable[Call[Any]]) -> object | None:
        found = {id(call.options.within): call.options.within for call in calls}
        if len(found) > 1:
            raise ConfigurationError(
                "The calls of one enqueue_many name different transactions; give each its own call."
            )
        return next(iter(found.values()), None)

    # ---- building ----------------------------------------------------------------------------------------

    def _new_job(
        self,
        call: Call[Any],
        inherited: Mapping[str, str] = NO_META,
        tie: Tie | None = None,
        transaction: Callable[[], object | None] | None = None,
    ) -> NewJob:
        """Return the job of a call.

        Args:
            call: of a task.
            inherited: the meta of the job that it continues.
            tie: what it is to other jobs.
            transaction: returns the transaction that the job will be stored in, if that is not the one of
                `transaction(call.options.within)`; called only if the job waits for one that may be
                uncommitted.
        """
        info, options = call.info, call.options
        binder = self.registry.binder(info)
        if self.plugins.has_job_options:
            options = self._ask_plugins(call)
        if options.on is not None or options.after is not None:
            chosen = transaction or partial(self.transaction, call.options.within)
            tie = tie_to_sources(call.options, tie or Tie(), chosen)
        try:
            arguments, text = binder.encode_both(call.args, call.kwargs, self.serializer)
        except ArgumentError:  # the one way in which outputs among them show: calls without any pay nothing
            if not holds_output((*call.args, *call.kwargs.values())):
                raise
            arguments, text, references = binder.encode_references(call.args, call.kwargs, self.serializer)
            chosen = transaction or partial(self.transaction, call.options.within)
            tie = tie_to_outputs(call.options, tie or Tie(), references, chosen)
            _check_known(info, options, references)
        now = self.clock.now()
        due_at = nominal_at = self._due_at(options, now)
        is_later = due_at is not None and due_at > now
        queue, priority = options.queue, options.priority
        state = State.SCHEDULED if is_later else State.ENQUEUED
        tags = self._tags(binder, info, arguments, options.tags or ()) if info.tags or options.tags else ()
        retry = None if options.retry is None else options.retry.to_json()
        meta = options.meta
        if inherited:
            meta = {**inherited, **(meta or {})}
        beside, admission = None if tie is None else tie.beside, None
        if info.has_admission or options.has_admission:
            asked = self._asked(binder, info, options, arguments, is_child=tie is not None and tie.is_child)
            beside, admission = beside or asked.beside, asked.text
            wait = asked.first_wait
            if wait is not None:
                state, is_later, due_at = State.SCHEDULED, True, now + wait
        job = NewJob(
            self.storage.new_ids(1, beside)[0], info.name, text, self.serializer.name,
            info.queue if queue is None else queue, info.priority if priority is None else priority,
            state, now, due_at if is_later else None, nominal_at, None, tags, options.timeout, retry, None,
            None if meta is None else write_meta(meta), admission,
        )  # fmt: skip
        if tie is not None:
            tie.bind(job)
        return job

    def _asked(
        self,
        binder: Binder,
        info: TaskInfo,
        options: CallOptions,
        arguments: Mapping[str, JsonValue],
        *,
        is_child: bool,
    ) -> Asked:
        """Return what the call asks before its job is stored, or starts.

        Raises:
            UnsupportedFeature: the storage does not offer it.
            ConfigurationError: numbers that no task declares, or a debounced call that says when it runs.
            ArgumentError: the arguments make no key, or no cost.
        """
        keys = info.keys(options)
        if options.limits:
            check_known(options.limits, self.registry.declared_limits())
        start_before = info.start_before if options.start_before is None else options.start_before
        self._check_offered(keys, start_before)
        if isinstance(keys.unique, Debounce) and (
            is_child or options.delay is not None or options.at is not None
        ):
            other = "waits for a parent" if is_child else "has a delay or an instant of its own"
            raise ConfigurationError(
                f"{keys.unique!r} says when a job runs, so it cannot be one that {other}. Leave that out, or "
                "call it through using(unique=False)."
            )
        return keys.asked(arguments, binder.defaults, start_before)

    def _check_offered(self, keys: KeyMaker, start_before: object) -> None:
        offered = self.storage.features
        if Feature.LIMITS in offered and Feature.UNIQUE in offered:
            return
        wanted = [Feature.LIMITS] * bool(keys.limits) + [Feature.UNIQUE] * (keys.unique is not None)
        if start_before is not None and not offered & {Feature.LIMITS, Feature.UNIQUE}:
            wanted.append(Feature.LIMITS)  # a deadline needs one that keeps what a job asks
        if missing := [feature for feature in wanted if feature not in offered]:
            raise UnsupportedFeature(
                f"The storage {self.storage.url} does not offer {missing[0]}. Leave limits, unique and "
                "start_before out, or use a storage that has them."
            )

    # ---- jobs that a job calls ---------------------------------------------------------------------------

    def called_jobs(self, calls: Sequence[Call[Any]], caller: ClaimedJob) -> list[NewJob]:
        """Return the jobs of calls that a job makes and waits for, to lie where it does; nothing is stored.

        They have its `meta`, as continuations have that of their parent.

        Raises:
            ConfigurationError: an option has no meaning for a called job.
        """
        for call in calls:
            if call.options.within is not None:
                raise ConfigurationError(
                    "A called job is stored by itself, before its caller waits for it; within cannot be "
                    "given with run() or gather()."
                )
        return [self._new_job(call, caller.meta, Tie(caller_id=caller.id)) for call in calls]

    def recurring_arguments(self, call: Call[Any]) -> NewJob:
        """Return a job as each run of a recurring job would be, never stored itself.

        Raises:
            ConfigurationError: an option has no meaning for a recurring job.
        """
        if meaningless := sorted(call.options.given().keys() & {"delay", "at", "on", "within", "after"}):
            raise ConfigurationError(
                f"A recurring job takes no {meaningless[0]}; its schedule says when it runs."
            )
        unique = call.info.keys(call.options).unique if call.info.unique or call.options.unique else None
        if isinstance(unique, Debounce):
            raise ConfigurationError(
                f"A recurring job takes no {unique!r}; its schedule says when it runs. Declare it with "
                "using(unique=False), or a Unique."
            )
        before = call.info.start_before if call.options.start_before is None else call.options.start_before
        if isinstance(before, datetime):
            raise ConfigurationError(
                f"A recurring job takes no start_before={before.isoformat()}, which passes once for all of "
                "its runs; give a timedelta."
            )
        if holds_output((*call.args, *call.kwargs.values())):
            raise ConfigurationError(
                "A recurring job takes no output of another job, which is there once; pass a value."
            )
        return self._new_job(call)

    def _ask_plugins(self, call: Call[Any]) -> CallOptions:
        given = call.options.given()
        chosen = self.plugins.job_options(call.info, TaskCall(call.info.name, call.args, call.kwargs, given))
        if callers := sorted(chosen.keys() & {"on", "within", "after"}):
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

    def _tags(
        self, binder: Binder, info: TaskInfo, arguments: Mapping[str, JsonValue], given: Sequence[str]
    ) -> tuple[str, ...]:
        own = format_tags(info.tags, arguments, defaults=binder.defaults)
        tags = tuple(dict.fromkeys((*own, *check_tags(given))))
        if len(tags) > MAX_TAGS:
            raise ConfigurationError(
                f"{len(tags)} tags; a job has at most {MAX_TAGS}, its task's and the call's together."
            )
        return tags

    def tell_batches_soon(self, batch_id: str | None) -> None:
        """A batch and those around it are open, or have ended, by what their members are now.

        Looks for a second at most, at each; what another process has under its lock then is told by that one.
        """
        try:
            while batch_id is not None:
                batch_id = self._tell_batch(batch_id, until=time.monotonic() + _TELLING)
        except StorageUnavailable as error:
            log.warning("Batches are told by the next sweep of a server: %s", error)

    def _tell_batch(self, batch_id: str, *, until: float) -> str | None:
        """The batch is as its tally says; return the id of the one around it, if there is one."""
        while True:
            record, tally = self.storage.get((batch_id,))[0], self.storage.tally((batch_id,))[0]
            if record is None or tally is None:
                return None
            if record.state in {State.DELETED, end_of(tally)} or time.monotonic() > until:
                return None if record.ties is None else record.ties.batch_id
            if not self.storage.release(RELEASE_LIMIT):
                time.sleep(_LOOK_AGAIN)  # another process has it

    def release_children_soon(self) -> None:
        """Continuations that a change set free are moved: by upkeep where the storage has gone away since."""
        try:
            self.storage.release(RELEASE_LIMIT)
        except StorageUnavailable as error:
            log.warning("Continuations wait for the next sweep of a server: %s", error)

    def restoration(self, record: JobRecord, *, reason: str) -> Transition | str:
        """Return the change that takes the job's delete back, or why nothing can, as the rest of a sentence.

        Reads the job's history, and whether it had continuations. Both may be those of a later delete: apply
        the change by `apply_unless_changed`.
        """
        if record.state is not State.DELETED:
            return f"it is {record.state}, not deleted"
        if record.is_batch:
            return "it is a batch, and a cancelled one stays so"
        former = lifecycle.former(self.storage.history(record.id).entries)
        if former is None:
            return "its history does not tell what it was"
        refusal = former.refusal
        if refusal is None and self._is_of_cancelled(record):
            refusal = "its batch was cancelled, which is for good"
        if refusal is None and self._had_children(record.id):
            refusal = "continuations waited for it, and its delete decided them"
        if refusal is not None:
            return refusal
        now = self.clock.now()
        expires_at = self.retention.until(former.state, now)
        return lifecycle.restore(record.id, former, at=now, reason=reason, expires_at=expires_at)

    def _is_of_cancelled(self, record: JobRecord) -> bool:
        ties = record.ties
        if ties is None or ties.batch_id is None:
            return False
        tally = self.storage.tally((ties.batch_id,))[0]
        return tally is not None and tally.is_cancelled

    def refusal(self, record: JobRecord, done: str) -> str:
        """Return why the storage has refused to make the job that, as the rest of a sentence."""
        if done == "deleted":
            return "it is already"
        why = self.why_not_requeued(record) if done == "requeued" else None
        return why or "it was changed meanwhile"

    def why_not_requeued(self, record: JobRecord) -> str | None:
        """Return why a job cannot be requeued as it is, as the rest of a sentence; None where it can."""
        if record.is_batch:
            return "a batch is never run; requeue its members"
        if record.state in {State.ENQUEUED, State.PROCESSING}:
            return f"it is {record.state} and runs anyway"
        if self._is_of_cancelled(record):
            return "its batch was cancelled, which is for good"
        if record.state is State.AWAITING and record.ties is not None and record.ties.inputs:
            return "it waits for the output of another job, without which it cannot run"
        return None

    def taken_words(self, record: JobRecord) -> str:
        """Return which job has the unique key of one that cannot be run again therefore, and what to do."""
        admission = record.admission
        use = None if admission is None else admission.unique
        if use is None:  # it has been replaced since
            return f"Job {record.id} cannot be run again: another job has its unique key."
        found = self.storage.find_unique(use.key, limit=1)
        holder = found[0].job_id if found and found[0].key == use.key else "another"
        return (
            f"Job {holder} holds key {use.key.partition(' ')[2]!r} of {record.task}, so that job {record.id} "
            "cannot be run again now. Wait until that one has ended, or delete it."
        )

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

    def create(self, call: Call[Any], reason: str | None = None) -> Job[Any]:
        """The call is stored as a job, within the plugins' contexts."""
        with self._contexts((call,)):
            return super().create(call, reason)

    async def acreate(self, call: Call[Any], reason: str | None = None) -> Job[Any]:
        """The call is stored as a job, within the plugins' contexts."""
        with self._contexts((call,)):
            return await super().acreate(call, reason)

    def create_child(self, parent_id: str, call: Call[Any], meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, within the plugins' contexts."""
        with self._contexts((call,), meta):
            return super().create_child(parent_id, call, meta)

    async def acreate_child(self, parent_id: str, call: Call[Any], meta: Mapping[str, str]) -> Job[Any]:
        """The call is stored as a continuation, within the plugins' contexts."""
        with self._contexts((call,), meta):
            return await super().acreate_child(parent_id, call, meta)

    def called_jobs(self, calls: Sequence[Call[Any]], caller: ClaimedJob) -> list[NewJob]:
        """Return the jobs of calls that a job makes, made within the plugins' contexts."""
        with self._contexts(calls, caller.meta) as made:
            made.extend(super().called_jobs(calls, caller))
            return made

    def new_child(
        self,
        parent_id: str,
        call: Call[Any],
        meta: Mapping[str, str],
        transaction: Callable[[], object | None],
    ) -> NewJob:
        """Return the continuation that the call makes, made within the plugins' contexts."""
        with self._contexts((call,), meta) as made:
            made.append(super().new_child(parent_id, call, meta, transaction))
            return made[0]

    def new_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Sequence[NewJob]]:
        """Return the members that the calls make, made within the plugins' contexts."""
        if not calls:
            return []
        with self._contexts(calls) as made:
            runs = super().new_members(calls, batch_id)
            made.extend(job for run in runs for job in run)
            return runs

    def create_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """Every call is checked, then all are stored as members, within the plugins' contexts."""
        if not calls:
            return []
        with self._contexts(calls):
            return super().create_members(calls, batch_id)

    async def acreate_member(self, call: Call[Any], batch_id: str) -> Job[Any]:
        """The call is stored as a member, within the plugins' contexts."""
        with self._contexts((call,)):
            return await super().acreate_member(call, batch_id)

    def create_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
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
    def _contexts(
        self, calls: Sequence[Call[Any]], inherited: Mapping[str, str] = NO_META
    ) -> Iterator[list[NewJob]]:
        """Yield a list for the jobs that are made within the plugins' contexts and stored behind them."""
        made: list[NewJob] = []
        task = calls[0].info if len({call.info.name for call in calls}) == 1 else None
        told = [TaskCall(call.info.name, call.args, call.kwargs, call.options.given()) for call in calls]
        refusal: BaseException | None = None
        with ExitStack() as contexts:
            for context in self.plugins.enqueue_contexts(task, told, inherited, made):
                contexts.enter_context(context)
            try:
                yield made
            except BaseException as error:
                refusal = error
                raise
        if refusal is not None:  # a context has swallowed it, and there is no job to return
            raise refusal


async def _awaited(verb: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what the verb returns, run in a thread in which it joins no transaction by itself."""
    token = _is_awaited.set(True)
    try:
        return await in_thread(verb, *args, **kwargs)
    finally:
        _is_awaited.reset(token)


def _explain(error: JobNotFound, calls: Iterable[Call[Any]]) -> None:
    """Raise `JobNotCommitted` if a job that the calls wait for was not found because it is not committed."""
    for call in calls:
        for source in (*(call.options.after or ()), *sources_in(call.args), *sources_in(call.kwargs)):
            source.explain(error)


def _runs_of_alike(calls: Sequence[Call[Any]]) -> Iterable[Iterable[Call[Any]]]:
    """Return the calls in runs of one task and the same options; of most there is one run."""
    info, options = calls[0].info, calls[0].options
    if all(call.info is info and call.options is options for call in calls):
        return (calls,)
    return [list(run) for _, run in groupby(calls, key=lambda call: (id(call.info), id(call.options)))]


def _shared(first: NewJob) -> tuple[Any, ...]:
    """Return the fields of a job, behind its arguments, that are those of all that are called alike."""
    return (
        first.serializer, first.queue, first.priority, first.state, first.created_at, first.due_at,
        first.nominal_at, None, (), first.timeout_seconds, first.retry, None, first.meta_json,
    )  # fmt: skip


def _check_known(info: TaskInfo, options: CallOptions, references: Sequence[Reference]) -> None:
    """Prove that neither tags nor keys of a job are made of outputs, which nobody knows yet.

    Raises:
        ArgumentError: one is.
    """
    for tag in info.tags:
        check_made_of(f"Tag {tag!r}", names_in("Tag", tag), references)
    keys = info.keys(options)
    for limit in keys.limits:
        check_made_of(f"Limit key {limit.key!r}", names_in("Limit key", limit.key), references)
        if isinstance(cost := getattr(limit, "cost", None), str):
            check_made_of(f"Cost {cost!r}", names_in("Cost", cost), references)
    if keys.unique is not None:
        key = keys.unique.key
        names = (None,) if key is None else names_in("Unique key", key)
        check_made_of(f"The key of {keys.unique!r}", names, references)


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


async def _insert_within(storage: Storage, job: NewJob, within: object) -> bool | Duplicate:
    """Store within a caller's transaction: an AsyncSession runs it in its own greenlet, others at once."""
    run_sync = getattr(within, "run_sync", None)
    if run_sync is None:
        return storage.insert((job,), within=within).is_new[0]
    inserted: Inserted = await run_sync(lambda session: storage.insert((job,), within=session))
    return inserted.is_new[0]
