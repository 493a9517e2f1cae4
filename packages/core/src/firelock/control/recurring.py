"""Recurring jobs: `fire.recurring` declares, shows, edits and controls their definitions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock.arguments.tags import MAX_TAGS, check_tags, format_tags
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    FirelockError,
    JobConflict,
    JobNotFound,
    ScheduleError,
    UnknownTask,
)
from firelock.jobs.job import Job
from firelock.model.aio import in_thread, twin
from firelock.model.clock import from_micros, micros
from firelock.model.ids import derived_id
from firelock.model.limit import Admission, write_admission
from firelock.model.text import shown
from firelock.options import Call, CallOptions, check_priority, check_queue, to_tags
from firelock.schedules.cron import (
    Cron,
    Every,
    parse_schedule,
    schedule_from_json,
    schedule_to_json,
)
from firelock.schedules.recurring_job import (
    RECURRING,
    Origin,
    RecurringJob,
    RecurringRecord,
    Upcoming,
    awaiting_code,
    check_recurring_id,
    digest_of,
    get_recurring,
    is_declared_once,
    is_newer,
    job_of,
    newer_words,
    put_recurring,
    read_recurring,
)
from firelock.storage import JobFilter, Storage
from firelock.storage.derived import every_record
from firelock.task import TaskVerbs

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.jobs.client import Client
    from firelock.model.job import NewJob
    from firelock.options import TaskInfo

log = logging.getLogger(__name__)

T = TypeVar("T")


def stored_definitions(storage: Storage) -> Iterator[RecurringRecord]:
    """Yield every stored definition in order of id."""
    return map(read_recurring, every_record(storage, RECURRING))


@attrs.frozen
class _Declaration:
    call: Call[Any]
    schedule: Cron | Every


class Recurring:
    """The recurring jobs of an app: `fire.recurring`.

    As a decorator, it declares a recurring job. Its methods list, trigger, pause, resume, remove, edit and
    create definitions.

    `trigger` joins the caller's transaction. Methods that change a definition act immediately: the rollback
    of a transaction around them does not undo them.
    """

    def __init__(self, client: Client, register: Callable[[Callable[..., Any]], TaskVerbs[Any, Any]]) -> None:
        self._client = client
        self._register = register
        self._declared: dict[str, _Declaration] = {}

    # ---- declarations ------------------------------------------------------------------------------------

    def __call__(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: object, **kwargs: object
    ) -> Callable[[T], T]:
        """Declare a recurring job, as a decorator of a task.

        A server stores the definition when the server starts; a script can store it with `sync()`.
        """
        check_recurring_id(recurring_id)
        parsed = parse_schedule(schedule)

        def declare(target: T) -> T:
            task = target if isinstance(target, TaskVerbs) else self._register(target)  # type: ignore[arg-type]
            if recurring_id in self._declared:
                raise ConfigurationError(
                    f"Recurring job {recurring_id!r} is declared twice in this app; rename one."
                )
            self._declared[recurring_id] = _Declaration(Call(task.info, task.options, args, kwargs), parsed)
            return task  # type: ignore[return-value]

        return declare

    def sync(self) -> list[RecurringJob]:
        """Store the definitions that the code declares; flag those that it no longer declares.

        Only definitions of tasks that are registered in this app are flagged; definitions of another app on
        the same storage stay unchanged.
        """
        written = [
            self._put(one.call, recurring_id, one.schedule, origin="code")
            for recurring_id, one in self._declared.items()
        ]
        for record in stored_definitions(self._client.storage):
            is_ours = (
                not is_newer(record)
                and is_declared_once(record)
                and self._client.registry.get(record.task) is not None
            )
            is_gone = is_ours and record.id not in self._declared
            if is_gone and not record.is_gone:
                undeclared = attrs.evolve(record, is_gone=True)
                put_recurring(self._client.storage, undeclared, keep_progress=True, read=record)
        return written

    async_ = twin(sync)

    def add_or_update(self, call: Call[Any], recurring_id: str, schedule: str | Cron | Every) -> RecurringJob:
        """Store the definition; see `TaskVerbs.recur`."""
        check_recurring_id(recurring_id)
        return self._put(call, recurring_id, parse_schedule(schedule), origin="call")

    def _put(
        self, call: Call[Any], recurring_id: str, schedule: Cron | Every, *, origin: str
    ) -> RecurringJob:
        definition = self._as_written(call, recurring_id, schedule, origin)
        while True:
            stored = get_recurring(self._client.storage, recurring_id)
            if stored and is_newer(stored):
                log.warning("Recurring job %r was not changed. %s", recurring_id, newer_words(stored))
                return RecurringJob(stored)
            if stored and stored.code_digest == definition.code_digest:
                if not stored.is_gone:
                    return RecurringJob(stored)  # an operator's edit stays until the code changes
                declared = attrs.evolve(stored, is_gone=False)
                written = put_recurring(self._client.storage, declared, keep_progress=True, read=stored)
            else:
                written = put_definition(self._client, definition, stored)
            if written:
                return RecurringJob(written)

    def _as_written(
        self, call: Call[Any], recurring_id: str, schedule: Cron | Every, origin: str
    ) -> RecurringRecord:
        definition = definition_of(self._client, call, recurring_id, schedule, origin)
        return attrs.evolve(definition, code_digest=digest_of(definition))

    # ---- edits -------------------------------------------------------------------------------------------

    def edit(
        self,
        recurring_id: str,
        *,
        schedule: str | Cron | Every | None = None,
        arguments: Arguments | None = None,
        queue: str | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        by: str = "operator",
        expected_version: int | None = None,
    ) -> RecurringJob:
        """Change a definition as an operator.

        If the code declares the definition, the edit stays in effect until the declaration in the code
        changes. A run that is due is never lost. If nothing changes, nothing is written.

        Args:
            recurring_id: the id of the definition.
            schedule: the new schedule; a plain string is a cron expression in UTC. A different schedule
                changes the next due time.
            arguments: all arguments, by name or as a list; they are checked in the same way as when a job is
                enqueued.
            queue: the queue of its jobs.
            priority: the priority of its jobs.
            tags: the tags of its jobs, in addition to those that the task derives from the arguments.
            by: the operator's name, for the log.
            expected_version: the version of the definition that the operator has seen.

        Raises:
            JobNotFound: If no definition has this id.
            JobConflict: If the definition has another version by now.
            UnknownTask: If new arguments are given, and their task is not registered in this app.
            ScheduleError, ArgumentError, SignatureMismatch, ConfigurationError: If a value is invalid.
        """
        edit = Edit(schedule, arguments, queue, priority, tags)
        while True:
            record = self._known(recurring_id)
            if expected_version not in (None, record.version):
                raise JobConflict(
                    f"Recurring job {recurring_id!r} now has version {record.version}, not "
                    f"{expected_version}: it was changed in the meantime. Check it and try again."
                )
            changed = edited(self._client, record, edit)
            if changed is record:
                return RecurringJob(record)
            if written := put_definition(self._client, changed, record):
                log.info("Recurring job %r was edited.", recurring_id, extra={"by": by})
                return RecurringJob(written)

    aedit = twin(edit)

    def create(
        self,
        task_name: str,
        recurring_id: str,
        schedule: str | Cron | Every,
        arguments: Arguments = (),
        *,
        queue: str | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        timeout: timedelta | float | None = None,
        by: str = "operator",
    ) -> RecurringJob:
        """Store an operator's own definition for a registered task; `arguments` are as in `edit`.

        Raises:
            UnknownTask: If no task of this name is registered in this app.
            JobConflict: If the id is taken.
            ScheduleError, ArgumentError, SignatureMismatch, ConfigurationError: If a value is invalid.
        """
        check_recurring_id(recurring_id)
        info = self._client.registry.get(task_name)
        if info is None:
            raise UnknownTask(
                f"Task {shown(task_name)} is not registered in this app; create it where the code is."
            )
        edit = Edit(schedule, arguments, queue, priority, tags)
        definition = created(self._client, recurring_id, info, edit, timeout)
        written = put_definition(self._client, definition, None)
        if written is None:
            raise JobConflict(f"Recurring job {recurring_id!r} already exists; edit it, or use another id.")
        log.info("Recurring job %r was created.", recurring_id, extra={"by": by})
        return RecurringJob(written)

    acreate = twin(create)

    def reset(self, recurring_id: str, *, by: str = "operator") -> RecurringJob:
        """Discard an operator's edit and restore the definition from the code.

        If this app declares the definition, the declared version is stored immediately, and the returned
        `origin` is `code`. Otherwise, the declared version is stored when a server that declares it next
        starts, or by the next `recur()`. Until then, the edit stays in effect and `awaits_code` is true. A
        definition that was not edited does not change.

        Raises:
            JobNotFound: If no definition has this id.
            JobConflict: If the definition was never declared in code.
        """
        while True:
            record = self._known(recurring_id)
            job, declared = RecurringJob(record), self._declared.get(recurring_id)
            if declared is not None:
                definition = self._as_written(declared.call, recurring_id, declared.schedule, "code")
                if job.origin is Origin.CODE and record.code_digest == definition.code_digest:
                    return job
            elif job.origin is Origin.CREATED:
                raise JobConflict(
                    f"Recurring job {recurring_id!r} was never declared in code; edit it, or remove it."
                )
            elif job.origin is not Origin.EDITED or job.awaits_code:
                return job
            else:
                definition = awaiting_code(record)
            if written := put_definition(self._client, definition, record):
                log.info("Recurring job %r was reset.", recurring_id, extra={"by": by})
                return RecurringJob(written)

    areset = twin(reset)

    # ---- queries -----------------------------------------------------------------------------------------

    def upcoming(
        self, what: str | Cron | Every, count: int = 10, *, after: datetime | None = None
    ) -> list[Upcoming]:
        """Return the next due times of a definition or a schedule, with notes on clock changes.

        For a paused definition, the result contains the due times that it would have without the pause.

        Args:
            what: the id of a definition, or a schedule; not a cron string.
            count: the number of due times, up to 10,000; fewer are returned if the schedule has no more.
            after: an aware datetime; the current time of the storage's clock if it is omitted.

        Raises:
            JobNotFound: If no definition has this id.
            ScheduleError: If `after` is not aware, the count is too large, or the stored schedule cannot be
                read.
        """
        schedule = what if isinstance(what, Cron | Every) else self.get(what).schedule
        start = from_micros(self._client.clock.now()) if after is None else after
        return [Upcoming(at, schedule.note(at)) for at in schedule.upcoming(start, count)]

    aupcoming = twin(upcoming)

    def next_instants(
        self, what: str | Cron | Every, count: int = 10, *, after: datetime | None = None
    ) -> list[datetime]:
        """Return the times of `upcoming`, without notes."""
        return [one.at for one in self.upcoming(what, count, after=after)]

    anext_instants = twin(next_instants)

    def runs(self, recurring_id: str, limit: int = 20) -> list[Job[Any]]:
        """Return the jobs that the definition created and that are still stored, newest first."""
        where = JobFilter(recurring_id=recurring_id)
        return [Job(self._client, job) for job in self._client.storage.find(where, limit=limit).jobs]

    aruns = twin(runs)

    def __iter__(self) -> Iterator[RecurringJob]:
        """Iterate over all definitions, page by page, in order of id."""
        return map(RecurringJob, stored_definitions(self._client.storage))

    async def __aiter__(self) -> AsyncIterator[RecurringJob]:
        """Iterate without blocking the event loop: `async for one in fire.recurring`."""
        jobs = iter(self)
        while (job := await in_thread(next, jobs, None)) is not None:
            yield job

    # ---- operations --------------------------------------------------------------------------------------

    def list(self, *, after: str = "", limit: int = 100) -> list[RecurringJob]:
        """Return a page of definitions in order of id, with ids greater than `after`."""
        records = self._client.storage.list_records(RECURRING, after=after, limit=limit)
        return [RecurringJob(read_recurring(record)) for record in records]

    alist = twin(list)  # noqa: A003 - the method above

    def get(self, recurring_id: str) -> RecurringJob:
        """Return the definition.

        Raises:
            JobNotFound: If no definition has this id.
        """
        return RecurringJob(self._record(recurring_id))

    aget = twin(get)

    def _record(self, recurring_id: str) -> RecurringRecord:
        record = get_recurring(self._client.storage, recurring_id)
        if record is None:
            raise JobNotFound(f"Recurring job {recurring_id!r} was not found.")
        return record

    def _known(self, recurring_id: str) -> RecurringRecord:
        """Return the definition so that it can be run or changed.

        Raises:
            JobConflict: If a newer version of Firelock wrote it.
        """
        record = self._record(recurring_id)
        if is_newer(record):
            raise JobConflict(f"Recurring job {recurring_id!r} cannot be used here. {newer_words(record)}")
        return record

    def trigger(self, recurring_id: str, *, within: object | None = None) -> Job[Any]:
        """Enqueue a job of the definition now; its schedule does not change.

        The job joins the caller's transaction, in the same way as an enqueue. If another job has its unique
        key, the returned handle is for that job, and `is_new` is False.

        Args:
            recurring_id: the id of the definition.
            within: your own transaction in the storage's database; the job is committed or rolled back with
                it.

        Raises:
            JobNotFound: If no definition has this id.
            JobConflict: If a newer version of Firelock wrote the definition; `pause`, `resume`, `edit` and
                `reset` raise this too.
        """
        return self._client.store(self._triggered(recurring_id), self._client.transaction(within))

    async def atrigger(self, recurring_id: str, *, within: object | None = None) -> Job[Any]:
        """Call `trigger` without blocking the event loop."""
        return await self._client.astore(await in_thread(self._triggered, recurring_id), within)

    def _triggered(self, recurring_id: str) -> NewJob:
        """Return a job of the definition; the job is not stored yet."""
        record = self._known(recurring_id)
        self._client.check_creates_jobs(record.task)
        now = self._client.clock.now()
        # The id is derived in the same way as the ids of scheduled runs. With partitions, all jobs of a
        # definition are therefore in one partition, so that one of them can wait for another.
        job_id = derived_id("by hand", record.id, self._client.storage.new_ids(1)[0])
        return job_of(record, job_id, now, now, "triggered by hand")

    def pause(self, recurring_id: str) -> RecurringJob:
        """Pause the definition until it is resumed; deploys do not resume it."""
        return self._change(recurring_id, lambda record: attrs.evolve(record, is_paused=True), keep=True)

    apause = twin(pause)

    def resume(self, recurring_id: str) -> RecurringJob:
        """Run the definition again, from its next due time on; due times during the pause are skipped."""

        def resumed(record: RecurringRecord) -> RecurringRecord:
            if not record.is_paused:
                return record  # the next due time may have passed, and its run must not be lost
            first = schedule_from_json(record.schedule).next_after(from_micros(self._client.clock.now()))
            next_at = None if first is None else micros(first)
            return attrs.evolve(record, is_paused=False, next_at=next_at)

        return self._change(recurring_id, resumed, keep=False)

    aresume = twin(resume)

    def _change(
        self, recurring_id: str, change: Callable[[RecurringRecord], RecurringRecord], *, keep: bool
    ) -> RecurringJob:
        while True:
            record = self._known(recurring_id)
            changed = change(record)
            if changed is record:
                return RecurringJob(record)
            changed = attrs.evolve(changed, updated_at=self._client.clock.now())
            if written := put_recurring(self._client.storage, changed, keep_progress=keep, read=record):
                return RecurringJob(written)

    def remove(self, recurring_id: str) -> None:
        """Remove the definition; the jobs that it created are kept.

        Raises:
            JobNotFound: If no definition has this id.
        """
        if not self._client.storage.delete_record(RECURRING, recurring_id):
            self._record(recurring_id)

    aremove = twin(remove)


Arguments = Mapping[str, object] | Sequence[object]


@attrs.frozen
class Edit:
    """The changes that an operator makes to a definition; None leaves a value unchanged."""

    schedule: str | Cron | Every | None = None
    arguments: Arguments | None = None
    queue: str | None = attrs.field(default=None, converter=attrs.converters.optional(check_queue))
    priority: int | None = attrs.field(default=None, converter=attrs.converters.optional(check_priority))
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(to_tags))


def edited(client: Client, record: RecurringRecord, edit: Edit) -> RecurringRecord:
    """Return the definition after an edit, with the origin "operator"; the same object if nothing changes.

    Raises:
        ScheduleError: If the schedule cannot be read.
        UnknownTask: If new arguments are given, and the definition's task is not registered here.
        ArgumentError, SignatureMismatch: If the arguments do not fit the task.
        ConfigurationError: If a tag is invalid.
    """
    changed = attrs.evolve(
        record,
        queue=record.queue if edit.queue is None else edit.queue,
        priority=record.priority if edit.priority is None else edit.priority,
    )
    if edit.schedule is not None:
        changed = attrs.evolve(changed, schedule=schedule_to_json(parse_schedule(edit.schedule)))
    if edit.arguments is not None:
        changed = _with_arguments(client, changed, edit.arguments)
    changed = _with_tags(client, record, changed, edit.tags)
    return record if changed == record else attrs.evolve(changed, origin="operator")


def _with_arguments(client: Client, record: RecurringRecord, arguments: Arguments) -> RecurringRecord:
    info = client.registry.get(record.task)
    if info is None:
        stored = _stored_arguments(client, record)
        if isinstance(arguments, Mapping) and stored is not None and dict(arguments) == stored:
            return record
        raise UnknownTask(
            f"Task {record.task!r} of recurring job {record.id!r} is not registered in this app, so its "
            "arguments cannot be checked; keep them, or edit the recurring job where the code is."
        )
    args, kwargs = to_call(client, info, arguments)
    text = client.registry.binder(info).encode_text(args, kwargs, client.serializer)
    changed = attrs.evolve(record, arguments=text, serializer=client.serializer.name)
    declared = _declared_admission(client, info, changed)
    try:
        previous = _declared_admission(client, info, record)
    except ArgumentError:  # the task has changed since the arguments were stored
        previous = None
    # Keys that were passed with the call are kept, because only its author knows how they were created.
    return attrs.evolve(changed, admission_json=declared) if record.admission_json == previous else changed


def _declared_admission(client: Client, info: TaskInfo, record: RecurringRecord) -> str | None:
    """Return the admission that the task declares for the definition's jobs; None if there is none.

    Raises:
        ArgumentError: If the arguments cannot form a key.
    """
    stored = _stored_arguments(client, record)
    if not info.has_admission or not isinstance(stored, dict):
        return None
    asked = info.keys().asked(stored, client.registry.binder(info).defaults, info.start_before)
    return _unattended(asked.admission)


def _unattended(admission: Admission) -> str | None:
    """Return the admission of jobs that no caller creates.

    If their unique key is taken, there is no caller to receive an error, so the run is skipped instead.
    """
    if admission.unique is not None:
        admission = attrs.evolve(admission, unique=attrs.evolve(admission.unique, raises=False))
    return write_admission(admission)


def to_call(
    client: Client, info: TaskInfo, arguments: Arguments
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return arguments, given by name or by position, in the form of a call of the task.

    Raises:
        SignatureMismatch: If a name is unknown, or a required argument is missing.
        ArgumentError: If the arguments are neither a mapping nor a list.
    """
    if isinstance(arguments, Mapping):
        return client.registry.binder(info).signature.named_call(arguments)
    if isinstance(arguments, str | bytes) or not isinstance(arguments, Sequence):
        raise ArgumentError(
            f'arguments must be a mapping such as {{"day": "mon"}} or a list, got {shown(arguments)}.'
        )
    return tuple(arguments), {}


