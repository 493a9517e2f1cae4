"""The firing of recurring jobs: what is due has its jobs, once an instant, however many servers look."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from firelock.clock import SECOND, from_micros, micros
from firelock.cron import Overlap, due_instants, schedule_from_json
from firelock.errors import StorageError, StorageUnavailable
from firelock.ids import derived_id
from firelock.job import Edge, JobRecord, NewJob, On, State
from firelock.retry import describe_error

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.storage import RecurringRecord

__all__ = ["fire_due", "job_of"]

log = logging.getLogger(__name__)

_RETRY_AFTER = 60 * SECOND  # a definition that cannot be fired is tried again then


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
    job = job_of(
        record, job_id, instant, now, f"recurring {record.id}, due {from_micros(instant).isoformat()}"
    )
    if running is not None:
        job.state, job.parents = State.AWAITING, (Edge(running.id, On.FINISHED),)
    return job


def job_of(record: RecurringRecord, job_id: str, instant: int, now: int, reason: str) -> NewJob:
    """Return a job of the definition, for a nominal instant."""
    return NewJob(
        job_id, record.task, record.arguments, record.serializer, record.queue, record.priority,
        State.ENQUEUED, now, None, instant, reason, record.tags, record.timeout_seconds, record.retry,
        record.id,
    )  # fmt: skip
