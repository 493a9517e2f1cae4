"""Pages of jobs in order of time."""

from __future__ import annotations

from collections.abc import Sequence

from firelock.storage import JobFilter, JobRecord, Page, State, selection
from firelock_redis.database import Database
from firelock_redis.places import Query, first_places
from firelock_redis.reads import damaged_job, get, read_job, read_texts

__all__ = ["find_jobs"]

_ID_LENGTH = 36


def find_jobs(
    database: Database, where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool
) -> Page:
    """See `Storage.find`.

    The places of the page come first, its jobs are read behind them: one that has left its place meanwhile is
    not on the page.
    """
    behind = None if cursor is None else selection.read_cursor(cursor, where, oldest_first=oldest_first)
    is_scheduled = where.is_retrying or where.by_due
    if limit <= 0 or (is_scheduled and where.state not in {None, State.SCHEDULED}):
        return Page([], None)
    if where.id_prefix is not None and len(where.id_prefix) >= _ID_LENGTH:
        jobs = [job for job in get(database, [where.id_prefix]) if job is not None]
        return selection.paged(jobs, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
    places, reached = first_places(database, Query(where, behind, oldest_first), limit)
    shown = places[:limit]
    following = shown[-1] if len(places) > limit else reached
    return Page(
        _read_listed(database, where, shown),
        None if following is None else selection.write_cursor(following, where, oldest_first=oldest_first),
    )


def _read_listed(database: Database, where: JobFilter, places: Sequence[selection.Place]) -> list[JobRecord]:
    """Return the jobs that still stand where they were found."""
    found = read_texts(database, [id for _, id in places])
    jobs: list[JobRecord] = []
    for at, id in places:
        if (texts := found.get(id)) is None:
            continue
        job = read_job(id, texts)
        if job is None:
            jobs.append(damaged_job(id, texts, at))
        elif selection.matches(job, where) and float(selection.listed_at(job, where)) == at:
            jobs.append(job)
    return jobs
