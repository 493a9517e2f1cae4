"""Turn calls into jobs and store them: `Client`, which creates jobs but never runs them."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import thread
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import attrs

from firelock.arguments.references import check_made_of, holds_output, sources_in
from firelock.arguments.tags import MAX_TAGS, check_tags, format_tags
from firelock.arguments.templates import names_in
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    DuplicateJob,
    JobNotFound,
    ScheduleError,
    StorageError,
    TaskError,
    UnsupportedFeature,
)
from firelock.jobs.dependencies import (
    Dependencies,
    after_sources,
    child_of,
    member_of,
    with_outputs,
)
from firelock.jobs.group_commit import insert_surely, part_of_call
from firelock.jobs.job import Job
from firelock.jobs.storage_access import StorageAccess
from firelock.limits.keys import check_known
from firelock.limits.unique import Debounce
from firelock.model.aio import in_thread
from firelock.model.answers import Duplicate
from firelock.model.clock import SECOND, micros, span_micros
from firelock.model.job import JobRecord, NewJob
from firelock.model.meta import NO_META, check_meta, write_meta
from firelock.model.state import State
from firelock.model.storage import Feature
from firelock.model.text import did_you_mean, shown
from firelock.options import Call, CallOptions, TaskInfo
from firelock.plugins.hookspecs import TaskCall
from firelock.storage import Storage

if TYPE_CHECKING:
    from types import FrameType

    from firelock.arguments.references import Reference
    from firelock.arguments.serializer import JsonValue, Serializer
    from firelock.arguments.signature import Binder
    from firelock.limits.keys import CallAdmission
    from firelock.model.answers import Inserted
    from firelock.model.job import ClaimedJob, JobRecord
    from firelock.model.lifecycle import Retention
    from firelock.plugins.loader import Plugins
    from firelock.task import Registry

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_NO_PLACE = {threading.__file__, thread.__file__}  # source files of the first frames in a thread's stack
_is_awaited = ContextVar(
    "firelock_is_awaited", default=False
)  # whether this thread does the work of an async method

CHUNK = 500  # number of jobs of one call that are stored in one atomic operation
_NO_KEYWORDS: Mapping[str, object] = {}

# Calls that differ only in their arguments become jobs that share all fields after the first three. If the
# calls have keys, each job also has its own `admission_json`. The fields are passed by position, because
# keyword arguments would make a bulk enqueue 6 % slower.
_FIELDS = tuple(field.name for field in attrs.fields(NewJob))
if _FIELDS[:3] != ("id", "task", "arguments"):
    raise TypeError(f"NewJob must begin with id, task and arguments, but begins with {_FIELDS[:3]}.")
_SHARED = _FIELDS[3:]
_shared, _KEYS = attrgetter(*_SHARED), _SHARED.index("admission_json")

_FIRST = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


class Client:
    """The part of an app that creates and stores jobs; all its tasks and handles share it."""

    creates_no_jobs: ClassVar[list[Callable[[], str | None]]] = []
    """Checks that can forbid creating jobs in this process.

    Each returns the reason, or None if jobs may be created now.
    """

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
            near = did_you_mean(serializer, self.serializers)
            raise ConfigurationError(f"Serializer {serializer!r} is unknown. {near}Installed: {known}.")
        self.serializer = self.serializers[serializer]  # the serializer of new jobs
        self.retention = retention
        self.use(StorageAccess.of(storage))

    def use(self, access: StorageAccess) -> None:
        """Store jobs in this storage from now on. The caller must close the previous access object."""
        self.access = access
        self.storage, self.clock = access.storage, access.clock

    def check_creates_jobs(self, task: str) -> None:
        """Check that a job of the task may be created now.

        Raises:
            ConfigurationError: If the process is importing an application. Otherwise, every process that
                imports the application would create this job.
        """
        for forbidding in [*self.creates_no_jobs]:  # a copy, because an obsolete check removes itself
            if (reason := forbidding()) is not None:
                raise ConfigurationError(f"A job of {task} cannot be created{_callers_line()} {reason}")

    # ---- one job -----------------------------------------------------------------------------------------

    def create(
        self,
        call: Call[Any],
        reason: str | None = None,
        *,
        parent_id: str | None = None,
        inherited: Mapping[str, str] = NO_META,
    ) -> Job[Any]:
        """Store the call as a job.

        Args:
            call: the call of a task.
            reason: why the job was created, for its history.
            parent_id: the id of the job that it continues.
            inherited: the meta of that job.
        """
        dependencies = None if parent_id is None else child_of(parent_id, call.options)
        job = self._new_job(call, inherited, dependencies)
        if reason is not None:
            job.reason = reason
        try:
            return self.store(job, self.transaction(call.options.within))
        except JobNotFound as error:
            _explain(error, (call,))
            raise

    async def acreate(
        self,
        call: Call[Any],
        reason: str | None = None,
        *,
        parent_id: str | None = None,
        inherited: Mapping[str, str] = NO_META,
        batch_id: str | None = None,
    ) -> Job[Any]:
        """Store the call as a job without blocking the event loop.

        The job is stored together with the jobs that other coroutines await at the same time. With
        `batch_id`, it is a member of that batch.
        """
        if not self.clock.is_fresh:
            await in_thread(self.clock.now)
        dependencies = None
        if parent_id is not None:
            dependencies = child_of(parent_id, call.options)
        elif batch_id is not None:
            dependencies = member_of(batch_id)
        job = self._new_job(call, inherited, dependencies, lambda: call.options.within)
        if reason is not None:
            job.reason = reason
        try:
            return await self.astore(job, call.options.within)
        except JobNotFound as error:
            await in_thread(_explain, error, (call,))
            raise

    def new_child(
        self,
        parent_id: str,
        call: Call[Any],
        meta: Mapping[str, str],
        transaction: Callable[[], object | None],
    ) -> NewJob:
        """Return the continuation that the call creates in that transaction; nothing is stored."""
        return self._new_job(call, meta, child_of(parent_id, call.options), transaction)

    def new_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Sequence[NewJob]]:
        """Return the batch members that the calls create, in groups that share most of their fields.

        Nothing is stored.
        """
        return self._new_members(calls, batch_id)

    def batch_meta(self, name: str) -> str | None:
        """Return the metadata that plugins add to a batch of that name, in its stored form."""
        return write_meta(self.plugins.batch_meta(name)) if self.plugins.has_batch_meta else None

    def create_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """Store the calls as members of a stored batch, in the same way as `create_many`."""
        jobs = [job for run in self._new_members(calls, batch_id) for job in run]
        return self._store_many(jobs, self._common_within(calls))

    def _new_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Sequence[NewJob]]:
        """Return batch members; compute the fields that members with the same task and options share once."""
        dependencies = member_of(batch_id)
        runs: list[Sequence[NewJob]] = []
        for first, *others in _runs_of_alike(calls):
            job = self._new_job(first, dependencies=dependencies)
            alike = self._likewise(others, job, dependencies) if others else ()
            runs.append((job, *alike))
            if len(alike) < len(others):
                runs += [(self._new_job(call, dependencies=dependencies),) for call in others]
        return runs

    def _likewise(
        self, calls: Sequence[Call[Any]], first: NewJob, dependencies: Dependencies
    ) -> Sequence[NewJob]:
        """Return jobs that differ from the first one only in their arguments.

        The result is empty if such jobs are not possible.
        """
        info, options = calls[0].info, calls[0].options
        is_special = first.parents or info.has_admission or options.has_admission
        if not is_special and self._differ_in_arguments(info, options):
            encode, serializer = self.registry.binder(info).encode_text, self.serializer
            try:
                texts = [encode(call.args, call.kwargs, serializer) for call in calls]
            except ArgumentError:
                texts = []  # an argument is an output, or is invalid, which is reported when its job is built
            if texts:
                shared = _shared(first)
                ids = self.storage.new_ids(len(texts), dependencies.colocated_with)
                return [NewJob(one, first.task, text, *shared) for one, text in zip(ids, texts, strict=True)]
        return ()

    def transaction(self, within: object | None) -> object | None:
        """Return the transaction in which jobs are stored: the caller's, or the one that a plugin chooses.

        An async method joins only a transaction that its caller passed, regardless of the thread in which it
        works.
        """
        if not self.plugins.has_job_transaction or (within is None and _is_awaited.get()):
            return within
        chosen = self.plugins.job_transaction(self.storage, within)
        return within if chosen is None else chosen

    def store(self, job: NewJob, within: object | None = None) -> Job[Any]:
        """Store the job unchanged; return its handle, or the handle of the job that has its unique key.

        Raises:
            DuplicateJob: If another job has the job's unique key, and the key is set to refuse duplicates.
            StorageError: If the job was not stored.
        """
        answer = self.insert((job,), within)[0]
        if isinstance(answer, Duplicate):
            return Job(self, job, within is not None, answer.job_id, False)
        return Job(self, job, within is not None)

    async def astore(self, job: NewJob, within: object | None = None) -> Job[Any]:
        """Store the job unchanged, without blocking the event loop; return the same handle as `store`.

        Without `within`, the job is not stored in a transaction, because code on an event loop does not have
        one.

        Raises:
            DuplicateJob: If another job has the job's unique key, and the key is set to refuse duplicates.
            StorageError: If the job was not stored.
        """
        if self.creates_no_jobs:
            self.check_creates_jobs(job.task)
        try:
            if within is None:
                answer = await self.access.group_commit.insert(job)
            else:
                joined = self.transaction(within)
                run_sync = getattr(joined, "run_sync", None)  # an AsyncSession needs it for its greenlet
                if run_sync is None:
                    inserted: Inserted = self.storage.insert((job,), within=joined)
                else:
                    inserted = await run_sync(lambda session: self.storage.insert((job,), within=session))
                answer = inserted.is_new[0]
        except DuplicateJob as error:
            self._name_holder(error, (job,))
            raise
        if isinstance(answer, Duplicate):
            return Job(self, job, within is not None, answer.job_id, False)
        if self.plugins.has_jobs_created:
            self.plugins.jobs_created((job,))
        return Job(self, job, within is not None)

    # ---- several jobs ------------------------------------------------------------------------------------

    async def acreate_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """Call `create_many` without blocking the event loop."""
        return await _awaited(self.create_many, calls)

    async def acreate_alike(
        self, info: TaskInfo, options: CallOptions, calls: Iterable[Sequence[object]]
    ) -> list[Job[Any]]:
        """Call `create_alike` without blocking the event loop."""
        return await _awaited(self.create_alike, info, options, calls)

    async def acreate_members(self, calls: Sequence[Call[Any]], batch_id: str) -> list[Job[Any]]:
        """Call `create_members` without blocking the event loop."""
        return await _awaited(self.create_members, calls, batch_id)

    def create_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """Check every call, then store them all in order, in atomic chunks of 500."""
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
        """Store jobs of one task with positional arguments, in the same way as `create_many`.

        The fields that the jobs share are computed once.
        """
        positional = each_positional(calls)
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
        """Return whether calls with these options create jobs that differ only in arguments and keys."""
        return not (self.plugins.has_job_options or info.tags or options.tags or options.after or options.on)

    def _create_plain(
        self, info: TaskInfo, options: CallOptions, positional: Sequence[tuple[object, ...]]
    ) -> list[Job[Any]]:
        """Store jobs for `create_alike` that have no limits, unique key or deadline."""
        first = self._new_job(Call(info, options, positional[0], _NO_KEYWORDS))
        encode, serializer = self.registry.binder(info).encode_text, self.serializer
        # Every call is checked before the first job is stored. Until then, strings are kept instead of jobs,
        # and the handles of a chunk share one job, so that the garbage collector has fewer living objects to
        # visit.
        texts = [encode(args, _NO_KEYWORDS, serializer) for args in positional]
        ids = self.storage.new_ids(len(texts))
        within = self.transaction(options.within)
        is_within = within is not None
        handles: list[Job[Any]] = []
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            if start:
                first = attrs.evolve(first, created_at=self.clock.now())
            shared = _shared(first)
            pairs = zip(ids[part], texts[part], strict=True)
            with part_of_call(is_first=not start):
                self.insert([NewJob(job_id, first.task, text, *shared) for job_id, text in pairs], within)
            handles += [Job(self, first, is_within, job_id) for job_id in ids[part]]
        return handles

    def _create_keyed(
        self, info: TaskInfo, options: CallOptions, positional: Sequence[tuple[object, ...]]
    ) -> list[Job[Any]]:
        """Store jobs for `create_alike` that have their own keys and therefore their own handles."""
        first = self._new_job(Call(info, options, positional[0], _NO_KEYWORDS))
        binder, keys, serializer = self.registry.binder(info), info.keys(options), self.serializer
        start_before = info.start_before if options.start_before is None else options.start_before
        defaults = binder.defaults
        texts, asks = list[str](), list["CallAdmission"]()
        for args in positional:
            arguments, text = binder.encode_both(args, _NO_KEYWORDS, serializer)
            texts.append(text)
            asks.append(keys.asked(arguments, defaults, start_before))
        ids = self.storage.new_ids(len(texts), [asked.colocated_with for asked in asks])
        within = self.transaction(options.within)
        is_within = within is not None
        handles: list[Job[Any]] = []
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            if start:
                first = attrs.evolve(first, created_at=self.clock.now())
            shared = _shared(first)
            before, after = shared[:_KEYS], shared[_KEYS + 1 :]
            alike: dict[str | None, NewJob] = {}  # handles of jobs with the same keys share one of these jobs
            jobs = [
                NewJob(job_id, first.task, text, *(*before, asked.text, *after))
                for job_id, text, asked in zip(ids[part], texts[part], asks[part], strict=True)
            ]
            with part_of_call(is_first=not start):
                answers = self.insert(jobs, within)
            for job, answer in zip(jobs, answers, strict=True):
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
            with part_of_call(is_first=not start):
                answers = self.insert(chunk, within)
            for job, answer in zip(chunk, answers, strict=True):
                holder = answer.job_id if isinstance(answer, Duplicate) else None
                handles.append(Job(self, job, is_within, holder, holder is None))
        return handles

    def insert(self, jobs: Sequence[NewJob], within: object | None) -> Sequence[bool | Duplicate]:
        """Store all the jobs or none, and notify plugins; return the result for each job."""
        if self.creates_no_jobs and jobs:
            self.check_creates_jobs(jobs[-1].task)  # the first job can be a batch, which has no task
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
            self.notify_created(jobs, inserted.is_new)
        return inserted.is_new

    def notify_created(self, jobs: Sequence[NewJob], answers: Sequence[bool | Duplicate]) -> None:
        """Notify plugins of the created jobs.

        Jobs that were not stored, because another job has their unique key, are left out.
        """
        if not self.plugins.has_jobs_created:
            return
        stored = [job for job, answer in zip(jobs, answers, strict=True) if not isinstance(answer, Duplicate)]
        if stored:
            self.plugins.jobs_created(stored)

    def _name_holder(self, error: DuplicateJob, jobs: Sequence[NewJob]) -> None:
        """Add a handle of the job that has the key to the error; after a single call, it shows that call."""
        shows: NewJob | JobRecord | None = jobs[0]
        if len(jobs) > 1:
            with suppress(StorageError):
                shows = self.storage.get((error.job_id,))[0]
        error.job = Job(self, shows or jobs[0], job_id=error.job_id, is_new=False)

    def _common_within(self, calls: Iterable[Call[Any]]) -> object | None:
        found = {id(call.options.within): call.options.within for call in calls}
        if len(found) > 1:
            raise ConfigurationError(
                "The calls of one enqueue_many must all have the same within=; use one enqueue_many for each "
                "transaction."
            )
        return next(iter(found.values()), None)

    # ---- creation of one job -----------------------------------------------------------------------------

    def _new_job(
        self,
        call: Call[Any],
        inherited: Mapping[str, str] = NO_META,
        dependencies: Dependencies | None = None,
        transaction: Callable[[], object | None] | None = None,
    ) -> NewJob:
        """Return the job of a call.

        Args:
            call: the call of a task.
            inherited: the meta of the job that it continues.
            dependencies: its relations to other jobs.
            transaction: a function that returns the transaction in which the job will be stored; None for
                `transaction(call.options.within)`. It is called only if the job waits for a job that might be
                uncommitted.
        """
        info, options = call.info, call.options
        binder = self.registry.binder(info)
        if self.plugins.has_job_options:
            options = self._plugin_options(call)
        if options.on is not None or options.after is not None:
            chosen = transaction or partial(self.transaction, call.options.within)
            dependencies = after_sources(call.options, dependencies or Dependencies(), chosen)
        try:
            arguments, text = binder.encode_both(call.args, call.kwargs, self.serializer)
        except (
            ArgumentError
        ):  # search the arguments for outputs only here, so that other calls are not slowed down
            if not holds_output((*call.args, *call.kwargs.values())):
                raise
            arguments, text, references = binder.encode_references(call.args, call.kwargs, self.serializer)
            chosen = transaction or partial(self.transaction, call.options.within)
            dependencies = with_outputs(call.options, dependencies or Dependencies(), references, chosen)
            _check_keys_without_outputs(info, options, references)
        now = self.clock.now()
        due_at = nominal_at = _due_at(options, now)
        is_later = due_at is not None and due_at > now
        queue, priority = options.queue, options.priority
        state = State.SCHEDULED if is_later else State.ENQUEUED
        tags: tuple[str, ...] = ()
        if info.tags or options.tags:
            own = format_tags(info.tags, arguments, defaults=binder.defaults)
            tags = tuple(dict.fromkeys((*own, *check_tags(options.tags or ()))))
            if len(tags) > MAX_TAGS:
                raise ConfigurationError(
                    f"A job can have at most {MAX_TAGS} tags, including those of its task, got {len(tags)}."
                )
        retry = None if options.retry is None else options.retry.to_json()
        meta = options.meta
        if inherited:
            meta = {**inherited, **(meta or {})}
        colocated_with, admission = None if dependencies is None else dependencies.colocated_with, None
        if info.has_admission or options.has_admission:
            asked = self._asked(
                binder, info, options, arguments, is_child=dependencies is not None and dependencies.is_child
            )
            colocated_with, admission = colocated_with or asked.colocated_with, asked.text
            wait = asked.first_wait
            if wait is not None:
                state, is_later, due_at = State.SCHEDULED, True, now + wait
        job = NewJob(
            id=self.storage.new_ids(1, colocated_with)[0],
            task=info.name,
            arguments=text,
            serializer=self.serializer.name,
            queue=info.queue if queue is None else queue,
            priority=info.priority if priority is None else priority,
            state=state,
            created_at=now,
            due_at=due_at if is_later else None,
            nominal_at=nominal_at,
            tags=tags,
            timeout_seconds=options.timeout,
            retry=retry,
            meta_json=None if meta is None else write_meta(meta),
            admission_json=admission,
        )
        if dependencies is not None:
            dependencies.bind(job)
        return job

    def _asked(
        self,
        binder: Binder,
        info: TaskInfo,
        options: CallOptions,
        arguments: Mapping[str, JsonValue],
        *,
        is_child: bool,
    ) -> CallAdmission:
        """Return the limits, the unique key and the start deadline of the call.

        Raises:
            UnsupportedFeature: If the storage does not support limits, unique keys or deadlines.
            ConfigurationError: If a limit has settings that no task declares, or a debounced call also has
                a delay, a time or a parent.
            ArgumentError: If a key or a cost cannot be built from the arguments.
        """
        keys = info.keys(options)
        if options.limits:
            check_known(options.limits, self.registry.declared_limits())
        start_before = info.start_before if options.start_before is None else options.start_before
        offered = self.storage.features
        if not (Feature.LIMITS in offered and Feature.UNIQUE in offered):
            wanted = [Feature.LIMITS] * bool(keys.limits) + [Feature.UNIQUE] * (keys.unique is not None)
            if start_before is not None and not offered & {Feature.LIMITS, Feature.UNIQUE}:
                # A deadline is stored together with limits and keys, so one of the two features is needed.
                wanted.append(Feature.LIMITS)
            if missing := [feature for feature in wanted if feature not in offered]:
                raise UnsupportedFeature(
                    f"The storage {self.storage.url} does not support {missing[0]}. Omit limits, unique and "
                    "start_before, or use a storage that supports them."
                )
        if isinstance(keys.unique, Debounce) and (
            is_child or options.delay is not None or options.at is not None
        ):
            other = "waits for a parent" if is_child else "has its own delay or time"
            raise ConfigurationError(
                f"{keys.unique!r} determines when a job runs, so it cannot be used for a job that {other}. "
                "Remove that, or call the task with using(unique=False)."
            )
        return keys.asked(arguments, binder.defaults, start_before)

    # ---- called jobs -------------------------------------------------------------------------------------

    def called_jobs(self, calls: Sequence[Call[Any]], caller: ClaimedJob) -> list[NewJob]:
        """Return the jobs that a running job calls and waits for; nothing is stored.

        The jobs must be stored in the caller's partition. They inherit its `meta`, just as continuations
        inherit their parent's `meta`.

        Raises:
            ConfigurationError: If an option cannot be used with a called job.
        """
        for call in calls:
            if call.options.within is not None:
                raise ConfigurationError(
                    "within cannot be used with run() or gather(), because a called job is stored "
                    "separately, before its caller waits for it. Remove within=."
                )
        return [self._new_job(call, caller.meta, Dependencies(caller_id=caller.id)) for call in calls]

    def recurring_arguments(self, call: Call[Any]) -> NewJob:
        """Return a job of the kind that a recurring job with this call creates; it is not stored.

        Raises:
            ConfigurationError: If an option cannot be used with a recurring job.
        """
        if meaningless := sorted(call.options.given().keys() & {"delay", "at", "on", "within", "after"}):
            raise ConfigurationError(
                f"A recurring job does not accept {meaningless[0]}, because its schedule determines when it "
                "runs."
            )
        unique = call.info.keys(call.options).unique if call.info.unique or call.options.unique else None
        if isinstance(unique, Debounce):
            raise ConfigurationError(
                f"A recurring job does not accept {unique!r}, because its schedule determines when it runs. "
                "Use using(unique=False), or a Unique."
            )
        before = call.info.start_before if call.options.start_before is None else call.options.start_before
        if isinstance(before, datetime):
            raise ConfigurationError(
                f"A recurring job does not accept start_before={before.isoformat()}, because this time "
                "passes only once, but the job runs again and again. Pass a timedelta."
            )
        if holds_output((*call.args, *call.kwargs.values())):
            raise ConfigurationError(
                "A recurring job does not accept the output of another job, which exists only once; pass a "
                "value."
            )
        return self._new_job(call)

    def _plugin_options(self, call: Call[Any]) -> CallOptions:
        given = call.options.given()
        chosen = self.plugins.job_options(call.info, TaskCall(call.info.name, call.args, call.kwargs, given))
        options = chosen.options
        if given.keys() & {"delay", "at"}:  # both set the due time, and the caller has set one
            options = {name: value for name, value in options.items() if name not in {"delay", "at"}}
        if "meta" in given and options.get("meta") is not None:
            given["meta"] = {**check_meta(options["meta"]), **given["meta"]}
        try:
            return CallOptions(**{**options, **given})
        except ConfigurationError as error:
            raise self.plugins.wrong_option(chosen, error) from error


async def _awaited(verb: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking method in a thread where it does not join a transaction by itself; return its result."""
    token = _is_awaited.set(True)
    try:
        return await in_thread(verb, *args, **kwargs)
    finally:
        _is_awaited.reset(token)


