"""Pages of jobs in an SQL storage have a bounded cost for every filter."""

from __future__ import annotations

import pytest

from firelock.storage import JobFilter, State
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import pages as kit_pages
from firelock_sql.sqlite.storage import SqliteStorage
from firelock_sql.verbs.find import RARE, SCANNED


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A storage with more jobs than one page may read; the oldest one is special."""
    path = tmp_path_factory.mktemp("crowd") / "jobs.db"
    handles = Handles(lambda: SqliteStorage(f"sqlite:///{path}?synchronous=normal"))
    scene = Scene(handles)
    scene.first = scene.add(priority=3)
    scene.claim(scene.begin())
    scene.storage.end_session("session-a", (), reason="gone")
    for _ in range(SCANNED // 1_000 + 1):
        scene.add_many(1_000)
    yield scene
    handles.close()


def pages(scene, where, limit=10, **options):
    """Return the jobs of every page of a list, from the first to the last."""
    return kit_pages(scene.storage, where, limit, **options)


@pytest.mark.parametrize("where", [JobFilter(server="host:a"), JobFilter(State.ENQUEUED, server="host:a")])
def test_search_for_a_page_is_bounded(crowd, where):
    """The next page continues the search, so even an empty first page can have a cursor."""
    found = pages(crowd, where, oldest_first=where.state is not None)

    assert 2 <= len(found) <= 4
    assert [crowd.first] == [job.id for page in found for job in page]


def test_rare_condition_is_found_with_one_page(crowd):
    """If few jobs meet a condition, they are looked up.

    One page contains all of them, so it has no next page.
    """
    rare = crowd.add(task="rare", queue="seldom", tags=("odd",), recurring_id="nightly")
    filters = [
        JobFilter(task="rare"),
        JobFilter(queue="seldom"),
        JobFilter(tag="odd"),
        JobFilter(recurring_id="nightly"),
        JobFilter(id_prefix=rare[:20]),
        JobFilter(State.ENQUEUED, task="rare"),
        JobFilter(State.ENQUEUED, queue="seldom", tag="odd"),
    ]

    for where in filters:
        (page,) = pages(crowd, where)
        assert rare in {job.id for job in page}, where


def test_common_condition_is_read_in_order(crowd):
    """If most jobs meet a condition, the first jobs that are read are enough to fill the page."""
    assert SCANNED > RARE

    newest = crowd.storage.find(JobFilter(task="tasks.run", queue="default"), limit=10)
    oldest = crowd.storage.find(JobFilter(task="tasks.run"), limit=10, oldest_first=True)

    times = [job.created_at for job in newest.jobs]
    assert (10, sorted(times, reverse=True)) == (len(times), times)
    assert crowd.first == oldest.jobs[0].id


def test_pages_contain_every_job_once(crowd):
    """Pages have no gaps and no repeated jobs, even if a page ended because enough jobs had been read."""
    where = JobFilter(State.ENQUEUED, task="tasks.run")
    number = crowd.storage.counts().by_queue["default"][State.ENQUEUED]

    seen = [job.id for page in pages(crowd, where, 5_000) for job in page]

    assert (number, number) == (len(seen), len(set(seen)))


@pytest.fixture(scope="module")
def tagged(crowd):
    """The ids of jobs that share a tag, more than may be sorted; all of them are newer than the crowd."""
    return [
        id
        for number in range(RARE // 1_000 + 1)
        for id in crowd.add_many(1_000, tags=("eu", f"lot:{number}"), task="ship", queue="parcels")
    ]


def test_common_tag_reads_only_its_own_jobs(crowd, tagged):
    """The jobs that have the tag are listed in order of creation.

    Other jobs are not read, even if many of them were created before.
    """
    heavy = crowd.add(tags=("eu",), task="ship.heavy", queue="parcels")

    oldest = crowd.storage.find(JobFilter(tag="eu"), limit=10, oldest_first=True)
    newest = crowd.storage.find(JobFilter(tag="eu", queue="parcels"), limit=2)
    (tested,) = pages(crowd, JobFilter(tag="eu", task="ship.heavy"))
    of_state = crowd.storage.find(JobFilter(State.ENQUEUED, tag="eu", queue="parcels"), limit=10)

    assert tagged[:10] == [job.id for job in oldest.jobs]
    assert [heavy, tagged[-1]] == [job.id for job in newest.jobs]
    assert [heavy] == [job.id for job in tested]
    assert [heavy, *tagged[:-10:-1]] == [job.id for job in of_state.jobs]


def test_pages_of_a_common_tag_are_complete(crowd, tagged):
    """The pages contain each job with this tag exactly once, even within a time window."""
    first = crowd.storage.find(JobFilter(tag="eu"), limit=1, oldest_first=True).jobs[0]
    where = JobFilter(tag="eu", task="ship", since=first.created_at)

    assert tagged[::-1] == [job.id for page in pages(crowd, where, 2_000) for job in page]
