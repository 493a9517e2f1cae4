"""Pages as pure functions, from which a storage with plain tables builds its lists."""

from __future__ import annotations

import pytest

from firelock.errors import StorageError
from firelock.model.job import ErrorInfo, JobRecord
from firelock.model.state import State
from firelock.storage import JobFilter
from firelock.storage.rules import (
    paged,
    read_cursor,
    write_cursor,
)

ALL = JobFilter()


def job(id="a", created_at=0, **fields):
    """Return a job whose place in its list is given by its id and its time."""
    given = {"state": State.ENQUEUED, "queue": "default", "changed_at": created_at, **fields}
    return JobRecord(
        id, "tasks.run", "[]", "json", given.pop("state"), given.pop("queue"), 0, created_at, **given
    )


def walk(jobs, where, limit, *, oldest_first=False):
    """Return the ids of every page, from the first to the last."""
    pages, cursor = [], None
    while True:
        page = paged(jobs, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        pages.append([one.id for one in page.jobs])
        if (cursor := page.cursor) is None:
            return pages


# ---- pages -----------------------------------------------------------------------------------------------


def test_filter_by_fingerprint_excludes_jobs_without_an_error():
    """Only jobs that failed with this fingerprint are listed."""
    failed = job("failed", error=ErrorInfo("builtins.ValueError", "no", "f1"))

    assert [["failed"]] == walk([failed, job("fine")], JobFilter(fingerprint="f1"), 5)


@pytest.mark.parametrize(
    ("where", "oldest_first"), [(JobFilter(queue="mail"), False), (ALL, True)], ids=["filter", "direction"]
)
def test_cursor_of_another_list_is_refused(where, oldest_first):
    """The cursor of another list would lead to a page of a different list."""
    cursor = write_cursor((5, "a"), ALL, oldest_first=False)

    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(cursor, where, oldest_first=oldest_first)


@pytest.mark.parametrize(
    "time", ["", "-", "--5", "5-", "²", "1e9", "9" * 19, "9" * 5_000], ids=lambda time: time[:20] or "nothing"
)
def test_damaged_cursor_is_refused(time):
    """A cursor with the right seal is refused if its time is invalid, as no driver would accept this time."""
    seal, _, _ = write_cursor((5, "a"), ALL, oldest_first=False).partition(".")

    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(f"{seal}.{time}.a", ALL, oldest_first=False)


def test_cursor_without_an_id_is_refused():
    """A cursor without an id was truncated."""
    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(write_cursor((5, ""), ALL, oldest_first=False), ALL, oldest_first=False)
