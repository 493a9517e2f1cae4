"""The background routines: due jobs, dead sessions, retention, timeouts, logs and statistics."""

from __future__ import annotations

import builtins
import errno
import io
import logging
import sys
import threading
import time
from datetime import timedelta

import attrs
import pytest

from firelock import Firelock, JobContext, Retry, Settings
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.state import State
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.run import CancelKind, Run
from firelock.server.shared_memory import SharedMemory, WorkerCounts
from firelock.server.upkeep import Upkeep
from firelock.server.workers import DispatcherInbox, WorkerContext
from firelock.storage import ClaimRequest, NewSession, Promotion, Taken
from tests.core.fakes import FailingStorage, Worker, until

FOR_EVER = 1e9
SETTINGS = Settings(sweep=0.05, session_timeout=0.5, heartbeat=0.1)
SELDOM = Settings(sweep=300)


class FakeWorkers:
    """The interface of the workers that the upkeep uses."""

    def __init__(self):
        self.running = []
        self.watched = 0
        self.coroutines = self
        self.half_uncancellable = False

    def are_half_uncancellable(self):
        return self.half_uncancellable

    def runs(self):
        return self.running

    def counts(self):
        return WorkerCounts(
            busy_threads=len(self.running), stuck_threads=sum(run.is_stuck for run in self.running)
        )

    def watch(self):
        self.watched += 1


class Inbox(DispatcherInbox):
    """An inbox that counts the announcements of work."""

    came = 0

    def note_reported_work(self):
        self.came += 1


class Scene:
    """An upkeep over a storage with programmable failures."""

    def __init__(self, settings=SETTINGS, server_id="server-a"):
        self.storage = FailingStorage()
        self.fire = Firelock(self.storage, settings=settings)
        self.task = self.fire.task(name="task")(lambda: None)
        self.worker = Worker(self.fire)
        self.board = SharedMemory.create(1)
        self.board.grant(FOR_EVER)
        self.dispatched, self.inbox = FakeWorkers(), Inbox()
        context = WorkerContext(self.worker.runner, self.worker.console, self.board, self.inbox, None)
        server = ServerInfo(server_id, "host:a", "*", 1, 7)
        self.upkeep = Upkeep(self.fire.runtime, server, context, self.dispatched)
        self.metrics = self.upkeep.metrics

    def until_swept(self, times=1):
        """Wait for this number of sweeps that begin after this call."""
        before = len(self.storage.called["oldest_session"])
        until(lambda: len(self.storage.called["oldest_session"]) > before + times)

    def run(self, **fields):
        """Return a run that is in progress."""
        (job,) = self.worker.claim() or [None]
        run = Run(
            job, self.worker.holder, JobContext.fake(), self.task.info, (), {}, None, started=time.monotonic()
        )
        for name, value in fields.items():
            setattr(run, name, value)
        self.dispatched.running.append(run)
        return run

    def close(self):
        self.storage.recover()
        if self.upkeep._threads[0].thread.ident is not None:  # noqa: SLF001 - some tests never start it
            self.upkeep.stop(10)
        self.board.close()
        self.fire.close()


@pytest.fixture
def scene():
    """An upkeep that sweeps twenty times a second and is not started yet."""
    scene = Scene()
    yield scene
    scene.close()


@pytest.fixture
def seldom():
    """An upkeep that sweeps every five minutes."""
    scene = Scene(SELDOM)
    yield scene
    scene.close()


# ---- due times -------------------------------------------------------------------------------------------


def test_due_job_does_not_wait_for_the_next_sweep(seldom):
    """The storage returns the time of the next check."""
    seldom.upkeep.start()
    until(lambda: seldom.storage.called["promote"])
    promotions = len(seldom.storage.called["promote"])
    job = seldom.task.schedule(0.05)

    seldom.upkeep.next_due(job.record().due_at)

    until(lambda: job.refresh().state is State.ENQUEUED)
    assert promotions + 2 >= len(seldom.storage.called["promote"])