def _callers_line() -> str:
    """Return the line of the application that called Firelock, for a message.

    The string is empty if that line is in another thread.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as the traceback module does
    found: list[str] = []
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_PACKAGE, "<")) and file not in _NO_PLACE:
            line = f" at {file}:{frame.f_lineno}"
            if f"{os.sep}site-packages{os.sep}" not in file:
                return line
            found.append(line)
        frame = frame.f_back
    return found[0] if found else ""  # a frame of an installed package, such as Django's tasks


def _explain(error: JobNotFound, calls: Iterable[Call[Any]]) -> None:
    """Raise `JobNotCommitted` if a job that the calls wait for was not found because it is not committed."""
    for call in calls:
        for source in (*(call.options.after or ()), *sources_in(call.args), *sources_in(call.kwargs)):
            source.explain(error)


def _runs_of_alike(calls: Sequence[Call[Any]]) -> Iterable[Iterable[Call[Any]]]:
    """Return groups of consecutive calls with the same task and options; usually there is one group."""
    info, options = calls[0].info, calls[0].options
    if all(call.info is info and call.options is options for call in calls):
        return (calls,)
    return [list(run) for _, run in groupby(calls, key=lambda call: (id(call.info), id(call.options)))]


def _check_keys_without_outputs(
    info: TaskInfo, options: CallOptions, references: Sequence[Reference]
) -> None:
    """Check that neither tags nor keys of a job contain outputs, whose values do not exist yet.

    Raises:
        ArgumentError: If a tag or a key contains an output.
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


