"""Pages and turns as pure functions: what a storage that keeps plain tables builds lists and claims on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.errors import StorageError
from firelock.storage import JobFilter, Record
from firelock.storage.selection import (
    is_pausing,
    listed_at,
    next_in_line,
    paged,
    read_cursor,
    write_cursor,
)
from firelock.values import ErrorInfo, JobRecord, State

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


@given(
    instants=st.dictionaries(st.text("ab.-", min_size=1, max_size=3), st.integers(-2, 3), max_size=8),
    limit=st.integers(1, 4),
    oldest_first=st.booleans(),
)
def test_pages_one_after_the_other_are_the_sorted_list(instants, limit, oldest_first):
    """Every job once, by instant and id, as many a page as asked for; equal instants and odd ids too."""
    jobs = [job(id, at) for id, at in instants.items()]

    pages = walk(jobs, ALL, limit, oldest_first=oldest_first)

    in_order = sorted(instants, key=lambda id: (instants[id], id), reverse=not oldest_first)
    assert in_order == [id for page in pages for id in page]
    assert all(limit == len(page) for page in pages[:-1])
    assert bool(instants) == bool(pages[-1])


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_page_holds_what_matches_within_the_window(oldest_first):
    """The window's start belongs to it, its end does not; the other fields of the filter count as well."""
    jobs = [job(str(at), at, queue=queue) for at, queue in enumerate(["mail", "mail", "pdf", "mail", "mail"])]

    page = paged(
        jobs,
        JobFilter(queue="mail", since=1, until=4),
        limit=5,
        cursor=None,
        oldest_first=oldest_first,
    )

    assert ["1", "3"] == sorted(one.id for one in page.jobs)
    assert page.cursor is None


def test_a_list_of_one_state_is_in_the_order_of_its_coming():
    """A job that was made first but failed last is the newest failure."""
    first = job("first", 1, state=State.FAILED, changed_at=9)
    other = job("other", 2, state=State.FAILED, changed_at=5)

    assert [["other"], ["first"]] == walk([first, other], ALL, 1)
    assert [["first"], ["other"]] == walk([first, other], JobFilter(state=State.FAILED), 1)
    assert (1, 9) == (listed_at(first, ALL), listed_at(first, JobFilter(state=State.FAILED)))


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


@pytest.mark.parametrize("place", [(0, "a"), (-5, "a.b"), (253_402_300_799_999_999, "-")])
def test_a_cursor_says_where_its_page_ended(place):
    """Whatever the instant, and whatever the id holds."""
    assert place == read_cursor(write_cursor(place, ALL, oldest_first=True), ALL, oldest_first=True)


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


# ---- queues ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "is_paused"),
    [('{"paused": true}', True), ('{"paused": false}', False), ("{}", False), ("[1]", False), ("1", False)],
)
def test_a_queue_is_paused_where_its_record_says_so(value, is_paused):
    """Nothing else that the record may hold stops a queue."""
    assert is_paused == is_pausing(Record("queue", "mail", value, 1))


def test_a_queue_without_a_record_goes_on():
    """Nobody has ever paused it."""
    assert not is_pausing(None)


@pytest.mark.parametrize(
    ("queues", "limit", "taken"),
    [
        (["b", "a"], 9, ["b1", "b2", "a1", "a2", "a3"]),
        (["b", "a"], 3, ["b1", "b2", "a1"]),
        (["c", "none", "b", "c"], 9, ["c1", "b1", "b2"]),
        ([], 9, []),
    ],
    ids=["one after another", "limit", "unknown and twice", "none"],
)
def test_named_queues_are_emptied_one_after_another(queues, limit, taken):
    """In the order in which they are named; who is last waits until all before are empty."""
    lines = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "c": ["c1"]}

    assert taken == next_in_line(lines, queues, limit)


@pytest.mark.parametrize(
    ("served", "limit", "taken"),
    [
        ("", 9, ["a1", "b1", "c1", "a2", "b2", "a3"]),
        ("a", 9, ["b1", "c1", "a1", "b2", "a2", "a3"]),
        ("c", 2, ["a1", "b1"]),
        ("bb", 1, ["c1"]),
        ("", 0, []),
    ],
)
def test_all_queues_take_turns(served, limit, taken):
    """One of each, from the queue behind the one served last, also where that one is gone."""
    lines = {"c": ["c1"], "a": ["a1", "a2", "a3"], "b": ["b1", "b2"]}

    assert taken == next_in_line(lines, None, limit, served=served)