def test_due_time_after_the_next_check_changes_nothing(seldom):
    """An unknown due time changes nothing either."""
    seldom.upkeep.start()
    until(lambda: seldom.storage.called["promote"])
    promotions = len(seldom.storage.called["promote"])

    seldom.upkeep.next_due(None)
    seldom.upkeep.next_due(seldom.storage.clock() + 3_600 * SECOND)
    seldom.upkeep.next_due(seldom.storage.clock() + 60 * SECOND)
    until(lambda: len(seldom.storage.called["append_logs"]) >= 0 and seldom.board.silence() > 0)

    assert promotions == len(seldom.storage.called["promote"])


def test_only_the_oldest_server_checks_due_times_immediately():
    """The oldest server checks a due time immediately, and the others a little later.

    Otherwise, all servers would check it at the same time.
    """
    first, second = Scene(SELDOM, "server-a"), Scene(SELDOM, "server-b")
    for scene in (first, second):
        scene.storage.begin_session(NewSession("s", "server-a", "host:a", "host", 7, -1, 1e9))
        scene.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand

    now = time.monotonic()
    for scene in (first, second):
        scene.upkeep._due.at = now + 1_000  # noqa: SLF001
        scene.upkeep.next_due(scene.storage.clock())

    delays = [scene.upkeep._due.at - now for scene in (first, second)]  # noqa: SLF001
    assert delays[0] < 0.020 <= delays[1] < 0.2
    for scene in (first, second):
        scene.close()


def test_full_batch_of_due_jobs_continues_immediately(seldom):
    """The next call enqueues the remaining jobs without waiting for the sweep."""
    moved = []

    def promote(limit):
        moved.append(limit)
        return Promotion(limit, seldom.storage.clock()) if len(moved) < 5 else Promotion(0, None)

    seldom.storage.promote = promote
    seldom.upkeep.start()

    until(lambda: len(moved) == 5)
    assert {1_000} == set(moved)


def test_due_time_without_due_jobs_is_checked_less_often(seldom):
    """The job may be due only by the server's clock, or a definition may be unable to create its job.

    Such a due time must not cause a busy loop.
    """
    calls = []

    def promote(limit):
        calls.append(limit)
        return Promotion(0, seldom.storage.clock() - SECOND)

    seldom.storage.promote = promote
    seldom.upkeep.start()
    until(lambda: len(calls) >= 4)
    began, before = time.monotonic(), len(calls)
    until(lambda: len(calls) > before)

    assert 0.05 < time.monotonic() - began


def test_due_jobs_are_enqueued_between_recurring_jobs(seldom):
    """Hundreds of recurring jobs may be due at the same time, and each needs a commit."""
    due = seldom.task.schedule(timedelta(minutes=30))
    for number in range(30):
        seldom.task.recur(f"hourly-{number}", "0 * * * *")
    fired = []

    def promote(limit):
        if due.refresh().state is State.SCHEDULED:
            fired.append(len(seldom.fire.jobs.find(state=State.ENQUEUED).jobs))
        return promote_jobs(limit)

    promote_jobs, seldom.storage.promote = seldom.storage.promote, promote
    seldom.storage.clock_offset = 3_600 * SECOND
    seldom.upkeep.start()

    until(lambda: len(seldom.fire.jobs.find(state=State.ENQUEUED).jobs) == 31)
    assert [10] == fired


@pytest.mark.parametrize("verb", ["due_records", "promote"])
def test_due_jobs_and_recurring_jobs_are_independent(scene, verb):
    """Due jobs are enqueued even if recurring jobs fail, and vice versa.

    The dispatcher is notified of the new jobs.
    """
    job = scene.task.schedule(timedelta(hours=1))
    scene.task.recur("hourly", "0 * * * *")
    scene.storage.clock_offset = 3_600 * SECOND
    scene.storage.fail_always(verb, StorageError("of tomorrow"))

    scene.upkeep.start()

    if verb == "promote":
        until(lambda: scene.fire.jobs.find(recurring="hourly").jobs)
    else:
        until(lambda: job.refresh().state is State.ENQUEUED)
    until(lambda: scene.inbox.came)


