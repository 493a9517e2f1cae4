"""The history: sums per minute and hour that are correct, kept, and fast to read."""

from __future__ import annotations

import json
import math
import random

import pytest

from firelock import Firelock
from firelock.errors import StorageError
from firelock.model.clock import SECOND, StorageClock
from firelock.storage import DURATION_BUCKETS, Rollup
from firelock_dashboard.stats.history import History
from firelock_dashboard.stats.rollups import HOUR, MINUTE, Hour, RunSum
from tests.core.fakes import FailingStorage

NOON = 1_893_499_200 * SECOND  # 2030-01-01 12:00 UTC


class Still(FailingStorage):
    """A storage whose clock stands still until the test moves it."""

    def clock(self):
        return NOON + 30 * MINUTE + self.clock_offset


@pytest.fixture
def storage():
    return Still()


@pytest.fixture
def history(storage, tick):
    fire = Firelock(storage)
    fire.client.clock = StorageClock(storage, monotonic=lambda: 0.0)
    history = History(fire, monotonic=tick)
    yield history
    history.close()
    fire.close()


def rollup(minute, *, task="send", queue="mail", outcome="succeeded", count=4, seconds=0.05):
    """Return the attempts that ended in a minute relative to `NOON`, all with the same duration."""
    histogram = [0] * (len(DURATION_BUCKETS) + 1)
    histogram[sum(bound < seconds for bound in DURATION_BUCKETS)] = count
    return Rollup(
        NOON + minute * MINUTE, task, queue, outcome, count, round(count * seconds * SECOND), tuple(histogram)
    )


def test_hour_ends_with_the_current_minute(history, storage):
    """The last of the sixty minutes is the current minute."""
    storage.record_metrics([rollup(30), rollup(29, outcome="failed", count=1), rollup(-29), rollup(-30)])
    history.settle()

    series = history.series("1h")

    assert (60, 60) == (len(series.starts), series.bucket_seconds)
    assert NOON + 30 * MINUTE == series.starts[-1]
    assert [4, 0, 4] == [series.by_outcome["succeeded"][place] for place in (0, 58, 59)]
    assert 1 == series.by_outcome["failed"][58]
    assert (8, 9) == (series.count("succeeded"), series.count())
    assert 0 == series.missing


def test_day_combines_summed_hours_and_open_minutes(history, storage):
    """No rollup is lost or counted twice at the boundary between summed hours and single minutes."""
    storage.record_metrics([rollup(minute) for minute in range(-23 * 60, 31)])
    history.settle()

    series = history.series("24h")

    assert (96, 900) == (len(series.starts), series.bucket_seconds)
    assert 4 * (23 * 60 + 31) == series.count()
    assert [60, 60, 4] == series.by_outcome["succeeded"][-3:]


@pytest.mark.parametrize(("span", "buckets", "bucket"), [("7d", 84, 7_200), ("30d", 120, 21_600)])
def test_weeks_and_months_use_whole_hours(history, storage, span, buckets, bucket):
    """For periods longer than a day, each bucket consists of summed hours."""
    storage.record_metrics([rollup(-minute * 600) for minute in range(1, 15)])
    history.settle()

    series = history.series(span)

    assert (buckets, bucket) == (len(series.starts), series.bucket_seconds)
    assert 56 == series.count("succeeded")
    assert 0 == series.missing


def test_tasks_and_queues_have_separate_series(history, storage):
    """The series of a task counts only that task, and the series of a queue counts only that queue."""
    storage.record_metrics(
        [rollup(-90), rollup(-90, task="charge", count=7), rollup(5, queue="slow", count=2)]
    )
    history.settle()

    assert 7 == history.series("24h", task="charge").count()
    assert 2 == history.series("24h", queue="slow").count()
    assert 11 == history.series("7d", queue="mail").count()
    assert 0 == history.series("1h", task="unknown").count()


def test_hours_are_summed_once_and_read_by_the_next_process(history, storage, tick):
    """Another dashboard reads the stored sums. The rollups of a summed hour are not read again."""
    storage.record_metrics([rollup(-180), rollup(-120)])
    history.settle()
    storage.called["timeline"].clear()

    other = History(history._fire, monotonic=tick)  # noqa: SLF001
    other.settle()

    assert 8 == other.series("24h").count()
    assert ["2030-01-01T09", "2030-01-01T10"] == [r.key for r in storage.list_records("history")]
    assert 0 == sum(NOON - 3 * HOUR <= since < NOON - 2 * HOUR for since, _ in storage.called["timeline"])


