"""Pages and turns as pure functions: what a storage that keeps plain tables builds lists and claims on."""

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
    """A job that stands in its list where its id and its instant say."""
    given = {"state": State.ENQUEUED, "queue": "default", "changed_at": created_at, **fields}
    return JobRecord(
        id, "tasks.run", "[]", "json", given.pop("state"), given.pop("queue"), 0, created_at, **given
    )


def walk(jobs, where, limit, *, oldest_first=False):
    """The ids of every page, from the first to the last."""
    pages, cursor = [], None
    while True:
        page = paged(jobs, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        pages.append([one.id for one in page.jobs])
        if (cursor := page.cursor) is None:
            return pages


# ---- pages -----------------------------------------------------------------------------------------------


def test_a_job_without_an_error_is_none_of_a_failure():
    """Only what failed in this way is listed under its fingerprint."""
    failed = job("failed", error=ErrorInfo("builtins.ValueError", "no", "f1"))

    assert [["failed"]] == walk([failed, job("fine")], JobFilter(fingerprint="f1"), 5)


@pytest.mark.parametrize(
    ("where", "oldest_first"), [(JobFilter(queue="mail"), False), (ALL, True)], ids=["filter", "direction"]
)
def test_a_cursor_opens_no_page_of_another_list(where, oldest_first):
    """It would show a page that nobody asked for."""
    cursor = write_cursor((5, "a"), ALL, oldest_first=False)

    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(cursor, where, oldest_first=oldest_first)


@pytest.mark.parametrize(
    "time", ["", "-", "--5", "5-", "²", "1e9", "9" * 19, "9" * 5_000], ids=lambda time: time[:20] or "nothing"
)
def test_a_damaged_cursor_is_refused(time):
    """Also one that still has the right seal: no instant of ours looks like this, and no driver takes it."""
    seal, _, _ = write_cursor((5, "a"), ALL, oldest_first=False).partition(".")

    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(f"{seal}.{time}.a", ALL, oldest_first=False)


def test_a_cursor_without_an_id_is_refused():
    """It was cut off."""
    with pytest.raises(StorageError, match="Start without a cursor"):
        read_cursor(write_cursor((5, ""), ALL, oldest_first=False), ALL, oldest_first=False)