def _stored_arguments(client: Client, record: RecurringRecord) -> JsonValue:
    """Return the arguments as JSON; None if this app cannot read them."""
    serializer = client.serializers.get(record.serializer)
    try:
        return None if serializer is None else serializer.loads(record.arguments)
    except (FirelockError, ValueError):
        return None


def _with_tags(
    client: Client, before: RecurringRecord, after: RecurringRecord, tags: tuple[str, ...] | None
) -> RecurringRecord:
    """Return the definition with new tags.

    Its tags are those that its task derives from the new arguments, and the other tags that were passed.
    """
    if tags is None and before.arguments == after.arguments:
        return after
    previous = _own_tags(client, before)
    others = [tag for tag in check_tags(before.tags if tags is None else tags) if tag not in previous]
    all_tags = tuple(dict.fromkeys((*_own_tags(client, after), *others)))
    if len(all_tags) > MAX_TAGS:
        raise ConfigurationError(
            f"A job must have at most {MAX_TAGS} tags, including those of its task, got {len(all_tags)}."
        )
    return attrs.evolve(after, tags=all_tags)


def _own_tags(client: Client, record: RecurringRecord) -> tuple[str, ...]:
    """Return the tags that the task derives from the definition's arguments; none if this is not possible."""
    info = client.registry.get(record.task)
    stored = _stored_arguments(client, record)
    if info is None or stored is None:
        return ()
    try:
        return format_tags(info.tags, stored, defaults=client.registry.binder(info).defaults)
    except ArgumentError:  # the task has changed since the arguments were stored
        return ()