def _due_at(options: CallOptions, now: int) -> int | None:
    """Return the time when a job with these options is due; None if they do not set a time.

    Raises:
        ScheduleError: If the time is not an aware datetime, the delay is not a duration of zero or more, or
            the due time is not in the years 1 to 9999.
    """
    at, delay = options.at, options.delay
    if at is not None:
        if not isinstance(at, datetime):
            raise ScheduleError(
                f"at must be an aware datetime, got {at!r}. Pass for example datetime.now(UTC) + "
                "timedelta(hours=1)."
            )
        bare = at if at.utcoffset() is not None else at.replace(tzinfo=None)
        due_at = micros(bare)
        if not _FIRST <= due_at <= _LAST:
            raise ScheduleError(f"at must be in the years 1 to 9999, in UTC, got {at.isoformat()}.")
        return due_at
    if delay is None:
        return None
    is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
    if not isinstance(delay, timedelta) and not (is_number and abs(delay) < math.inf):
        raise ScheduleError(f"delay must be a timedelta or a number of seconds, got {shown(delay)}.")
    seconds = delay if not isinstance(delay, timedelta) else span_micros(delay) / SECOND
    if seconds < 0:
        raise ScheduleError(f"delay must not be negative, got {shown(delay)}.")
    if seconds > (_LAST - now) / SECOND:
        raise ScheduleError(
            f"delay must not end after the year 9999, got {shown(delay)}; pass a shorter delay."
        )
    return now + (span_micros(delay) if isinstance(delay, timedelta) else int(delay * SECOND))


def each_positional(calls: Iterable[Sequence[object]]) -> list[tuple[object, ...]]:
    """Return the arguments of each call.

    Raises:
        TaskError: If the arguments of a call are not a tuple or a list. A string or a mapping, for example,
            would be split into its items.
    """
    given = list(calls) if isinstance(calls, Iterable) and not isinstance(calls, str | bytes) else [calls]
    for args in given:
        if not isinstance(args, tuple | list):
            raise TaskError(
                f"enqueue_many accepts one tuple of arguments per job, got {args!r}. Use "
                "task.enqueue_many([(1,), (2,)])."
            )
    return [tuple(args) for args in given]
