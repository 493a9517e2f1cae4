"""The counters of a worker process, stored in memory that its successor continues to use."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest

from firelock.model.job import ClaimedJob, NewJob, Settled, Transition
from firelock.model.metrics import metrics_text
from firelock.model.state import State
from firelock.server import job_counters as module
from firelock.server.job_counters import (
    OTHER,
    TASK_LIMIT,
    JobCounters,
    job_families,
    read_counters,
    summed,
)
from firelock.server.shared_memory import share_memory
from tests.core.fakes import until

SECOND = 1_000_000
JOB = NewJob("j1", "shop.add", "{}", "json", "default", 0, State.ENQUEUED, 0)
CLAIMED = ClaimedJob("j1", "shop.add", "{}", "json", "default", 0, 1, 0, 0, 1, 0, 10 * SECOND, 11 * SECOND)


def end(to=State.SUCCEEDED, *, seconds=2.0, **changes):
    """Return the end of an attempt with this duration that started 1.5 s after its job was enqueued."""
    started_at = int(11.5 * SECOND)
    duration = int(seconds * SECOND)
    transition = Transition(
        "j1",
        frozenset({State.PROCESSING}),
        "s1",
        1,
        to,
        started_at + duration,
        started_at=started_at,
        **changes,
    )
    return Settled(CLAIMED, transition, duration)


def shown(counters):
    """Return the samples other than zero, without the buckets of the histograms."""
    return {
        line.partition(" ")[0].removeprefix("firelock_"): float(line.rpartition(" ")[2])
        for line in metrics_text(job_families(counters.numbers())).splitlines()
        if not line.startswith("#") and "_bucket" not in line and not line.endswith(" 0")
    }


LABELS = 'queue="default",task="shop.add"'


@pytest.fixture
def descriptor():
    """Shared memory whose size is not set yet."""
    given = share_memory()
    yield given
    os.close(given)


@pytest.mark.parametrize(
    ("settled", "name", "labels"),
    [
        (end(), "jobs_finished_total", ',outcome="succeeded"'),
        (end(State.FAILED), "jobs_finished_total", ',outcome="failed"'),
        (end(State.DELETED), "jobs_finished_total", ',outcome="deleted"'),
        (end(State.SCHEDULED, retries=1), "job_retries_total", ""),
        (end(State.ENQUEUED, crashes=1), "job_crashes_total", ""),
    ],
)
def test_outcome_is_counted_once_by_kind(settled, name, labels):
    """The outcome is counted with the duration of the run and the time that the job had waited."""
    counters = JobCounters.private()

    counters.count_settled([settled])

    assert shown(counters) == {
        f"{name}{{{LABELS}{labels}}}": 1.0,
        f"job_duration_seconds_sum{{{LABELS}}}": 2.0,
        f"job_duration_seconds_count{{{LABELS}}}": 1.0,
        f"job_wait_seconds_sum{{{LABELS}}}": 1.5,
        f"job_wait_seconds_count{{{LABELS}}}": 1.0,
    }


def test_hand_back_and_snooze_are_not_counted():
    """The attempt of a handed-back or snoozed job does not count."""
    counters = JobCounters.private()

    counters.count_settled([end(State.ENQUEUED, gives_back=True), end(State.SCHEDULED, gives_back=True)])

    assert counters.numbers() == {}


def test_waiting_time_is_never_negative():
    """If the difference between the two clocks would be negative, the wait is zero."""
    counters = JobCounters.private()

    counters.count_settled([attrs.evolve(end(), job=attrs.evolve(CLAIMED, enqueued_at=99 * SECOND))])

    assert f"job_wait_seconds_sum{{{LABELS}}}" not in shown(counters)


def test_successor_process_continues_the_counts(descriptor):
    """The counts of the previous process are kept, and the counts of its successor are added to them."""
    assert read_counters(descriptor) == {}
    JobCounters.shared(descriptor).count_created([JOB, JOB])

    second = JobCounters.shared(descriptor)
    second.count_created([JOB, attrs.evolve(JOB, queue="mail")])

    read = read_counters(descriptor)
    assert read == second.numbers()
    assert [(key, numbers[0]) for key, numbers in read.items()] == [
        (("default", "shop.add"), 3.0), (("mail", "shop.add"), 1.0),
    ]  # fmt: skip


KILLED = """
import os, sys
from firelock.server.job_counters import JobCounters
from firelock.storage import NewJob, State

counters = JobCounters.shared(int(sys.argv[1]))
job = NewJob("j", "t", "{}", "json", "q", 0, State.ENQUEUED, 0)
print("counting", flush=True)
while True:
    counters.count_created([job])
"""


def test_killed_writer_leaves_consistent_numbers(descriptor):
    """The numbers that are read while the process writes never decrease."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(descriptor)], pass_fds=(descriptor,), stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        until(lambda: read_counters(descriptor))
        seen = [read_counters(descriptor)["q", "t"][0] for _ in range(200)]
        writer.kill()
    counters = JobCounters.shared(descriptor)
    before = read_counters(descriptor)["q", "t"][0]
    counters.count_created([attrs.evolve(JOB, queue="q", task="t")])

    assert seen == sorted(seen)
    assert before >= seen[-1]
    assert before == int(before)
    assert counters.numbers()["q", "t"][0] == before + 1


def test_excess_tasks_share_one_label():
    """The first tasks have their own labels.

    All others are counted together, first per queue and then in a single row.
    """
    counters = JobCounters.private()
    jobs = [attrs.evolve(JOB, task=f"task{number}") for number in range(10_000)]
    jobs += [attrs.evolve(JOB, queue=f"queue{number}") for number in range(1_000)]

    counters.count_created(jobs)

    numbers = counters.numbers()
    assert len(numbers) == TASK_LIMIT + 65
    assert sum(row[0] for row in numbers.values()) == 11_000
    assert numbers["default", OTHER][0] == 10_000 - TASK_LIMIT
    assert numbers[OTHER, OTHER][0] > 0


def test_task_with_a_very_long_name_gets_no_label():
    """A name of unlimited length could fill the memory."""
    counters = JobCounters.private()

    counters.count_created([attrs.evolve(JOB, task="t" * 5_000)])

    assert list(counters.numbers()) == [("default", OTHER)]


def test_shared_memory_has_space_for_the_largest_rows(descriptor):
    """The memory has space for the largest number of rows, each with the longest name."""
    counters = JobCounters.shared(descriptor)
    width = module._LONGEST_KEY - 65  # noqa: SLF001 - the limit that this test reaches

    counters.count_created(
        [attrs.evolve(JOB, queue=f"q{number:063}", task=f"{number:0{width}}") for number in range(400)]
    )

    assert read_counters(descriptor) == counters.numbers()


def test_memory_of_another_version_is_cleared(descriptor):
    """The format of an older release cannot be read."""
    JobCounters.shared(descriptor).count_created([JOB])
    os.pwrite(descriptor, b"\x01\x02", 0)

    assert read_counters(descriptor) == {}
    assert JobCounters.shared(descriptor).numbers() == {}


def test_counts_of_several_processes_are_added():
    """The numbers are added per task."""
    first, second = JobCounters.private(), JobCounters.private()
    first.count_created([JOB])
    second.count_created([JOB, attrs.evolve(JOB, task="other.task")])

    sums = summed([first.numbers(), second.numbers()])

    assert {key: numbers[0] for key, numbers in sums.items()} == {
        ("default", "shop.add"): 2.0, ("default", "other.task"): 1.0,
    }  # fmt: skip