def created(
    client: Client, recurring_id: str, info: TaskInfo, edit: Edit, timeout: timedelta | float | None
) -> RecurringRecord:
    """Return an operator's own definition, which no code declares.

    Raises:
        ScheduleError: If the schedule cannot be read.
        ArgumentError, SignatureMismatch: If the arguments do not fit the task.
        ConfigurationError: If an option is invalid.
    """
    args, kwargs = to_call(client, info, () if edit.arguments is None else edit.arguments)
    options = CallOptions(edit.queue, edit.priority, tags=edit.tags, timeout=timeout)
    schedule = "" if edit.schedule is None else edit.schedule
    return definition_of(client, Call(info, options, args, kwargs), recurring_id, schedule, "operator")


def definition_of(
    client: Client, call: Call[Any], recurring_id: str, schedule: str | Cron | Every, origin: str
) -> RecurringRecord:
    """Return a definition whose jobs make this call; it has no digest and is not stored yet."""
    parsed = parse_schedule(schedule)
    job = client.recurring_arguments(call)
    return RecurringRecord(
        recurring_id, job.task, job.arguments, job.serializer, schedule_to_json(parsed), job.queue,
        job.priority, job.tags, job.timeout_seconds, job.retry, job.meta_json, origin=origin,
        admission_json=None if job.admission is None else _unattended(job.admission),
    )  # fmt: skip