def test_hour_is_summed_after_its_late_rollups(history, storage):
    """An hour is summed three minutes after it has ended. Until then, its minutes are read."""
    storage.record_metrics([rollup(10)])
    storage.clock_offset = 32 * MINUTE
    history.settle()
    early = [record.key for record in storage.list_records("history")]

    storage.clock_offset += MINUTE
    history.settle()

    assert ([], ["2030-01-01T12"]) == (early, [record.key for record in storage.list_records("history")])
    assert 4 == history.series("24h").count()


def test_late_rollups_of_open_minutes_are_read_again(history, storage, tick):
    """Servers may store attempts up to three minutes late, so the minutes of this period are read again."""
    storage.record_metrics([rollup(29)])
    history.settle()
    storage.record_metrics([rollup(29), rollup(30)])

    tick.at += 3

    assert [8, 4] == history.series("1h").by_outcome["succeeded"][-2:]


def test_unsummed_hours_are_unknown_and_not_zero(history, storage):
    """A bucket without data is marked as unknown.

    Missing hours are summed one by one, starting with the newest.
    """
    storage.record_metrics([rollup(-600)])
    history.advance()
    for _ in range(4):
        history.advance()

    series = history.series("24h")

    assert 0 < series.missing < 24
    assert [False, True] == [series.known[0], series.known[-1]]


def test_unreadable_summary_is_summed_again(history, storage):
    """The history still works if a record is damaged or was written by another program."""
    storage.record_metrics([rollup(-120)])
    for key, text in {"2030-01-01T10": '{"fives": 1}', "2030-01-01T09": "[", "who knows": "{}"}.items():
        storage.put_record("history", key, text)

    history.settle()

    assert 4 == history.series("24h").count()
    assert (
        4 == json.loads(storage.get_record("history", "2030-01-01T10").value)["tasks"]["send"][0]["succeeded"]
    )


def test_history_is_shown_if_the_storage_rejects_summaries(history, storage):
    """Without a stored summary, the next process must compute the sums again, but the page still works."""
    storage.record_metrics([rollup(-120)])
    storage.fail_always("put_record", StorageError("read-only"))

    history.settle()

    assert 4 == history.series("24h").count()


def test_summaries_older_than_ninety_days_are_deleted(history, storage):
    """Newer summaries are kept."""
    for key in ("2029-10-02T11", "2029-10-04T11"):
        storage.put_record("history", key, Hour.of(0, {}).dump())

    history.settle()

    assert ["2029-10-04T11"] == [record.key for record in storage.list_records("history")]


def test_task_statistics_include_outcomes_and_durations(history, storage):
    """A task's statistics are its attempts by outcome, bounds of percentiles, the mean and the last run."""
    storage.record_metrics(
        [
            rollup(-100, count=90),
            rollup(12, outcome="failed", count=6, seconds=2),
            rollup(20, outcome="retried", count=3, seconds=2),
            rollup(20, outcome="crashed", count=1, seconds=2),
        ]
    )
    history.settle()

    stats = history.tasks()["send"]

    assert (100, 90, 6, 4) == (stats.runs, stats.succeeded, stats.failed, stats.retried)
    assert 0.05 <= stats.p50 <= 0.1
    assert 2 <= stats.p95 <= 3
    assert pytest.approx(0.245) == stats.mean
    assert NOON + 20 * MINUTE == stats.last_at.timestamp() * SECOND


def test_hours_with_runs_of_a_task_are_counted(history, storage):
    """Summed hours and single minutes are treated alike.

    Each hour is counted once, and only the last 24 hours count.
    """
    for minute in (-24 * 60, -600, -590, -20, -10, 0, 29):
        storage.record_metrics([rollup(minute)])
    storage.record_metrics([rollup(29, task="charge", outcome="failed")])
    history.settle()

    assert {"send": 3, "charge": 1} == history.active_hours()


