"""Across modules: jobs that end in a transaction of their task, and their servers after the commit."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from firelock import State
from tests.core.fakes import until

APP = '''
"""An app whose tasks end within transactions of their own, in threads, coroutines or processes."""

import asyncio
import os
import time
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from firelock import Firelock, JobContext, Limit, Retry, Settings, Snooze, Unique, hookimpl

# What needs a poll or a sweep fails its test.
PATIENT = Settings(poll=60, heartbeat=1, session_timeout=60, sweep=60, grace=30)
settled, failed = [], []


class Noting:
    """Notes the ends that the server has counted, and attempts that failed."""

    @hookimpl
    def jobs_settled(self, settled):
        globals()["settled"].extend(settled)

    @hookimpl
    def attempt_failed(self, job, error, transition):
        write(f"failed: {error}")


fire = Firelock(os.environ["COMPLETING_URL"], plugins=[Noting()], settings=PATIENT)
seen, gate = Path(os.environ["COMPLETING_SEEN"]), Path(os.environ["COMPLETING_GATE"])


def write(line):
    """The test reads it, whichever process the task is in."""
    with seen.open("a") as file:
        file.write(line + "\\n")


@contextmanager
def transaction():
    """Yield an open transaction, which is committed at the end."""
    engine = create_engine(os.environ["COMPLETING_ENGINE"], poolclass=NullPool)
    with Session(engine) as session:
        session.execute(text("INSERT INTO paid VALUES (7)"))
        yield session
        session.commit()


def end_within(job, how):
    """End the job within a transaction, which is committed or rolled back."""
    with transaction() as session:
        job.complete_within(session, {"paid": 7})
        if how.startswith("roll back"):
            session.rollback()
    write("rolled back" if how.startswith("roll back") else "committed")


def waits(job):
    """Yield until the test opens the gate, or the job is cancelled."""
    while not gate.exists():
        if job.cancelled:
            write(f"cancelled: {job.cancel_reason}")
            job.raise_if_cancelled()
        yield
    write("went on")


def what_follows(how):
    """What the task does last."""
    if how.endswith("raise"):
        raise ValueError("the cache is away")
    if how.endswith("die"):
        os._exit(3)
    return Snooze(3_600) if how.endswith("snooze") else {"returned": 1}


def work(job: JobContext, how: str) -> object:
    """End within a transaction, wait for the gate, then do what is said."""
    end_within(job, how)
    for _ in waits(job):
        time.sleep(0.005)
    return what_follows(how)


async def awork(job: JobContext, how: str) -> object:
    """The same as a coroutine."""
    end_within(job, how)
    try:
        for _ in waits(job):
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        write(f"cancelled: {job.cancel_reason}")
        raise
    return what_follows(how)


options = {"retry": Retry.fixed(3_600, attempts=2, jitter=0)}
thread = fire.task(name="thread", **options)(work)
loop = fire.task(name="loop", **options)(awork)
process = fire.task(name="process", executor="process", **options)(work)

limited = fire.task(name="limited", limits=[Limit("api", concurrent=1)], **options)(work)
unique = fire.task(name="unique", unique=Unique("doc"), **options)(work)


@fire.task(name="warm", executor="process")
def warm() -> None:
    """Start a process for the jobs to come."""


@fire.task(name="next")
def following() -> str:
    return "next"
'''

PROCESS = pytest.param("process", marks=pytest.mark.heavy("starts a process for its job"))
EXECUTORS = ["thread", "loop", PROCESS]
_numbers = itertools.count()


class Bench:
    """The app in its own module, so that job processes can import it. Its server runs in this process."""

    def __init__(self, folder, url, engine_url, monkeypatch):
        self.name = f"completing_{os.getpid()}_{next(_numbers)}"
        (folder / f"{self.name}.py").write_text(APP)
        self._seen, self._gate = folder / "seen", folder / "gate"
        monkeypatch.syspath_prepend(str(folder))
        for name, value in {"URL": url, "ENGINE": engine_url, "SEEN": self._seen, "GATE": self._gate}.items():
            monkeypatch.setenv(f"COMPLETING_{name}", str(value))
        self._engine = create_engine(engine_url, poolclass=NullPool)
        with self._engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS paid"))
            connection.execute(text("CREATE TABLE paid (number INT)"))
        self.app = importlib.import_module(self.name)
        self.fire = self.app.fire
        self.fire.storage.migrate()
        self.fire.storage.clear()

    def server(self, workers=2):
        """Return a server of the app, not yet started."""
        return self.fire.server(workers=workers, async_workers=2, name="host:a")

    def task(self, executor):
        """Return the task that runs with this executor."""
        return getattr(self.app, executor)

    @property
    def seen(self):
        """The lines that the tasks have written."""
        return self._seen.read_text().splitlines() if self._seen.exists() else []

    def until_seen(self, *lines):
        """Wait until the tasks have written these lines and no others."""
        until(lambda: len(self.seen) >= len(lines))
        assert [*lines] == self.seen

    def open_gate(self):
        """Let waiting tasks continue."""
        self._gate.touch()

    def settled(self, job):
        """Return the ends of the job that the server has counted."""
        return [one for one in self.app.settled if one.job.id == job.id]

    def rollups(self):
        """Return the statistics: task, outcome and number."""
        found = self.fire.storage.timeline(0, 1 << 60)
        return sorted((one.task, str(one.outcome), one.count) for one in found)

    def paid(self):
        """Return how many rows the tasks have committed."""
        with self._engine.connect() as connection:
            return connection.execute(text("SELECT count(*) FROM paid")).scalar()

    def close(self):
        self.open_gate()
        self.fire.close()
        self._engine.dispose()
        sys.modules.pop(self.name, None)


class Completing:
    """Tests for each database and every executor."""

    @pytest.fixture
    def bench(self, tmp_path, urls, monkeypatch):
        with closing(Bench(tmp_path, *urls, monkeypatch)) as bench:
            yield bench

    @pytest.mark.parametrize("executor", ["thread", "loop", "process"])
    def test_task_continues_after_its_commit(self, bench, executor):
        """The job is counted once, and the continuation runs while the task continues.

        Nothing cancels or kills the run.
        """
        job = bench.task(executor).enqueue("commit")
        following = job.then(bench.app.following)

        with bench.server():
            # The order in which the server finds the two ends is undefined: the continuation may run before
            # the server's next comparison.
            until(lambda: bench.settled(following) and bench.settled(job))
            while_waiting = bench.seen, {one.job.id for one in bench.app.settled}
            bench.open_gate()
            bench.until_seen("committed", "went on")

        record = job.refresh()
        assert (["committed"], {job.id, following.id}) == while_waiting
        assert ("succeeded", {"paid": 7}, 1) == (record.state, job.result(timeout=10), bench.paid())
        (settled,) = bench.settled(job)
        (stored,) = bench.fire.storage.get([job.id])
        assert (State.SUCCEEDED, 1, stored.ended_at) == (
            settled.transition.to, settled.transition.attempt, settled.transition.at,
        )  # fmt: skip
        assert stored.ended_at - settled.transition.started_at == settled.duration
        assert sorted([("next", "succeeded", 1), (executor, "succeeded", 1)]) == bench.rollups()

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_task_that_returns_after_its_commit_is_counted_once(self, bench, executor):
        """A task that ended before its server's comparison is counted once too.

        When the task returns, its outcome only repeats the stored one.
        """
        bench.open_gate()
        job = bench.task(executor).enqueue("commit")
        following = job.then(bench.app.following)

        with bench.server():
            until(lambda: bench.settled(following))

        (settled,) = bench.settled(job)
        assert (State.SUCCEEDED, '{"paid":7}') == (settled.transition.to, settled.transition.result)
        assert sorted([("next", "succeeded", 1), (executor, "succeeded", 1)]) == bench.rollups()

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_rolled_back_end_lets_the_run_end_normally(self, bench, executor):
        """The run is not cancelled, because it still has the job. Its return value is the result."""
        job = bench.task(executor).enqueue("roll back")

        with bench.server():
            # written by the server's comparison
            until(lambda: bench.fire.storage.get([job.id])[0].started_at)
            assert (["rolled back"], []) == (bench.seen, bench.app.settled)
            bench.open_gate()
            until(lambda: bench.settled(job))

        assert (["rolled back", "went on"], 0) == (bench.seen, bench.paid())
        assert {"returned": 1} == job.result(timeout=10)
        assert [(executor, "succeeded", 1)] == bench.rollups()

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_delete_after_a_rollback_cancels_the_run(self, bench, executor):
        """The job was deleted, so its run does not count as a success."""
        job = bench.task(executor).enqueue("roll back")

        with bench.server():
            bench.until_seen("rolled back")
            job.delete()
            until(lambda: not bench.fire.storage.get([job.id])[0].is_stopping)

        cancellations = [] if executor == "process" else ["cancelled: deleted, or taken from this server"]
        assert ["rolled back", *cancellations] == bench.seen
        assert ([], []) == (bench.app.settled, bench.rollups())

    @pytest.mark.parametrize("is_counted", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_error_after_the_commit_does_not_fail_the_job(self, bench, executor, is_counted, caplog):
        """The job has succeeded, so it is not retried and no attempt counts as failed.

        The error is logged.
        """
        if not is_counted:
            bench.open_gate()
        job = bench.task(executor).enqueue("commit, raise")

        with bench.server():
            if is_counted:
                until(lambda: bench.settled(job))
                bench.open_gate()
            until(lambda: bench.settled(job) and "went on" in bench.seen)

        assert ["committed", "went on"] == bench.seen
        assert ("succeeded", {"paid": 7}) == (job.refresh().state, job.result(timeout=10))
        assert [(executor, "succeeded", 1)] == bench.rollups()
        if executor != "process":  # a job process logs by itself
            (line,) = [line for line in caplog.messages if "the cache is away" in line]
            assert "it remains succeeded and does not run again: ValueError" in line

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_error_that_rolls_back_fails_the_attempt(self, bench, executor):
        """The job is retried like any other job, and is counted once."""
        bench.open_gate()
        job = bench.task(executor).enqueue("roll back, raise")

        with bench.server():
            until(lambda: bench.settled(job))

        assert ["rolled back", "went on", "failed: the cache is away"] == bench.seen
        assert "scheduled" == job.refresh().state
        assert [(executor, "retried", 1)] == bench.rollups()

    def test_snooze_after_the_commit_changes_nothing(self, bench):
        """The storage refuses the snooze, and the job is counted with its stored state."""
        bench.open_gate()
        job = bench.app.thread.enqueue("commit, snooze")

        with bench.server():
            until(lambda: bench.settled(job))

        assert "succeeded" == job.refresh().state
        assert [("thread", "succeeded", 1)] == bench.rollups()

    @pytest.mark.heavy("starts a process for its job")
    def test_process_death_after_the_commit_is_not_a_crash(self, bench, caplog):
        """The job has succeeded, and the log describes how the process died."""
        bench.open_gate()
        job = bench.app.process.enqueue("commit, die")

        with bench.server():
            until(lambda: bench.settled(job))

        (stored,) = bench.fire.storage.get([job.id])
        assert (State.SUCCEEDED, 0) == (stored.state, stored.crashes)
        assert [("process", "succeeded", 1)] == bench.rollups()
        assert any("its process died: exit code 3" in line for line in caplog.messages)

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_timeout_applies_after_the_commit(self, bench, executor, caplog):
        """When the timeout is reached, the run is ended, but the job stays succeeded."""
        with bench.server():
            if executor == "process":
                bench.app.warm.enqueue().result(
                    timeout=30
                )  # the start of a process counts towards the timeout
            job = bench.task(executor).using(timeout=3).enqueue("commit")
            until(lambda: any("timed out after 3 s" in line for line in caplog.messages))
            until(lambda: bench.settled(job))

        cancellations = [] if executor == "process" else ["cancelled: timed out after 3 s"]
        assert ["committed", *cancellations] == bench.seen
        assert "succeeded" == job.refresh().state
        assert (executor, "succeeded", 1) in bench.rollups()

    @pytest.mark.parametrize("is_counted", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_stop_cancels_the_run_after_its_grace_time(self, bench, executor, is_counted):
        """After the commit, the run gets the same grace time as any other run before it is cancelled.

        The job is counted.
        """
        job = bench.task(executor).enqueue("commit")
        server = bench.server().start()
        bench.until_seen("committed")
        if is_counted:
            until(lambda: bench.settled(job))

        server.stop(grace=0)

        cancellations = [] if executor == "process" else ["cancelled: server stopping"]
        assert ["committed", *cancellations] == bench.seen
        assert "succeeded" == job.refresh().state
        assert [(executor, "succeeded", 1)] == bench.rollups()

    @pytest.mark.parametrize("task", ["limited", "unique"])
    def test_limit_and_key_are_free_after_the_commit(self, bench, task):
        """The next job with the same limit or key starts while the task of the first job continues."""
        with bench.server():
            first = bench.task(task).enqueue("commit")
            bench.until_seen("committed")
            second = bench.task(task).enqueue("commit")
            bench.until_seen("committed", "committed")
            bench.open_gate()

        assert (True, True) == (first.is_new, second.is_new)
        assert [(task, "succeeded", 2)] == bench.rollups()

    def test_batch_ends_while_its_last_member_continues(self, bench):
        """The batch is checked as soon as the member's outcome is counted."""
        with bench.fire.batch("night") as batch:
            batch.add(bench.app.thread, "commit")
        following = batch.then(bench.app.following)

        with bench.server():
            until(lambda: bench.settled(following))
            still = bench.seen
            bench.open_gate()

        assert ["committed"] == still

    def test_lost_session_ends_the_run(self, bench):
        """The run is cancelled like any other run, because the server's information may be outdated.

        The job has succeeded and is counted once.
        """
        job = bench.app.loop.enqueue("commit")

        with bench.server():
            bench.until_seen("committed")
            (session,) = [one.session for one in bench.fire.storage.list_sessions() if one.is_alive]
            bench.fire.storage.end_session(session.id, [job.id], reason="lost")
            until(lambda: bench.settled(job) and len(bench.seen) > 1)

        assert ["committed", "cancelled: the session of this server was lost"] == bench.seen
        assert "succeeded" == job.refresh().state
        assert [("loop", "succeeded", 1)] == bench.rollups()


class TestSqlite(Completing):
    @pytest.fixture
    def urls(self, tmp_path):
        return [f"sqlite:///{tmp_path}/jobs.db"] * 2


class TestPostgresql(Completing):
    @pytest.fixture
    def urls(self, postgresql):
        return postgresql.url(), postgresql.engine_url()


class TestMariadb(Completing):
    @pytest.fixture
    def urls(self, mariadb):
        return mariadb.url(), mariadb.engine_url()