# ---- the sweep -------------------------------------------------------------------------------------------


def test_no_session_is_reaped_until_all_could_renew_after_an_outage(scene):
    """One full session timeout passes after the storage is reachable again."""
    scene.storage.fail_always("oldest_session", StorageUnavailable("down"))
    scene.upkeep.start()
    until(lambda: len(scene.storage.called["oldest_session"]) >= 3)
    reaped = len(scene.storage.called["orphans"])

    scene.storage.recover()
    answered = time.monotonic()
    scene.until_swept()
    at_once = len(scene.storage.called["orphans"])
    until(lambda: scene.storage.called["orphans"])

    assert (0, 0) == (reaped, at_once)
    assert 0.4 < time.monotonic() - answered


def test_outage_reported_by_the_dispatcher_delays_reaping(seldom):
    """The dispatcher reports an outage to the upkeep.

    A second report that the storage is reachable changes nothing.
    """
    seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand
    reaped = len(seldom.storage.called["orphans"])

    seldom.upkeep.contact(is_available=False)
    for _ in range(3):
        seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand

    assert reaped == len(seldom.storage.called["orphans"]) == 1


def test_server_without_the_right_to_run_reaps_no_session(seldom):
    """A server without the right to run, or its storage, was disconnected.

    Other servers may be fine, so this server must not end their sessions.
    """
    seldom.board.grant(0)
    seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand
    without_right = len(seldom.storage.called["orphans"])

    seldom.board.grant(FOR_EVER)
    seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand

    assert (0, 0) == (without_right, len(seldom.storage.called["orphans"]))


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ((["a"], ["b", "c"], 1),
         "back in the queues: 1 running job and 2 waiting jobs; locked by other transactions, to follow: 1."),
        ((["a", "b"], [], 0), "back in the queues: 2 running jobs."),
        (([], ["a"], 0), "back in the queues: 1 waiting job."),
        (([], [], 3), "locked by other transactions, to follow: 3."),
        (([], [], 0), "it held no jobs."),
    ],
)  # fmt: skip
def test_sweep_logs_the_returned_and_the_locked_jobs(seldom, caplog, taken, message):
    """The line names the worker process by its session and omits numbers that are zero.

    A later sweep returns the other jobs.
    """
    seldom.storage.orphans = lambda limit, *, as_of: [Taken("gone", "vm:1", *taken)]

    seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand

    lost = f"The worker process of server vm:1 with session gone was lost or has ended; {message}"
    assert lost in caplog.messages


def test_lost_session_of_the_last_running_member_ends_a_cancelled_batch(seldom):
    """The batch ends in the sweep that finds the lost session, and not in a later one."""
    with seldom.fire.batch("import") as batch:
        batch.add(seldom.task)
    gone = NewSession("gone", "server of gone", "host:b", "host", 8, 0, 30, 1, "*")
    seldom.storage.begin_session(gone)
    seldom.storage.claim(ClaimRequest(None, 1, "gone", seldom.storage.clock()))
    batch.delete()
    before = batch.refresh().state
    seldom.storage.clock_offset = 31 * SECOND

    seldom.upkeep._sweep()  # noqa: SLF001 - one sweep, by hand

    assert (State.AWAITING, State.DELETED) == (before, batch.refresh().state)


def test_sweep_releases_continuations_and_removes_expired_jobs(scene):
    """Continuations that were not released when their parent was settled are released.

    Expired jobs are removed.
    """
    parent = scene.task.enqueue()
    child = parent.then(scene.task)
    ended = [scene.worker.attempt(job) for job in scene.worker.claim()]
    scene.storage.apply([one.transition for one in ended])
    gone = scene.task.enqueue()
    gone.delete()
    scene.storage.clock_offset = 86_401 * SECOND

    scene.upkeep.start()

    until(lambda: child.refresh().state is State.ENQUEUED)
    until(lambda: scene.storage.get([gone.id]) == [None])


