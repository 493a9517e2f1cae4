"""Recurring jobs: definitions, `fire.recurring`, and the firing of what is due."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock.clock import SECOND, from_micros, micros
from firelock.cron import (
    Cron,
    Every,
    Overlap,
    due_instants,
    parse_schedule,
    schedule_from_json,
    schedule_to_json,
)
from firelock.errors import ConfigurationError, JobNotFound, StorageError, StorageUnavailable
from firelock.handle import Job
from firelock.ids import derived_id
from firelock.job import Edge, JobRecord, NewJob, On, State
from firelock.options import shown
from firelock.retry import describe_error
from firelock.storage import RecurringRecord
from firelock.storage.defaults import insert_surely
from firelock.task import Call, TaskVerbs
from firelock.threads import in_thread

if TYPE_CHECKING:
    from firelock.client import Client

__all__ = ["Recurring", "RecurringJob", "fire_due"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_ID_LIMIT = 200
_PAGE = 500
_RETRY_AFTER = 60 * SECOND  # a definition that cannot be fired is tried again then


@attrs.frozen
class RecurringJob:
    """A recurring definition as it was read."""

    record: RecurringRecord

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def task(self) -> str:
        """The task it runs."""
        return self.record.task

    @property
    def schedule(self) -> Cron | Every:
        """When it runs."""
        return schedule_from_json(self.record.schedule)

    @property
    def queue(self) -> str:
        """The queue of its jobs."""
        return self.record.queue

    @property
    def is_paused(self) -> bool:
        """Tell whether it is paused."""
        return self.record.is_paused

    @property
    def next_at(self) -> datetime | None:
        """The next instant it runs for; None for never."""
        return None if self.record.next_at is None else from_micros(self.record.next_at)

    @property
    def last_at(self) -> datetime | None:
        """The last instant it ran for, nominal."""
        return None if self.record.last_at is None else from_micros(self.record.last_at)

    @property
    def error(self) -> str | None:
        """Why the last firing failed."""
        return self.record.error


@attrs.frozen
class _Declaration:
    call: Call
    schedule: Cron | Every


class Recurring:
    """`fire.recurring`: declare (as a decorator), list, trigger, pause, resume, remove."""

    def __init__(self, client: Client, register: Callable[[Callable[..., Any]], TaskVerbs[Any, Any]]) -> None:
        self._client = client
        self._register = register
        self._declared: dict[str, _Declaration] = {}

    # ---- declaring ---------------------------------------------------------------------------------------

    def __call__(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: object, **kwargs: object
    ) -> Callable[[T], T]:
        """Declare a recurring job above a task: a server writes it when it starts, a script by `sync()`."""
        _check_id(recurring_id)
        parsed = parse_schedule(schedule)

        def declare(target: T) -> T:
            task = target if isinstance(target, TaskVerbs) else self._register(target)  # type: ignore[arg-type]
            if recurring_id in self._declared:
                message = f"Recurring job {recurring_id!r} is declared twice in this app; rename one."
                raise ConfigurationError(message)
            self._declared[recurring_id] = _Declaration(Call(task.info, task.options, args, kwargs), parsed)
            return task  # type: ignore[return-value]

        return declare

    def sync(self) -> list[RecurringJob]:
        """What the code declares is in the storage; definitions of its tasks gone from code are flagged.

        Another app's definitions on the same storage are left alone: only tasks registered here count.
        """
        written = [
            self._put(one.call, recurring_id, one.schedule, origin="code")
            for recurring_id, one in self._declared.items()
        ]
        for record in self._all():
            is_ours = record.origin == "code" and self._client.registry.get(record.task) is not None
            is_gone = is_ours and record.id not in self._declared
            if is_gone and not record.is_gone:
                self._client.storage.put_recurring(attrs.evolve(record, is_gone=True), keep_progress=True)
        return written

    def add_or_update(self, call: Call, recurring_id: str, schedule: str | Cron | Every) -> RecurringJob:
        """The definition is stored; see `TaskVerbs.recur`."""
        _check_id(recurring_id)
        return self._put(call, recurring_id, parse_schedule(schedule), origin="call")

    def _put(self, call: Call, recurring_id: str, schedule: Cron | Every, *, origin: str) -> RecurringJob:
        job = self._client.recurring_arguments(call)
        definition = RecurringRecord(
            recurring_id, job.task, job.arguments, job.serializer, schedule_to_json(schedule), job.queue,
            job.priority, job.tags, job.timeout_seconds, job.retry, origin=origin,
        )  # fmt: skip
        definition = attrs.evolve(definition, code_digest=_digest(definition))
        while True:
            stored = self._client.storage.get_recurring(recurring_id)
            if stored and stored.code_digest == definition.code_digest:
                if not stored.is_gone:
                    return RecurringJob(stored)  # an operator's edit survives until the code changes
                back = attrs.evolve(stored, is_gone=False)
                written = self._client.storage.put_recurring(back, keep_progress=True)
            else:
                written = self._write(definition, stored, schedule)
            if written:
                return RecurringJob(written)

    def _write(
        self, definition: RecurringRecord, stored: RecurringRecord | None, schedule: Cron | Every
    ) -> RecurringRecord | None:
        now = self._client.clock.now()
        first = schedule.next_after(from_micros(now))
        next_at = None if first is None else micros(first)
        if stored is None:
            new = attrs.evolve(definition, created_at=now, updated_at=now, next_at=next_at)
            return self._client.storage.put_recurring(new, keep_progress=False)
        changed = attrs.evolve(
            definition,
            created_at=stored.created_at,
            updated_at=now,
            version=stored.version,
            is_paused=stored.is_paused,
            next_at=next_at,
            last_at=stored.last_at,
            last_job_id=stored.last_job_id,
            dropped=stored.dropped,
        )
        is_due = stored.next_at is not None and stored.next_at <= now
        keeps = stored.schedule == definition.schedule or is_due  # a run that is due is never lost
        return self._client.storage.put_recurring(changed, keep_progress=keeps)

    # ---- operating ---------------------------------------------------------------------------------------

    def _all(self) -> Iterator[RecurringRecord]:
        after = ""
        while page := self._client.storage.list_recurring(after=after, limit=_PAGE):
            yield from page
            after = page[-1].id

    def list(self, *, after: str = "", limit: int = 100) -> list[RecurringJob]:
        """Return a page of definitions in order of id, those above `after`."""
        return [
            RecurringJob(record) for record in self._client.storage.list_recurring(after=after, limit=limit)
        ]

    def get(self, recurring_id: str) -> RecurringJob:
        """Return the definition.

        Raises:
            JobNotFound: there is none of this id.
        """
        return RecurringJob(self._record(recurring_id))

    def _record(self, recurring_id: str) -> RecurringRecord:
        record = self._client.storage.get_recurring(recurring_id)
        if record is None:
            message = f"No recurring job {recurring_id!r} is stored."
            raise JobNotFound(message)
        return record

    def trigger(self, recurring_id: str) -> Job[Any]:
        """A job of the definition is enqueued now; its schedule is not touched."""
        record = self._record(recurring_id)
        now = self._client.clock.now()
        # Derived like those of its instants: with partitions they lie together, and one may wait for another.
        job_id = derived_id("by hand", record.id, self._client.storage.new_id())
        job = _job_of(record, job_id, now, now, "triggered by hand")
        insert_surely(self._client.storage, (job,))
        if self._client.plugins.has_jobs_created:
            self._client.plugins.jobs_created((job,))
        return Job(self._client, job)

    def pause(self, recurring_id: str) -> RecurringJob:
        """It does not run until it is resumed; deploys do not resume it."""
        return self._change(recurring_id, lambda record: attrs.evolve(record, is_paused=True), keep=True)

    def resume(self, recurring_id: str) -> RecurringJob:
        """It runs again, from its next instant after now: what fell into the pause is not made up for."""

        def resumed(record: RecurringRecord) -> RecurringRecord:
            first = schedule_from_json(record.schedule).next_after(from_micros(self._client.clock.now()))
            return attrs.evolve(record, is_paused=False, next_at=None if first is None else micros(first))

        if not self._record(recurring_id).is_paused:
            return self.get(recurring_id)
        return self._change(recurring_id, resumed, keep=False)

    def _change(
        self, recurring_id: str, change: Callable[[RecurringRecord], RecurringRecord], *, keep: bool
    ) -> RecurringJob:
        while True:
            changed = attrs.evolve(change(self._record(recurring_id)), updated_at=self._client.clock.now())
            if written := self._client.storage.put_recurring(changed, keep_progress=keep):
                return RecurringJob(written)

    def remove(self, recurring_id: str) -> None:
        """The definition is gone; jobs it made stay.

        Raises:
            JobNotFound: there is none of this id.
        """
        if not self._client.storage.remove_recurring(recurring_id):
            self._record(recurring_id)

    async def alist(self, *, after: str = "", limit: int = 100) -> Sequence[RecurringJob]:
        """List without blocking the event loop."""
        return await in_thread(self.list, after=after, limit=limit)

    async def aget(self, recurring_id: str) -> RecurringJob:
        """Get without blocking the event loop."""
        return await in_thread(self.get, recurring_id)

    async def atrigger(self, recurring_id: str) -> Job[Any]:
        """Trigger without blocking the event loop."""
        return await in_thread(self.trigger, recurring_id)

    async def apause(self, recurring_id: str) -> RecurringJob:
        """Pause without blocking the event loop."""
        return await in_thread(self.pause, recurring_id)

    async def aresume(self, recurring_id: str) -> RecurringJob:
        """Resume without blocking the event loop."""
        return await in_thread(self.resume, recurring_id)

    async def aremove(self, recurring_id: str) -> None:
        """Remove without blocking the event loop."""
        await in_thread(self.remove, recurring_id)


def _check_id(recurring_id: str) -> None:
    if (
        not isinstance(recurring_id, str)
        or not 0 < len(recurring_id) <= _ID_LIMIT
        or not recurring_id.isprintable()
    ):
        message = f"Recurring id {shown(recurring_id)} is refused; use 1 to {_ID_LIMIT} printable characters."
        raise ConfigurationError(message)


def _digest(definition: RecurringRecord) -> str:
    fields = [
        definition.task, definition.arguments, definition.serializer, definition.schedule, definition.queue,
        definition.priority, definition.tags, definition.timeout_seconds, definition.retry,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


def _job_of(record: RecurringRecord, job_id: str, instant: int, now: int, reason: str) -> NewJob:
    return NewJob(
        job_id, record.task, record.arguments, record.serializer, record.queue, record.priority,
        State.ENQUEUED, now, None, instant, reason, record.tags, record.timeout_seconds, record.retry,
        record.id,
    )  # fmt: skip


# ---- firing ----------------------------------------------------------------------------------------------


def fire_due(client: Client, *, limit: int = 100) -> int:
    """What is due by now has its jobs, however many servers look; return how many definitions fired.

    A definition that cannot be fired shows why and is tried again a minute later; the others go on.
    """
    fired = 0
    for record in client.storage.due_recurring(limit):
        try:
            fired += _fire(client, record)
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one definition holds, the others go on
            _postpone(client, record, error)
    return fired


def _fire(client: Client, record: RecurringRecord) -> bool:
    due_at = record.next_at
    if due_at is None:
        return False
    progress, jobs = _firing(client, record, max(client.clock.now(), due_at))
    if not client.storage.fire_recurring(progress, due_at, jobs):
        return False
    if jobs and client.plugins.has_jobs_created:
        client.plugins.jobs_created(jobs)
    return True


def _postpone(client: Client, record: RecurringRecord, error: Exception) -> None:
    """The definition shows why it was not fired and is due again in a minute."""
    log.warning("Recurring job %r cannot be fired: %s", record.id, error)
    later = attrs.evolve(record, error=describe_error(error), next_at=client.clock.now() + _RETRY_AFTER)
    try:
        client.storage.fire_recurring(later, record.next_at or 0, [])
    except StorageUnavailable:
        raise
    except StorageError:
        log.exception("Recurring job %r cannot even show its error.", record.id)


def _firing(client: Client, record: RecurringRecord, now: int) -> tuple[RecurringRecord, list[NewJob]]:
    schedule = schedule_from_json(record.schedule)
    firing = due_instants(schedule, due=from_micros(record.next_at or now), now=from_micros(now))
    instants = [micros(instant) for instant in firing.instants]
    running = _unended(client, record) if schedule.overlap is not Overlap.ALLOW else None
    kept = instants if schedule.overlap is Overlap.ALLOW else instants[-1:]
    if running and (schedule.overlap is Overlap.SKIP or running.state is State.AWAITING):
        kept = []
    jobs = [_fired_job(record, instant, now, running) for instant in kept]
    progress = attrs.evolve(
        record,
        next_at=None if firing.next_at is None else micros(firing.next_at),
        last_at=instants[-1] if instants else record.last_at,
        last_job_id=jobs[-1].id if jobs else record.last_job_id,
        dropped=record.dropped + firing.dropped + len(instants) - len(kept),
        error=None,
    )
    return progress, jobs


def _unended(client: Client, record: RecurringRecord) -> JobRecord | None:
    if record.last_job_id is None:
        return None
    last = client.storage.get((record.last_job_id,))[0]
    return None if last is None or last.is_final else last


def _fired_job(record: RecurringRecord, instant: int, now: int, running: JobRecord | None) -> NewJob:
    """Return the job of one instant; its id follows from definition and instant, so that it is made once.

    The definition's creation is part of it: one that was removed and added again runs its instants anew.
    """
    job_id = derived_id("recurring", record.id, str(record.created_at), str(instant))
    job = _job_of(
        record, job_id, instant, now, f"recurring {record.id}, due {from_micros(instant).isoformat()}"
    )
    if running is not None:
        job.state, job.parents = State.AWAITING, (Edge(running.id, On.FINISHED),)
    return job
