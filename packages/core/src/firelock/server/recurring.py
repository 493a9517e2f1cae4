"""Creation of jobs for due recurring definitions: once per due time, regardless of the number of servers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.errors import DuplicateJob, StorageError, StorageUnavailable
from firelock.model.answers import Applied, Duplicate
from firelock.model.clock import SECOND, from_micros, micros
from firelock.model.dependencies import Edge, On
from firelock.model.ids import derived_id
from firelock.model.job import JobRecord, NewJob
from firelock.model.record import RecordChange
from firelock.model.state import State
from firelock.retry import describe_error
from firelock.schedules.cron import Overlap, due_instants, schedule_from_json
from firelock.schedules.recurring_job import (
    RECURRING,
    is_newer,
    job_of,
    newer_words,
    read_recurring,
    recurring_json,
)

if TYPE_CHECKING:
    from firelock.jobs.client import Client
    from firelock.model.answers import Inserted
    from firelock.model.record import Record
    from firelock.schedules.recurring_job import RecurringRecord

log = logging.getLogger(__name__)

_RETRY_AFTER = 60 * SECOND  # delay before another attempt to fire a definition that could not be fired
_PASS_BY = 15 * SECOND  # delay for a definition written by a newer version, so that others are fired


def fire_due(client: Client, *, limit: int = 100) -> int:
    """Create the jobs of due definitions; return how many definitions fired.

    Any number of servers can call this at the same time. If a definition cannot be fired, the reason is
    stored in it, and the same due time is tried again a minute later. The other definitions are fired as
    usual. A definition that a newer version wrote is fired only by servers that support it.

    Raises:
        StorageUnavailable: If the storage was unavailable, either twice or for one definition. If it was
            unavailable for one definition, all other due definitions have been fired.
    """
    fired, outage = 0, None
    for record in client.storage.due_records(RECURRING, limit):
        try:
            fired += _fire_or_postpone(client, record)
        except StorageUnavailable as error:
            if outage is not None:
                raise
            outage = error
    if outage is not None:
        raise outage
    return fired


def _fire_or_postpone(client: Client, record: Record) -> bool:
    definition = read_recurring(record)
    if is_newer(definition):
        if definition.next_at in {None, record.due_at}:
            log.warning("Recurring job %r is not fired here: %s", record.key, newer_words(definition))
        _postpone(client, record, record.value, _PASS_BY)
        return False
    try:
        return _fire(client, record, definition)
    except StorageUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - an error in one definition must not stop the others
        log.warning("Recurring job %r cannot be fired: %s", record.key, error)
        broken = attrs.evolve(definition, error=describe_error(error))
        _postpone(client, record, recurring_json(broken), _RETRY_AFTER)
        return False


def _fire(client: Client, record: Record, definition: RecurringRecord) -> bool:
    """Store the jobs and the next due time in one operation, unless the definition has changed."""
    progress, jobs = _firing(client, definition, max(client.clock.now(), record.due_at or 0))
    try:
        inserted = _insert(client, record, progress, jobs)
    except DuplicateJob as error:  # the job with the key was deleted but still runs; nothing was stored
        inserted = _insert(client, record, _skipping(definition, progress, [], [error.job_id]), [])
        jobs = []
    if inserted.record is not Applied.APPLIED:
        return False
    holders = [answer.job_id for answer in inserted.is_new if isinstance(answer, Duplicate)]
    if holders:
        stored = [
            one for one, new in zip(jobs, inserted.is_new, strict=True) if not isinstance(new, Duplicate)
        ]
        _store_result(client, record, _skipping(definition, progress, stored, holders))
    if jobs:
        client.notify_created(jobs, inserted.is_new)
    return True


def _skipping(
    before: RecurringRecord, progress: RecurringRecord, stored: Sequence[NewJob], holders: Sequence[str]
) -> RecurringRecord:
    """Return the progress of a firing that omitted jobs because their unique key was in use."""
    return attrs.evolve(
        progress,
        last_job_id=stored[-1].id if stored else before.last_job_id,
        dropped=progress.dropped + len(holders),
        skipped=f"skipped: job {holders[-1]} has its unique key",
    )


def _store_result(client: Client, record: Record, progress: RecurringRecord) -> None:
    """Store the result of a firing in the definition, unless the definition was changed in the meantime."""
    client.storage.put_record(
        RECURRING,
        record.key,
        recurring_json(progress),
        expected_version=record.version + 1,
        due_at=progress.due_at,
    )


def _postpone(client: Client, record: Record, value: str, after: int) -> None:
    """Let the definition fire for the same due time after a delay."""
    try:
        due_at = client.clock.now() + after
        change = RecordChange(RECURRING, record.key, value, record.version, due_at)
        client.storage.insert([], only_if=change)
    except StorageUnavailable:
        raise
    except StorageError:
        log.exception("Recurring job %r cannot be postponed.", record.key)


def _insert(client: Client, record: Record, progress: RecurringRecord, jobs: Sequence[NewJob]) -> Inserted:
    change = RecordChange(RECURRING, record.key, recurring_json(progress), record.version, progress.due_at)
    return client.storage.insert(jobs, only_if=change)


def _firing(client: Client, record: RecurringRecord, now: int) -> tuple[RecurringRecord, list[NewJob]]:
    schedule = schedule_from_json(record.schedule)
    due_at = record.next_at or now
    firing = due_instants(
        schedule, due=from_micros(due_at), now=from_micros(now), since=from_micros(record.timed_at)
    )
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
        skipped=None,
    )
    return progress, jobs


def _unended(client: Client, record: RecurringRecord) -> JobRecord | None:
    if record.last_job_id is None:
        return None
    last = client.storage.get((record.last_job_id,))[0]
    return None if last is None or last.is_final else last


def _fired_job(record: RecurringRecord, instant: int, now: int, running: JobRecord | None) -> NewJob:
    """Return the job for one due time.

    The job's id is derived from the definition and the due time, so the job is created only once. The id also
    depends on the creation time of the definition, so if a definition is removed and added again, it creates
    new jobs for the same due times.
    """
    job_id = derived_id("recurring", record.id, str(record.created_at), str(instant))
    job = job_of(
        record, job_id, instant, now, f"recurring {record.id}, due {from_micros(instant).isoformat()}"
    )
    if running is not None:
        job.state, job.parents = State.AWAITING, (Edge(running.id, On.FINISHED),)
    return job
