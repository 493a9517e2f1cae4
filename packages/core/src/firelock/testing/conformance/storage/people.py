"""What people read: histories, errors, counts, groups, timelines, logs; exact, and bounded."""

from __future__ import annotations

import attrs

from firelock.lifecycle import HISTORY_LIMIT, bounded_history
from firelock.storage import DURATION_BUCKETS, Counts, FailureGroup, Rollup
from firelock.testing.conformance.ends import deletes, fails, requeues, retries, succeeds
from firelock.testing.conformance.handles import BASE, HOUR, SECOND
from firelock.testing.conformance.scene import Running, Scene, error_info
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import HistoryEntry, LogLine, Progress, State

__all__ = ["PeopleDuty"]

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


class PeopleDuty(StorageFixtures):
    """What the reading verbs beside `get` and `find` promise."""

    verbs = "history counts failure_groups record_metrics timeline append_logs read_log"

    def test_a_history_is_every_step_in_order(self, scene: Scene) -> None:
        """A job's history is what happened to it, oldest first, each step with its own instant.

        If this fails: nobody can tell afterwards what became of a job.
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

    def test_a_long_history_leaves_its_middle_out(self, scene: Scene) -> None:
        """Past the limit the first half and the newest steps stay, and one entry tells how many are left out.

        If this fails: a job that is retried for ever grows for ever, or forgets how it began.
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

    def test_the_last_twenty_errors_are_kept(self, scene: Scene) -> None:
        """Failed attempts keep their tracebacks, oldest first, the last twenty of them.

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

    def test_unknown_jobs_have_no_past(self, scene: Scene) -> None:
        """History, errors and log of an unknown job are empty, its progress None.

        If this fails: a page about a pruned job is an error.
        """
        unknown = scene.new_id()

        assert ([], [], [], [None]) == (
            scene.history(unknown), scene.errors(unknown), scene.storage.read_log(unknown),
            [one and one.progress for one in scene.storage.get([unknown])],
        )  # fmt: skip

    def test_counts_follow_every_move(self, scene: Scene) -> None:
        """Counts by state and by queue are exact after each kind of move.

        If this fails: the numbers people see first are wrong, and stay wrong.
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

    def test_counts_follow_upkeep(self, scene: Scene) -> None:
        """Promotion, the end of sessions and pruning move the counts like any other change.

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
        """Failed jobs that failed alike are one group, largest first, shown by their newest.

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

    def test_rollups_add_up(self, scene: Scene) -> None:
        """Figures of one minute, task, queue and outcome are summed, histogram and all; others kept apart.

        If this fails: two servers overwrite each other's figures.
        """
        apart = [_rollup(outcome="failed"), _rollup(queue="bulk"), _rollup(task="read")]

        scene.storage.record_metrics([_rollup(), *apart])
        scene.storage.record_metrics([_rollup()])

        timeline = scene.storage.timeline(BASE, BASE + _MINUTE)
        doubled = tuple(2 * number for number in _rollup().histogram)
        expected = [attrs.evolve(_rollup(), count=14, duration=6 * SECOND, histogram=doubled), *apart]
        assert sorted(expected, key=str) == sorted(timeline, key=str)

    def test_a_timeline_is_a_half_open_window_in_order(self, scene: Scene) -> None:
        """Minutes come in order, from `since` inclusive to `until` exclusive, by task or queue where asked.

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

    def test_a_log_is_numbered_and_read_on(self, scene: Scene) -> None:
        """Lines get ascending numbers across calls; a reader goes on after the last one it has seen.

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

    def test_a_log_keeps_its_newest_lines(self, scene: Scene) -> None:
        """A job keeps its newest 1,000 lines, their numbers unchanged.

        If this fails: one chatty job fills the store, or hides its end.
        """
        job_id = scene.add()
        for start in (0, 600):
            lines = [LogLine(0, 1, "INFO", str(number)) for number in range(start, start + 600)]
            scene.storage.append_logs({job_id: lines}, {})

        log = scene.storage.read_log(job_id, limit=2_000)

        assert [str(number) for number in range(200, 1_200)] == [line.text for line in log]
        assert (log[0].number + 999, 100) == (log[-1].number, len(scene.storage.read_log(job_id)))

    def test_progress_is_the_last_one_told(self, scene: Scene) -> None:
        """Progress replaces what was told before; one answer an id, None where there is none.

        If this fails: a progress bar stands still.
        """
        told, untold = scene.add_many(2)
        first, last = Progress(1.0, 10.0, 5), Progress(2.5, 10.0, 6, "half-way: 25 %")

        scene.storage.append_logs({}, {told: first})
        scene.storage.append_logs({}, {told: last})

        assert [None, last] == [one and one.progress for one in scene.storage.get([untold, told])]

    def test_lines_of_unknown_jobs_are_passed_over(self, scene: Scene) -> None:
        """Log lines and progress of a job that is gone are dropped, none are a later one's; others are kept.

        If this fails: one pruned job makes a server lose the log of a whole batch, or leaves rows behind.
        """
        known, job = scene.add(), scene.new_job()
        unknown = job.id
        line, progress = LogLine(0, 1, "INFO", "kept"), Progress(1.0, 2.0, 3)

        scene.storage.append_logs({unknown: [line], known: [line]}, {unknown: progress, known: progress})

        assert (["kept"], []) == (
            [one.text for one in scene.storage.read_log(known)], scene.storage.read_log(unknown),
        )  # fmt: skip
        scene.storage.insert([job])
        assert (progress, None) == (scene.record(known).progress, scene.record(unknown).progress)
        assert [] == scene.storage.read_log(unknown)