@pytest.mark.parametrize(("keep", "days"), [(None, 1), (timedelta(hours=1), 1 / 24), (3 * 86_400, 3), (0, 0)])
def test_task_can_set_the_retention_of_its_succeeded_jobs(keep, days):
    """`keep` may be shorter or longer than the setting.

    Failed and deleted jobs are kept as long as the settings specify.
    """
    storage = FailingStorage()
    storage.clock = lambda: 10**15 + storage.clock_offset
    with Firelock(storage, settings=Settings(keep_failed=2 * 86_400)) as fire:
        task = fire.task(name="task", keep=keep, retry=Retry.never())(lambda fails: 1 / (not fails))
        done, failed, deleted = task.enqueue(False), task.enqueue(True), task.enqueue(False)
        deleted.delete()
        Worker(fire).run()

        kept = {job: job.refresh().record() for job in (done, failed, deleted)}
        assert [days, 2, 1] == [(one.expires_at - one.ended_at) / (86_400 * SECOND) for one in kept.values()]
        storage.clock_offset = kept[done].expires_at - storage.clock() - 1
        storage.prune(10)
        is_available = storage.get([done.id]) != [None]
        storage.clock_offset += 1
        storage.prune(10)
        assert (True, [None]) == (is_available, storage.get([done.id]))


def test_release_by_the_dispatcher_is_repeated(seldom):
    """Rows may have been locked, so more releases follow after 1, 2, 4 … seconds.

    They continue until the routine itself is due.
    """
    seldom.upkeep.start()
    until(lambda: seldom.storage.called["release"])
    before = len(seldom.storage.called["release"])

    seldom.upkeep.release_again()

    until(lambda: len(seldom.storage.called["release"]) >= before + 2)


def test_due_sweep_runs_before_the_remaining_continuations_are_released(scene):
    """If one call does not release all continuations, a sweep that is due runs before the next call."""
    order = []

    def release(limit):
        order.append("release")
        return limit if len(order) < 1_000 else 0

    sweep = scene.storage.oldest_session

    def oldest_session():
        order.append("sweep")
        return sweep()

    scene.storage.release, scene.storage.oldest_session = release, oldest_session

    scene.upkeep.start()

    until(lambda: order.count("sweep") >= 3)
    assert order.count("release") > 3


# ---- this worker process ---------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file tells of memory")
@pytest.mark.parametrize(
    "result", [FileNotFoundError(errno.ENOENT, "no /proc"), OSError(errno.EMFILE, "full"), b""]
)
def test_worker_process_reports_even_if_its_memory_is_unknown(seldom, monkeypatch, result):
    """The process reports even without /proc or a free file descriptor for it.

    A process that does not report is killed with all its jobs.
    """
    really_open = builtins.open

    def without_proc(file, *args, **kwargs):
        if file != "/proc/self/statm":
            return really_open(file, *args, **kwargs)
        if isinstance(result, bytes):
            return io.BytesIO(result)
        raise result

    monkeypatch.setattr(builtins, "open", without_proc)
    seldom.run()

    seldom.upkeep.start()

    assert (1, 0) == (seldom.board.last_report().workers.busy, seldom.board.last_report().rss_bytes)
    assert 0 < seldom.board.last_report().at <= time.monotonic()


def test_worker_process_reports_every_second(scene):
    """The process reports at its start, and then about every second."""
    scene.run()

    scene.upkeep.start()

    assert 1 == scene.board.last_report().workers.busy
    scene.dispatched.running.clear()
    until(lambda: scene.board.last_report().workers.busy == 0)


def test_statistics_are_written_regularly_and_at_the_end(scene):
    """Statistics are written every other second, and at the end."""
    (ended,) = scene.task.enqueue() and scene.worker.run()
    scene.metrics.add([(ended.job, "succeeded", 0, 5)])

    scene.upkeep.start()

    until(lambda: scene.storage.timeline(0, SECOND))