def put_definition(
    client: Client, definition: RecurringRecord, stored: RecurringRecord | None
) -> RecurringRecord | None:
    """Replace the stored definition; return None if the stored one was changed in the meantime.

    If the schedule differs, the next due time is computed again. A run that is due or outstanding is never
    lost: it happens once, for its own due time, and the due times of the new schedule are counted from now.
    """
    now = client.clock.now()
    first = schedule_from_json(definition.schedule).next_after(from_micros(now))
    next_at = None if first is None else micros(first)
    if stored is None:
        new = attrs.evolve(definition, created_at=now, updated_at=now, timed_at=now, next_at=next_at)
        return put_recurring(client.storage, new, keep_progress=False)
    changed = attrs.evolve(
        definition,
        created_at=stored.created_at,
        updated_at=now,
        version=stored.version,
        timed_at=stored.timed_at if _has_same_due_times(stored, definition) else now,
        is_paused=stored.is_paused,
        next_at=next_at,
        last_at=stored.last_at,
        last_job_id=stored.last_job_id,
        dropped=stored.dropped,
        skipped=stored.skipped,
        more=stored.more,
    )
    is_due = stored.next_at is not None and stored.next_at <= now
    keeps = stored.schedule == definition.schedule or is_due
    return put_recurring(client.storage, changed, keep_progress=keeps, read=stored)


def _has_same_due_times(stored: RecurringRecord, definition: RecurringRecord) -> bool:
    """Return whether both have the same due times, ignoring the rules for missed and overlapping runs."""
    try:
        before, after = schedule_from_json(stored.schedule), schedule_from_json(definition.schedule)
    except ScheduleError:  # the stored schedule was invalid, so it had no due times
        return False
    with_same_rules = attrs.evolve(
        before, misfire=after.misfire, misfire_limit=after.misfire_limit, overlap=after.overlap
    )
    return with_same_rules == after
