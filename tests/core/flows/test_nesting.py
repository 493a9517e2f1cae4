"""Batches within batches: the jobs that results and counts include, and the errors for omitted jobs."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from firelock import BatchCounts, ConfigurationError, DeepBatchCounts, Firelock, JobNotFound, Retry, Settings
from firelock.flows import nesting
from firelock.model.clock import span_micros
from firelock.storage import MemoryStorage
from tests.core.fakes import Worker


class CountingStorage(MemoryStorage):
    """A storage in memory that counts the calls that read batches."""

    def __init__(self):
        super().__init__()
        self.finds, self.batch_reads = 0, 0

    def find(self, where, *, limit, cursor=None, oldest_first=False):
        self.finds += 1
        return super().find(where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    def batch_counts(self, ids):
        self.batch_reads += 1
        return super().batch_counts(ids)


@pytest.fixture
def fire():
    """An app whose storage counts reads."""
    with Firelock(CountingStorage()) as fire:
        yield fire


@pytest.fixture
def load(fire):
    """A task that returns its argument, and fails for a negative one."""

    @fire.task(retry=Retry(attempts=0), name="load")
    def load(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number

    return load


@pytest.fixture
def year(fire, load):
    """An ended batch with two direct jobs and two inner batches (months); one of these contains a week."""
    with fire.batch("year") as year:
        year.add(load, 1)
        with year.batch("january") as january:
            january.add_many([load.call(number) for number in (10, 11)])
            with january.batch("week") as week:
                week.add_many([load.call(number) for number in (100, 101)])
        year.add(load, 2)
        with year.batch("february") as february:
            february.add_many([load.call(number) for number in (20, -1)])
    run(fire)
    return year


def run(fire):
    worker = Worker(fire)
    while worker.run():
        pass
    while fire.storage.release(500):
        pass


def go_on(fire, span):
    """Advance the clock by this duration, and prune the jobs that are no longer kept."""
    fire.storage.clock_offset += span_micros(span)
    # Jobs that are kept as long as their batch are pruned only after the batch.
    for _ in range(5):
        fire.storage.prune(500)


def collect(batch, task, **options):
    async def awaited():
        return [result async for result in batch.aresults(task, **options)]

    results = list(batch.results(task, **options))
    assert asyncio.run(awaited()) == results
    return results


# ---- results ---------------------------------------------------------------------------------------------


def test_results_of_a_nested_batch_require_the_deep_argument(year, load):
    """If the argument had a default, a caller could sum only the direct members without noticing."""
    message = (
        r"<Batch .* 'year' .*> contains 2 batches, so results\(load\) requires deep\. Pass deep=True for "
        r"the results of all members, or deep=False for those of its own members only\."
    )
    with pytest.raises(ConfigurationError, match=message):
        list(year.results(load))
    with pytest.raises(ConfigurationError, match="contains 2 batches, so"):
        asyncio.run(anext(year.aresults(load)))


def test_deep_results_include_all_inner_batches(year, load):
    """The direct members of a batch come first, then the members of each inner batch."""
    assert collect(year, load, deep=True) == [1, 2, 10, 11, 100, 101, 20]
    assert collect(year, load, deep=False) == [1, 2]


def test_results_of_a_flat_batch_do_not_require_deep(fire, load):
    with fire.batch("plain") as batch:
        batch.add_many([load.call(number) for number in range(3)])
    run(fire)

    assert (
        collect(batch, load)
        == collect(batch, load, deep=True)
        == collect(batch, load, deep=False)
        == [0, 1, 2]
    )


def test_error_for_one_inner_batch_uses_the_singular(fire, load):
    with fire.batch("outer") as outer, outer.batch("inner") as inner:
        inner.add(load, 7)

    with pytest.raises(ConfigurationError, match=r"contains 1 batch, so results.* requires deep"):
        list(outer.results(load))


def test_deep_results_continue_after_any_member(year, load):
    """A reader that stops and continues gets each result exactly once."""
    everything = collect(year, load, deep=True)
    ids = {job.result(0): job.id for job in members_within(year) if job.state == "succeeded"}

    rests = {number: collect(year, load, deep=True, after=ids[number]) for number in everything}

    assert rests == {number: everything[place + 1 :] for place, number in enumerate(everything)}


def test_deep_results_continue_after_a_batch(year, load):
    """If `after` is the id of a batch, the results of that batch are skipped."""
    january = next(job for job in year.members() if job.task != "load")

    assert collect(year, load, deep=True, after=january.id) == [20]


def test_direct_results_after_a_member_of_an_inner_batch_raise(year, load):
    inner = next(job for job in members_within(year) if job.batch_id != year.id and job.task == "load")

    with pytest.raises(JobNotFound, match=r"is not a member of <Batch .* 'year'"):
        list(year.results(load, deep=False, after=inner.id))


def test_results_continue_after_a_job(year, load):
    """The `after` parameter accepts the handle of a member as well as its id."""
    members = [job for job in year.members() if job.task == "load"]

    assert collect(year, load, deep=False, after=members[0]) == [2]


@pytest.mark.parametrize("after", [7, b"id"], ids=["number", "bytes"])
def test_results_after_a_value_of_another_type_raise(year, load, after):
    with pytest.raises(ConfigurationError, match=r"^after must be a member of <Batch .* or an id, got .*\.$"):
        list(year.results(load, deep=True, after=after))


def test_deep_results_after_a_job_outside_the_batch_raise(year, load):
    outsider = load.enqueue(5)

    with pytest.raises(JobNotFound, match=r"is not in a batch within <Batch .* 'year'"):
        list(year.results(load, deep=True, after=outsider.id))


def test_deep_results_are_kept_as_long_as_the_outer_batch():
    """A shorter retention of inner batches and their jobs has no effect, but a longer retention does."""
    with Firelock(MemoryStorage(), settings=Settings(keep_succeeded=2)) as fire:

        @fire.task(name="load")
        def load(number: int) -> int:
            return number

        with fire.batch("outer", keep=timedelta(days=30)) as outer:
            with outer.batch("short") as short, short.batch("deeper") as deeper:
                deeper.add_many([load.call(number) for number in range(3)])
            with outer.batch("long", keep=timedelta(days=60)) as long:
                long.add(load, 7)
        run(fire)

        go_on(fire, timedelta(days=29))
        kept = collect(outer, load, deep=True)
        go_on(fire, timedelta(days=2))

        assert kept == [0, 1, 2, 7]
        with pytest.raises(JobNotFound):
            list(outer.results(load, deep=True))
        assert collect(long, load) == [7]


def test_results_raise_if_the_batch_is_pruned_during_iteration(fire, load):
    """A normal end of the iteration would hide the missing results."""
    with fire.batch("plain") as batch:
        batch.add_many([load.call(number) for number in range(3)])
    run(fire)
    results = batch.results(load)
    first = next(results)
    fire.storage.clear()  # as after a prune

    with pytest.raises(
        JobNotFound, match=r"^Batch 'plain' \(.*\) was pruned while its results were read; some"
    ):
        list(results)
    assert first == 0


def test_results_of_a_pruned_batch_raise_an_error(year, load):
    """An empty iteration would look like a batch without results."""
    week = next(job for job in members_within(year) if getattr(job, "name", "") == "week")
    year._client.storage.clear()  # noqa: SLF001 - as after a prune

    with pytest.raises(JobNotFound):
        list(week.results(load))


def test_deep_results_are_read_in_pages(fire, load, monkeypatch):
    """A nested batch costs one read for each inner batch and one for each page of inner batches."""
    monkeypatch.setattr(nesting, "_PAGE", 4)
    with fire.batch("outer") as outer:
        for number in range(10):
            with outer.batch(f"inner {number}") as inner:
                inner.add(load, number)
    run(fire)
    fire.storage.finds = fire.storage.batch_reads = 0

    assert list(outer.results(load, deep=True)) == list(range(10))

    assert fire.storage.finds <= 1 + 3 + 10
    assert fire.storage.batch_reads <= 1 + 3


def members_within(batch):
    for job in batch.members():
        yield job
        if job.task == "firelock:batch":
            yield from members_within(job)


# ---- counts ----------------------------------------------------------------------------------------------


def test_counts_include_direct_members_and_inner_batches(year):
    assert year.counts() == BatchCounts(total=4, succeeded=3, failed=1, batches=2)


def test_deep_counts_include_jobs_of_all_inner_batches(year):
    expected = DeepBatchCounts(
        total=8, active=0, waiting=0, succeeded=7, failed=1, deleted=0, batches=3, is_cut=False
    )

    assert year.counts(deep=True) == expected == asyncio.run(year.acounts(deep=True))
    assert asyncio.run(year.acounts()) == year.counts()
    assert year.counts(deep=True).progress == 1.0


def test_deep_counts_separate_active_and_waiting_jobs(fire, load):
    """A waiting inner batch does not itself count as a waiting job."""
    with fire.batch("outer") as outer:
        first = outer.add(load, 1)
        with outer.batch("later", after=first) as later:
            later.add_many([load.call(number) for number in (2, 3)])
        with outer.batch("now") as now:
            a = now.add(load, 4)
            now.add(load.using(after=a), 5)

    opened = outer.counts(deep=True)
    run(fire)

    assert opened == DeepBatchCounts(
        total=5, active=4, waiting=1, succeeded=0, failed=0, deleted=0, batches=2, is_cut=False
    )
    assert outer.counts(deep=True).succeeded == 5


def test_deep_counts_read_at_most_the_given_number_of_batches(fire, load):
    """Each omitted batch counts as one job."""
    with fire.batch("outer") as outer:
        for number in range(3):
            with outer.batch(f"inner {number}") as inner:
                inner.add_many([load.call(number) for _ in range(10)])

    cut = outer.counts(deep=True, limit=2)

    assert (cut.total, cut.batches, cut.is_cut) == (21, 2, True)
    assert not outer.counts(deep=True, limit=3).is_cut


def test_deep_counts_of_a_flat_batch_cost_one_read(fire, load):
    """The members are not searched for inner batches if the batch has none."""
    with fire.batch("plain") as batch:
        batch.add_many([load.call(number) for number in range(3)])
    fire.storage.finds = fire.storage.batch_reads = 0

    assert batch.counts(deep=True).total == 3

    assert (fire.storage.finds, fire.storage.batch_reads) == (0, 1)


def test_progress_of_an_empty_batch_is_complete(fire):
    with fire.batch("nothing") as batch:
        pass

    assert batch.counts(deep=True).progress == 1.0