def test_jobs_that_must_not_overlap_end_with_the_right_to_run(scene, caplog):
    """Other jobs continue. The reason is logged once per outage."""
    careful, other = scene.run(), scene.run()
    careful.info = attrs.evolve(scene.task.info, on_risk="cancel")
    scene.upkeep.start()
    until(lambda: scene.dispatched.watched)
    before = careful.cancelled

    scene.board.grant(0)
    until(lambda: careful.cancelled)
    watched = scene.dispatched.watched
    until(lambda: scene.dispatched.watched > watched + 1)
    scene.board.grant(FOR_EVER)
    until(lambda: scene.dispatched.watched > watched + 3)

    assert (None, CancelKind.LOST, None) == (before, careful.cancelled, other.cancelled)
    assert "the server is not certain that it still holds the job" == careful.context.cancel_reason
    assert 1 == caplog.text.count("could not renew its session in time; starting no jobs until it can")


def test_job_does_not_time_out_before_its_process_is_ready(seldom):
    """The job has not started. If it must not overlap, it still ends when the right to run expires."""
    since = time.monotonic() - 60
    run = seldom.run(timeout_seconds=1.0, started=0.0, loading_since=since)
    must_not_overlap = seldom.run(started=0.0, loading_since=since)
    must_not_overlap.info = attrs.evolve(must_not_overlap.info, on_risk="cancel")
    seldom.board.grant(0)

    seldom.upkeep._watch()  # noqa: SLF001 - one check, by hand

    assert (None, CancelKind.LOST) == (run.cancelled, must_not_overlap.cancelled)


@pytest.mark.parametrize("cancelled", [CancelKind.TIMEOUT, CancelKind.LOST])
def test_job_that_ignores_its_timeout_is_logged_once_and_counted(seldom, caplog, cancelled):
    """Such a job occupies its worker, whatever the reason for its first cancellation was.

    Each cancelled job gets a moment to end.
    """
    runs = []
    for seconds in (60, 5.5):
        seldom.task.enqueue()
        runs.append(seldom.run(timeout_seconds=5.0, started=time.monotonic() - seconds))
        runs[-1].cancel(cancelled, "notified")
    deaf, heeds = runs

    for _ in range(3):
        seldom.upkeep._watch()  # noqa: SLF001 - one check, by hand
    seldom.upkeep._report()  # noqa: SLF001

    (line,) = [line.getMessage() for line in caplog.records if "ignores" in line.getMessage()]
    assert f"Job {deaf.job.id} of task 'task' ignores its timeout of 5 s; its worker is occupied" in line
    assert (True, False) == (deaf.is_stuck, heeds.is_stuck)
    assert 1 == seldom.board.last_report().workers.stuck_threads


@pytest.mark.parametrize(
    ("cancelled", "half_uncancellable", "is_replaced"),
    [
        (CancelKind.LOST, False, True),
        (CancelKind.TIMEOUT, False, False),
        (CancelKind.TIMEOUT, True, True),
        (CancelKind.STOP, True, False),
    ],
)
def test_process_with_jobs_that_do_not_stop_is_replaced_after_the_grace_time(
    seldom, caplog, cancelled, half_uncancellable, is_replaced
):
    """One deleted job is enough. Jobs past their timeout count only if they occupy half of the workers."""
    worn = []
    seldom.upkeep._on_worn = worn.append  # noqa: SLF001 - the callback of the supervisor
    seldom.dispatched.half_uncancellable = half_uncancellable
    seldom.task.enqueue()
    run = seldom.run(timeout_seconds=5.0, started=time.monotonic() - 60)
    run.cancel(cancelled, "notified")

    seldom.upkeep._watch()  # noqa: SLF001 - one check, by hand
    in_time = list(worn)
    run.cancelled_at -= seldom.fire.runtime.settings.grace + 0.1
    for _ in range(2):
        seldom.upkeep._watch()  # noqa: SLF001

    assert ([], ["runs a job that does not stop"] if is_replaced else []) == (in_time, worn)
    assert (cancelled is not CancelKind.STOP) is run.ignores_cancellation
    assert is_replaced is ("another worker process replaces this one" in caplog.text)


