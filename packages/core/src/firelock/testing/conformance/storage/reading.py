"""Tests of reading: each matching job is returned once, ordered by time, with its whole history."""

from __future__ import annotations

import attrs
import pytest

from firelock.errors import StorageError
from firelock.model.clock import SECOND
from firelock.model.job import HistoryEntry, LogLine, Progress
from firelock.model.lifecycle import HISTORY_LIMIT, bounded_history
from firelock.model.state import State
from firelock.storage import DURATION_BUCKETS, Counts, FailureGroup, JobFilter, Rollup
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    STAMP,
    Running,
    Scene,
    deletes,
    error_info,
    fails,
    pages,
    requeues,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures


def _walk(scene: Scene, where: JobFilter, limit: int, *, oldest_first: bool = False) -> list[list[str]]:
    walked = pages(scene.storage, where, limit, oldest_first=oldest_first)
    return [[job.id for job in page] for page in walked]


class FindTests(StorageFixtures):
    """Tests of `get` and `find`."""

    verbs = "get find"

    def test_get_returns_one_record_per_id_in_order(self, scene: Scene) -> None:
        """`get` returns one record per id in the given order, None for an unknown id; an id may be repeated.

        If this fails: a caller mistakes the record of another job for the record of its own job.
        """
        ids = scene.add_many(3)
        unknown = scene.new_id()

        records = scene.storage.get([ids[2], unknown, ids[0], ids[2]])

        assert [ids[2], None, ids[0], ids[2]] == [record.id if record else None for record in records]

    def test_jobs_are_listed_newest_first_by_default(self, scene: Scene) -> None:
        """Jobs are ordered by `created_at`, newest or oldest first; jobs with equal times are ordered by id.

        If this fails: the newest jobs are on the last page, or pages repeat some jobs of a batch and miss
        others.
        """
        third, first = (scene.add(created_at=STAMP + second * SECOND) for second in (30, 10))
        alike = sorted(scene.add_many(9, created_at=STAMP + 20 * SECOND))

        assert [third, *alike[::-1], first] == scene.found(JobFilter())
        assert [first, *alike, third] == scene.found(JobFilter(), oldest_first=True)

    def test_jobs_of_a_state_are_ordered_by_time_of_change(self, scene: Scene) -> None:
        """If a state is given, jobs are ordered by the time at which they entered that state.

        If this fails: the latest failure is not on the first page.
        """
        holder = scene.begin()
        runs = [scene.run(holder) for _ in range(3)]
        scene.add()

        for run in (runs[1], runs[2], runs[0]):
            end = succeeds(run)
            end.at = scene.stamp()
            scene.settle(end)

        expected = [runs[0].id, runs[2].id, runs[1].id]
        assert expected == scene.found(JobFilter(state=State.SUCCEEDED))
        assert expected[::-1] == scene.found(JobFilter(state=State.SUCCEEDED), oldest_first=True)

    @pytest.mark.parametrize("field", ["task", "queue", "tag", "recurring_id", "server", "fingerprint"])
    def test_filter_finds_exactly_the_matching_jobs(self, scene: Scene, field: str) -> None:
        """A filter finds the jobs that have exactly this value, and no others.

        If this fails: lists show jobs that do not belong to them.
        """
        found = {}
        for value in ("mail", "mail2", "mai"):
            fields = {"tag": {"tags": ("eu", value)}}.get(field, {field: value})
            if field in ("server", "fingerprint"):
                holder = scene.begin(value)
                end = fails(scene.run(holder), error_info(value))
                found[value] = scene.settle(end)
            else:
                found[value] = scene.add(**fields)
        value = "host:mail" if field == "server" else "mail"

        assert [found["mail"]] == scene.found(JobFilter(**{field: value}))  # type: ignore[arg-type]
        assert [] == scene.found(JobFilter(**{field: "mail%"}))  # type: ignore[arg-type]

    def test_prefix_of_an_id_finds_its_job(self, scene: Scene) -> None:
        """A search for the beginning of an id finds its job; the string is not interpreted as a pattern.

        If this fails: people cannot search by the eight characters that they see.
        """
        ids = scene.add_many(5)
        whole = ids[3]

        assert [whole] == scene.found(JobFilter(id_prefix=whole))
        assert set(ids) >= {whole} == set(scene.found(JobFilter(id_prefix=whole[:-1]))) & {whole}
        assert [one for one in ids[::-1] if one.startswith(ids[0][:8])] == scene.found(
            JobFilter(id_prefix=ids[0][:8])
        )
        assert [] == scene.found(JobFilter(id_prefix="%"))
        assert [] == scene.found(JobFilter(id_prefix=whole[1:]))

    def test_filters_are_combined_with_and(self, scene: Scene) -> None:
        """A job is found only if it matches all fields of a filter.

        If this fails: the fields of a filter are combined with "or".
        """
        wanted = scene.add(queue="mail", task="send", tags=("eu",))
        scene.add(queue="mail", task="send", tags=("us",))
        scene.add(queue="mail", task="read", tags=("eu",))
        scene.add(queue="other", task="send", tags=("eu",))
        scene.settle(deletes(scene.add(queue="mail", task="send", tags=("eu",))))

        where = JobFilter(state=State.ENQUEUED, queue="mail", task="send", tag="eu")

        assert [wanted] == scene.found(where)

    def test_is_retrying_finds_scheduled_jobs_with_retries(self, scene: Scene) -> None:
        """`is_retrying` finds the scheduled jobs with retries, or all others.

        If this fails: snoozed or delayed jobs look like failures.
        """
        holder = scene.begin()
        retrying = scene.settle(retries(scene.run(holder), due_at=BASE + HOUR))
        snoozed = scene.settle(snoozes(scene.run(holder), due_at=BASE + HOUR))
        scheduled = scene.schedule(3_600)
        ended = scene.settle(fails(scene.run(holder, scene.settle(retries(scene.run(holder))))))

        assert [retrying] == scene.found(JobFilter(is_retrying=True))
        assert {snoozed, scheduled, ended} == set(scene.found(JobFilter(is_retrying=False)))

    def test_filter_by_due_orders_scheduled_jobs_by_due_time(self, scene: Scene) -> None:
        """A filter by due time finds only scheduled jobs, and lists those due soonest or latest first.

        If this fails: the job that starts next is on the last page of the scheduled jobs.
        """
        late, soon, later = (scene.schedule(60 * minutes) for minutes in (20, 10, 30))
        retrying = scene.settle(retries(scene.run(), due_at=scene.now() + 15 * 60 * SECOND))
        scene.add()

        by_due = JobFilter(state=State.SCHEDULED, by_due=True)

        assert [soon, retrying, late, later] == scene.found(by_due, oldest_first=True)
        assert [later, late, retrying, soon] == scene.found(by_due)
        assert [soon, retrying, late, later] == scene.found(JobFilter(by_due=True), oldest_first=True)
        assert [] == scene.found(JobFilter(state=State.ENQUEUED, by_due=True))

    def test_filter_by_due_combines_with_other_filters(self, scene: Scene) -> None:
        """A filter by due time applies its other fields too, and its window applies to due times.

        If this fails: "due within the hour" shows jobs that were scheduled within the hour, or jobs of other
        queues.
        """
        due = [BASE + minute * 60 * SECOND for minute in range(4)]
        fields: dict[str, object] = {
            "state": State.SCHEDULED,
            "queue": "mail",
            "task": "send",
            "tags": ("eu",),
        }
        ids = [scene.add(due_at=at, **fields) for at in due]
        scene.add(**{**fields, "due_at": due[1], "queue": "other", "task": "read", "tags": ("us",)})
        ended = scene.settle(retries(scene.run(), due_at=due[2] + 1))

        for where in (JobFilter(queue="mail"), JobFilter(task="send"), JobFilter(tag="eu")):
            within = attrs.evolve(where, by_due=True, since=due[1], until=due[3], is_retrying=False)
            assert ids[1:3] == scene.found(within, oldest_first=True)
        assert [ended] == scene.found(JobFilter(by_due=True, is_retrying=True, queue="default"))

    def test_window_of_a_list_is_half_open(self, scene: Scene) -> None:
        """`since` is inclusive and `until` exclusive, for the time by which the list is ordered.

        If this fails: jobs at the edge of a window are shown twice or never.
        """
        ids = [scene.add(created_at=STAMP + second) for second in range(5)]
        for place, job_id in enumerate(ids):
            scene.settle(deletes(job_id, at=STAMP + 100 - place))

        created = scene.found(JobFilter(since=STAMP + 1, until=STAMP + 3))
        changed = scene.found(JobFilter(state=State.DELETED, since=STAMP + 97, until=STAMP + 99))

        assert ([ids[2], ids[1]], [ids[2], ids[3]]) == (created, changed)

    @pytest.mark.parametrize("oldest_first", [False, True])
    @pytest.mark.parametrize("by_due", [None, True])
    @pytest.mark.parametrize("limit", [1, 3, 4, 12, 50])
    def test_pages_have_each_job_once(
        self, scene: Scene, limit: int, by_due: bool | None, oldest_first: bool
    ) -> None:
        """Pages contain every job once, ordered by time and id, and no page follows a full last page.

        If this fails: jobs with equal times are missing or repeated where two pages meet.
        """
        ids = [
            scene.add(created_at=STAMP + place // 3, state=State.SCHEDULED, due_at=BASE + place // 3)
            for place in range(12)
        ]
        ordered = [one for start in range(0, 12, 3) for one in sorted(ids[start : start + 3])]
        ordered = ordered if oldest_first else ordered[::-1]

        walked = _walk(scene, JobFilter(by_due=by_due), limit, oldest_first=oldest_first)

        assert [ordered[start : start + limit] for start in range(0, 12, limit)] == walked

    def test_cursor_stays_valid_when_jobs_are_added_or_removed(self, scene: Scene) -> None:
        """If jobs are added, or the last job of a page is removed, the next page repeats and hides no jobs.

        If this fails: pages are counted by offset.
        """
        ids = [scene.add(created_at=STAMP + place) for place in range(6)]
        page = scene.storage.find(JobFilter(), limit=2)
        assert [ids[5], ids[4]] == [job.id for job in page.jobs]

        scene.add(created_at=STAMP + 50)
        scene.settle(deletes(ids[4], expires_at=BASE - HOUR))
        scene.prune()
        rest = scene.storage.find(JobFilter(), limit=10, cursor=page.cursor)

        assert ([ids[3], ids[2], ids[1], ids[0]], None) == ([job.id for job in rest.jobs], rest.cursor)

    def test_every_page_of_a_filtered_list_is_filtered(self, scene: Scene) -> None:
        """Every page of a filtered list is filtered; a page may be short or empty without being the last.

        If this fails: the second page of a search shows all jobs.
        """
        wanted = [scene.add(tags=("eu",), queue="mail") for _ in range(5) if scene.add(tags=("us",))]

        walked = _walk(scene, JobFilter(tag="eu", queue="mail"), 2, oldest_first=True)

        assert wanted == [job_id for page in walked for job_id in page]

    @pytest.mark.parametrize("cursor", ["nonsense", "é%'", "W10=", "bnVsbA==", "0"])
    def test_invalid_cursor_raises_storage_error(self, scene: Scene, cursor: str) -> None:
        """A string that is not the cursor of a page raises `StorageError`.

        If this fails: a mistyped address shows the first page, or an error of the driver.
        """
        scene.add()

        with pytest.raises(StorageError):
            scene.storage.find(JobFilter(), limit=2, cursor=cursor)

    def test_listed_job_equals_the_fetched_job(self, scene: Scene) -> None:
        """A listed job has the same record as a fetched one.

        If this fails: a list and a page about the same job differ.
        """
        holder = scene.begin()
        scene.settle(fails(scene.run(holder, scene.add(tags=("b", "a")))))
        scene.continuation(scene.schedule(60), tags=("x",))

        page = scene.storage.find(JobFilter(), limit=10)

        assert scene.storage.get([job.id for job in page.jobs]) == page.jobs
        assert 3 == len(page.jobs)


_MINUTE = 60 * SECOND
_BUCKETS = len(DURATION_BUCKETS) + 1


def _rollup(minute: int = 0, task: str = "send", queue: str = "mail", outcome: str = "succeeded") -> Rollup:
    histogram = (1, 2) + (0,) * (_BUCKETS - 3) + (4,)
    return Rollup(BASE + minute * _MINUTE, task, queue, outcome, 7, 3 * SECOND, histogram)


def _by_state(counts: Counts) -> dict[State, int]:
    return {state: number for state, number in counts.by_state.items() if number}


def _by_queue(counts: Counts) -> dict[str, dict[State, int]]:
    queues = {
        queue: {state: number for state, number in states.items() if number}
        for queue, states in counts.by_queue.items()
    }
    return {queue: states for queue, states in queues.items() if states}


class PeopleTests(StorageFixtures):
    """Tests of all verbs for reading except `get` and `find`."""

    verbs = "history counts failure_groups record_metrics timeline append_logs read_log"

    def test_history_has_every_change_in_order(self, scene: Scene) -> None:
        """A job's history has an entry for each change of its state, oldest first, each with its own time.

        If this fails: people cannot see later what happened to a job.
        """
        holder = scene.begin()
        job_id = scene.settle(retries(scene.run(holder)))
        end = succeeds(scene.run(holder, job_id))
        scene.settle(end)
        scene.settle(requeues(job_id, at=end.at + 1))
        scene.settle(deletes(job_id, at=end.at + 2))

        history = scene.history(job_id)

        assert [
            (State.ENQUEUED, None), (State.ENQUEUED, 1), (State.SUCCEEDED, 2), (State.ENQUEUED, None),
            (State.DELETED, None),
        ] == [(entry.state, entry.attempt) for entry in history]  # fmt: skip
        assert [end.at, end.at + 1, end.at + 2] == [entry.at for entry in history[2:]]

    def test_long_history_keeps_its_first_half_and_newest_entries(self, scene: Scene) -> None:
        """A history over its limit keeps its first half and newest entries; one entry counts the others.

        If this fails: the history of a job that is retried forever grows forever, or loses its beginning.
        """
        job_id = scene.add()
        changes = [change(job_id, at=scene.stamp()) for _ in range(80) for change in (deletes, requeues)]
        expected: list[HistoryEntry] = scene.history(job_id)
        for change in changes:
            expected = bounded_history(expected, change.entry())

        for start in range(0, len(changes), 7):
            scene.storage.apply(changes[start : start + 7])

        history = scene.history(job_id)
        assert expected == history
        assert (HISTORY_LIMIT, 161) == (len(history), sum(entry.elided or 1 for entry in history))

    def test_last_twenty_errors_are_kept(self, scene: Scene) -> None:
        """The last twenty failed attempts keep their tracebacks, oldest first.

        If this fails: tracebacks of an endless retry fill the store, or the newest one is missing.
        """
        holder = scene.begin()
        job_id = scene.add()
        for number in range(1, 24):
            scene.settle(
                retries(scene.run(holder, job_id), error=error_info(f"f{number}", traceback=f"t{number}"))
            )

        errors = scene.errors(job_id)

        assert list(range(4, 24)) == [attempt.attempt for attempt in errors]
        assert [f"t{number}" for number in range(4, 24)] == [attempt.error.traceback for attempt in errors]

    def test_counts_are_exact_after_each_change(self, scene: Scene) -> None:
        """Counts by state and by queue are exact after each kind of change.

        If this fails: the numbers that people see first are wrong, and stay wrong.
        """
        assert ({}, {}) == (_by_state(scene.storage.counts()), _by_queue(scene.storage.counts()))
        holder = scene.begin()
        mail, bulk = scene.add_many(4, queue="mail"), scene.add_many(3, queue="bulk")
        parent = scene.schedule(3_600, queue="bulk")
        scene.continuation(parent, queue="mail")
        runs = [Running(job, holder) for job in scene.claim(holder, 5, ["mail", "bulk"])]
        scene.storage.apply([succeeds(runs[0]), fails(runs[1]), retries(runs[2], due_at=BASE + HOUR)])
        scene.storage.apply([deletes(mail[3]), deletes(bulk[1]), requeues(runs[0].id), deletes(parent)])
        scene.release()

        counts = scene.storage.counts()

        assert {
            "mail": {State.ENQUEUED: 1, State.FAILED: 1, State.SCHEDULED: 1, State.DELETED: 2},
            "bulk": {State.PROCESSING: 1, State.ENQUEUED: 1, State.DELETED: 2},
        } == _by_queue(counts)
        assert {
            State.ENQUEUED: 2, State.FAILED: 1, State.SCHEDULED: 1, State.DELETED: 4, State.PROCESSING: 1,
        } == _by_state(counts)  # fmt: skip

    def test_counts_are_exact_after_upkeep(self, scene: Scene) -> None:
        """Promoting jobs, ending sessions and pruning jobs change the counts like any other change.

        If this fails: counters drift with every crash or retention run.
        """
        scene.schedule(3_600, queue="a")
        scene.add(queue="b")
        scene.claim(scene.begin("x", 3_600), 1, ["b"])
        scene.settle(deletes(scene.add(queue="c"), expires_at=BASE + HOUR))
        scene.advance(7_200)

        scene.promote()
        scene.orphans()
        scene.prune()

        counts = scene.storage.counts()
        assert {"a": {State.ENQUEUED: 1}, "b": {State.ENQUEUED: 1}} == _by_queue(counts)
        assert {State.ENQUEUED: 2} == _by_state(counts)

    def test_failures_are_grouped_by_fingerprint(self, scene: Scene) -> None:
        """Failed jobs are grouped by fingerprint; a group shows its newest job, and the largest comes first.

        If this fails: a thousand equal failures hide the one that matters.
        """
        holder = scene.begin()
        job_ids = []
        for number, fingerprint in enumerate(["common", "rare", "common", "other", "common", "other"]):
            end = fails(
                scene.run(holder, scene.add(task=f"task{number}")),
                error_info(fingerprint, message=f"message {number}"),
            )
            job_ids.append(scene.settle(end))
        scene.settle(requeues(job_ids[3]))
        newest = scene.record(job_ids[4])

        groups = scene.storage.failure_groups(10)

        largest = FailureGroup(
            "common", "builtins.ValueError", "message 4", "task4", 3, newest.changed_at, newest.id
        )
        assert largest == groups[0]
        assert {("rare", 1), ("other", 1)} == {(group.fingerprint, group.count) for group in groups[1:]}
        assert [largest] == scene.storage.failure_groups(1)

    def test_rollups_of_the_same_minute_are_added(self, scene: Scene) -> None:
        """Rollups of the same minute, task, queue and outcome are added up; other rollups stay separate.

        The histograms of rollups that belong together are added up too.

        If this fails: two servers overwrite each other's metrics.
        """
        apart = [_rollup(outcome="failed"), _rollup(queue="bulk"), _rollup(task="read")]

        scene.storage.record_metrics([_rollup(), *apart])
        scene.storage.record_metrics([_rollup()])

        timeline = scene.storage.timeline(BASE, BASE + _MINUTE)
        doubled = tuple(2 * number for number in _rollup().histogram)
        expected = [attrs.evolve(_rollup(), count=14, duration=6 * SECOND, histogram=doubled), *apart]
        assert sorted(expected, key=str) == sorted(timeline, key=str)

    def test_timeline_is_a_half_open_window_in_order(self, scene: Scene) -> None:
        """Minutes are returned in order, from `since` to before `until`, filtered by task or queue.

        If this fails: charts jump, or count a minute twice.
        """
        rollups = [_rollup(minute) for minute in (3, 0, 2, 1)]
        rollups += [_rollup(1, task="read"), _rollup(2, queue="bulk")]
        scene.storage.record_metrics(rollups)
        since, until = BASE + _MINUTE, BASE + 3 * _MINUTE

        whole = scene.storage.timeline(since, until)
        by_task = scene.storage.timeline(since, until, task="read")
        by_queue = scene.storage.timeline(since, until, queue="mail", task="send")

        assert [1, 1, 2, 2] == [(rollup.minute - BASE) // _MINUTE for rollup in whole]
        assert [_rollup(1, task="read")] == by_task
        assert [_rollup(1), _rollup(2)] == by_queue

    def test_log_lines_are_numbered_and_read_from_any_line(self, scene: Scene) -> None:
        """Lines get ascending numbers across calls, and a reader continues after the last one it has read.

        If this fails: a page that follows a log repeats or misses lines.
        """
        one, other = scene.add_many(2)
        lines = [LogLine(0, scene.stamp(), "INFO", f"line {number} ü%", 1) for number in range(5)]

        scene.storage.append_logs({one: lines[:3], other: lines[4:]}, {})
        scene.storage.append_logs({one: lines[3:]}, {})

        log = scene.storage.read_log(one)
        numbers = [line.number for line in log]
        assert lines == [attrs.evolve(line, number=0) for line in log]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0
        assert log[2:] == scene.storage.read_log(one, after=numbers[1])
        assert log[1:3] == scene.storage.read_log(one, after=numbers[0], limit=2)
        assert [] == scene.storage.read_log(one, after=numbers[-1])
        assert ["line 4 ü%"] == [line.text for line in scene.storage.read_log(other)]

    def test_log_keeps_its_newest_thousand_lines(self, scene: Scene) -> None:
        """A job keeps its newest 1,000 lines, and their numbers do not change.

        If this fails: the log of one job fills the store, or its last lines are missing.
        """
        job_id = scene.add()
        for start in (0, 600):
            lines = [LogLine(0, 1, "INFO", str(number)) for number in range(start, start + 600)]
            scene.storage.append_logs({job_id: lines}, {})

        log = scene.storage.read_log(job_id, limit=2_000)

        assert [str(number) for number in range(200, 1_200)] == [line.text for line in log]
        assert (log[0].number + 999, 100) == (log[-1].number, len(scene.storage.read_log(job_id)))

    def test_line_numbers_keep_growing_after_old_lines_are_deleted(self, scene: Scene) -> None:
        """The numbers of a job's lines keep growing after its oldest lines were deleted.

        A reader that has read 1,050 lines gets the next six with the number of the last one.

        If this fails: a reader that follows the log of a job with more than 1,000 lines sees no new line.
        """
        job_id = scene.add()

        def append(number: int) -> None:
            lines = [LogLine(0, scene.stamp(), "INFO", f"line {place}") for place in range(number)]
            scene.storage.append_logs({job_id: lines}, {})

        append(1_050)
        last = scene.storage.read_log(job_id, limit=2_000)[-1].number
        append(5)
        append(1)

        following = scene.storage.read_log(job_id, after=last)
        numbers = [line.number for line in scene.storage.read_log(job_id, limit=2_000)]
        assert ["line 0", "line 1", "line 2", "line 3", "line 4", "line 0"] == [
            line.text for line in following
        ]
        assert 1_000 == len(numbers) == len(set(numbers))
        assert sorted(numbers) == numbers

    def test_new_progress_replaces_the_previous_one(self, scene: Scene) -> None:
        """New progress replaces the previous one, and a job without progress has None.

        If this fails: a progress bar does not move.
        """
        changed, unchanged = scene.add_many(2)
        first, last = Progress(1.0, 10.0, 5), Progress(2.5, 10.0, 6, "half-way: 25 %")

        scene.storage.append_logs({}, {changed: first})
        scene.storage.append_logs({}, {changed: last})

        assert [None, last] == [one and one.progress for one in scene.storage.get([unchanged, changed])]

    def test_log_lines_and_progress_of_unknown_jobs_are_dropped(self, scene: Scene) -> None:
        """Log lines and progress of unknown jobs are dropped, and do not appear in a later job with the id.

        Lines of other jobs in the call are stored. An unknown job has no history and no errors.

        If this fails: one pruned job makes a server lose the logs of a whole batch, or leaves rows behind; or
        a page about the job is an error.
        """
        known, job = scene.add(), scene.new_job()
        unknown = job.id
        line, progress = LogLine(0, 1, "INFO", "kept"), Progress(1.0, 2.0, 3)

        scene.storage.append_logs({unknown: [line], known: [line]}, {unknown: progress, known: progress})

        assert ["kept"] == [one.text for one in scene.storage.read_log(known)]
        assert ([], [], []) == (
            scene.history(unknown), scene.errors(unknown), scene.storage.read_log(unknown),
        )  # fmt: skip
        scene.storage.insert([job])
        assert (progress, None) == (scene.record(known).progress, scene.record(unknown).progress)
        assert [] == scene.storage.read_log(unknown)