def test_queue_statistics_include_jobs_that_left_and_entered(history, storage, tick):
    """The number of jobs that entered a queue is the number that left it plus the growth of the queue."""
    storage.record_metrics([rollup(minute, count=6) for minute in range(20, 30)])
    fire = history._fire  # noqa: SLF001
    history.settle()
    before = history.queues()["mail"]
    task = fire.task(name="send", queue="mail")(lambda_named)
    history.note_depths(fire.jobs.counts())
    task.enqueue_many([() for _ in range(20)])
    tick.at += 120
    history.note_depths(fire.jobs.counts())

    after = history.queues()["mail"]

    assert (6.0, None) == (before.out_per_minute, before.in_per_minute)
    assert (6.0, 16.0) == (after.out_per_minute, after.in_per_minute)


def test_depths_reach_back_to_the_last_gap(history, tick):
    """The numbers of waiting and running jobs are recorded only while the dashboard is used.

    The result contains the length of the recorded period.
    """
    fire = history._fire  # noqa: SLF001
    task = fire.task(name="send", queue="mail")(lambda_named)
    history.note_depths(fire.jobs.counts())
    tick.at += 600
    for number in range(3):
        history.note_depths(fire.jobs.counts())
        task.enqueue_many([() for _ in range(number + 1)])
        tick.at += 30

    depths = history.depths()

    assert (60.0, [0, 1, 3], [0, 0, 0]) == (depths.seconds, depths.enqueued, depths.processing)


def test_queue_rate_includes_just_ended_attempts(history, storage, tick):
    """Attempts that end in the current minute are counted immediately, not after the minute has ended."""
    history.settle()
    history.queues()
    storage.record_metrics([rollup(30, count=45)])

    history.expire()

    assert 4.5 == history.queues()["mail"].out_per_minute


def lambda_named() -> None:
    """A task's function."""


def test_visit_starts_the_thread_and_close_ends_it(history):
    """A single thread reads the history. `close` ends this thread."""
    history.series("1h")
    thread = history._thread  # noqa: SLF001
    history.series("24h")

    assert history._thread is thread  # noqa: SLF001
    history.close()
    assert not thread.is_alive()


def test_thread_ends_after_the_last_visit(history, tick):
    """The thread ends a minute after the last visit, and the next visit starts another one."""
    history.series("1h")
    thread = history._thread  # noqa: SLF001
    tick.at += 61

    thread.join(10)

    assert not thread.is_alive()
    tick.at += 61  # a visit reads only if the reading is old, and the thread might just have read
    history.series("1h")
    assert history._thread is not thread  # noqa: SLF001


def runs_of(*durations):
    """Return the sum of runs with these durations in seconds."""
    run_sum = RunSum()
    for seconds in durations:
        run_sum.merge(RunSum.of(rollup(0, count=1, seconds=seconds)))
    return run_sum


@pytest.mark.parametrize(
    ("durations", "p50", "p95"),
    [
        ([0.098], 0.098, 0.098),  # a single run: its exact duration
        ([0.05, 0.051], 0.0505, 0.071),  # the other run took at least 30 ms
        ([0.5] * 100, 0.692, 1.0),  # the other 49 runs took at least 300 ms
        ([400.0, 400.0], 400.0, 500.0),  # the last bucket has no upper bound
    ],
)
def test_percentile_bound_respects_the_sum_of_durations(durations, p50, p95):
    """For a single run, the bound is its duration.

    Otherwise, it is the largest value that the data allows.
    """
    run_sum = runs_of(*durations)

    assert pytest.approx(p50, abs=0.001) == run_sum.quantile(0.5)
    assert pytest.approx(p95, abs=0.001) == run_sum.quantile(0.95)


def test_percentile_without_ended_runs_is_none():
    assert RunSum().quantile(0.5) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_percentile_is_never_below_the_true_value(seed, share):
    """For any durations, at least the requested share of the runs took no longer than the bound."""
    chance = random.Random(seed)
    durations = sorted(round(10 ** chance.uniform(-4, 3), 6) for _ in range(chance.randint(1, 200)))

    bound = runs_of(*durations).quantile(share)

    assert bound + 1e-9 >= durations[math.ceil(share * len(durations) - 1e-9) - 1]