def test_process_is_replaced_once_for_several_jobs_that_do_not_stop(seldom, caplog):
    """For each of these jobs, the log reports that it ends with the process."""
    worn = []
    seldom.upkeep._on_worn = worn.append  # noqa: SLF001 - the callback of the supervisor
    for _ in range(2):
        seldom.task.enqueue()
        run = seldom.run(started=time.monotonic() - 60)
        run.cancel(CancelKind.LOST, "notified")
        run.cancelled_at -= seldom.fire.runtime.settings.grace + 0.1

        seldom.upkeep._watch()  # noqa: SLF001 - one check, by hand

    assert ["runs a job that does not stop"] == worn
    assert 2 == caplog.text.count("another worker process replaces this one")


@pytest.mark.parametrize("started", [0.0, 1.0])
def test_job_without_a_timeout_or_a_start_does_not_count_as_stuck(seldom, started):
    """Nothing determines when such a job should have ended."""
    run = seldom.run(started=started, timeout_seconds=None if started else 5.0)
    run.cancel(CancelKind.LOST, "notified")

    seldom.upkeep._watch()  # noqa: SLF001 - one check, by hand

    assert not run.is_stuck


def test_hanging_storage_does_not_delay_timeouts(scene):
    """Timeouts are enforced, and the process reports, while a routine waits for the storage."""
    called, may_answer = threading.Event(), threading.Event()
    promote = scene.storage.promote

    def hang(limit):
        called.set()
        assert may_answer.wait(20)
        return promote(limit)

    scene.storage.promote = hang
    scene.upkeep.start()
    assert called.wait(10)

    over, careful = scene.run(timeout_seconds=0.001), scene.run()
    careful.info = attrs.evolve(scene.task.info, on_risk="cancel")
    scene.board.grant(0)
    until(lambda: over.cancelled and careful.cancelled)
    before = (over.cancelled, careful.cancelled, may_answer.is_set())
    may_answer.set()

    assert (CancelKind.TIMEOUT, CancelKind.LOST, False) == before


# ---- errors ----------------------------------------------------------------------------------------------


def test_failed_routine_does_not_block_the_others(scene, caplog):
    """A failed routine is tried again when it is next due. An outage is not logged as an error."""
    caplog.set_level(logging.DEBUG, "firelock")
    job = scene.task.enqueue()
    scene.worker.console.log(job.id, 1, "info", "half way")
    scene.storage.fail("oldest_session", RuntimeError("a bug"), StorageError("refused"))
    scene.storage.fail("promote", StorageUnavailable("down"))

    scene.upkeep.start()

    until(job.log)
    scene.until_swept()
    assert 2 == caplog.text.count("Unexpected error in upkeep routine sweep; retrying.")
    assert "Upkeep routine due: storage unavailable: down" in caplog.text


def test_last_logs_and_statistics_are_written_at_the_stop(seldom, our_threads):
    """The last logs and statistics are stored, and no thread remains."""
    (ended,) = seldom.task.enqueue() and seldom.worker.run()
    seldom.upkeep.start()
    until(lambda: seldom.storage.called["promote"])
    seldom.worker.console.log(ended.job.id, 1, "info", "the last word")
    seldom.metrics.add([(ended.job, "succeeded", 0, 5)])

    seldom.upkeep.stop(10)

    assert ["the last word"] == [line.text for line in seldom.storage.read_log(ended.job.id)]
    assert seldom.storage.timeline(0, SECOND)
    assert [] == our_threads("firelock-upkeep")


def test_loss_during_an_outage_is_logged_at_the_stop(seldom, caplog):
    """The server logs the loss and continues to stop."""
    (ended,) = seldom.task.enqueue() and seldom.worker.run()
    seldom.upkeep.start()
    seldom.metrics.add([(ended.job, "succeeded", 0, 5)])
    seldom.storage.fail_always("record_metrics", StorageUnavailable("down"))
    seldom.storage.fail_always("append_logs", StorageUnavailable("down"))

    seldom.upkeep.stop(10)

    assert "The last logs or statistics were not written: down" in caplog.text
