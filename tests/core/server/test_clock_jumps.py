"""Across modules: servers on a host whose clock is set, or whose machine was suspended."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import timedelta

import pytest

from firelock import Every, Firelock, JobContext, Retry, Settings
from firelock.model.clock import SECOND
from firelock.model.state import State
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import SharedMemory
from firelock.server.upkeep import Upkeep
from firelock.server.workers import WorkerContext
from firelock.storage import ClaimRequest, NewSession
from firelock_sql.sqlite.storage import SqliteStorage
from tests.core.fakes import Host, HostStorage, Worker, until
from tests.core.server.test_upkeep import FakeWorkers, Inbox

HOUR = 3_600
JUMPS = {
    "forward": lambda host: host.set_clock(600),
    "back": lambda host: host.set_clock(-600),
    "suspended": lambda host: host.suspend(HOUR),
    "suspended and set": lambda host: (host.suspend(HOUR), host.set_clock(-600)),
}
LOGGED = "No server is declared lost for"


@pytest.fixture(params=JUMPS.values(), ids=JUMPS)
def jump(request):
    """A change to the clocks of a host."""
    return request.param


@pytest.fixture(params=[1, 2], ids=["alone", "two servers"])
def servers(request):
    """The number of servers on the host."""
    return request.param


# ---- running servers -------------------------------------------------------------------------------------


class File(SqliteStorage):
    """A storage handle of one file that counts its searches for dead servers."""

    searches = 0

    def orphans(self, limit, *, as_of=None):
        self.searches += 1
        return super().orphans(limit, as_of=as_of)


class Program:
    """A program on a host, with a server. Its jobs wait until `let_go` is set."""

    def __init__(self, host, storage, settings):
        self.fire = host.serve(Firelock(storage, settings=settings))
        self.let_go, self.runs = threading.Event(), []

        def hold(job: JobContext) -> None:
            self.runs.append((job.id, job.attempt))
            assert self.let_go.wait(30)

        self.held = self.fire.task(name="held", retry=Retry.never())(hold)
        self.tick = self.fire.task(name="tick")(lambda: None)

    def sessions(self):
        """Return the stored sessions."""
        return self.fire.storage.list_sessions()


@pytest.fixture
def programs(tmp_path, servers):
    """The programs on one host, each with its own handle of one SQLite file and a server."""
    settings = Settings(session_timeout=30, heartbeat=10, sweep=0.05, poll=0.05)
    host = Host()
    with ExitStack() as stack:
        programs = []
        for _ in range(servers):
            storage = File(f"sqlite:///{tmp_path}/jobs.db", host.wall_nanos)
            programs.append(Program(host, storage, settings))
            stack.callback(programs[-1].fire.close)
            stack.callback(programs[-1].let_go.set)
        for program in programs:
            stack.enter_context(program.fire.server(workers=2))
        host.go_on(11)  # a server that has just started does not search for dead servers
        until(lambda: all(program.fire.storage.searches for program in programs))
        yield host, programs


def test_servers_keep_their_sessions_and_jobs(programs, servers, jump, caplog):
    """After a jump, all sessions are renewed soon and none ends. No job runs twice, and new jobs run."""
    host, (first, *others) = programs
    until(lambda: len(first.sessions()) == servers)
    jobs = first.held.enqueue_many([()] * servers * 2)  # two per server, so that each worker has one
    runs = [first.runs, *(other.runs for other in others)]
    until(lambda: sum(map(len, runs)) == len(jobs))

    jump(host)
    until(lambda: all(_is_of_now(one, host) for one in first.sessions()))
    until(lambda: caplog.text.count(LOGGED) >= servers)
    for program in (first, *others):
        program.let_go.set()
    until(lambda: all(job.refresh().state is State.SUCCEEDED for job in jobs))
    later = first.tick.enqueue()

    until(lambda: later.refresh().state is State.SUCCEEDED)
    assert [True] * servers == [one.is_alive for one in first.sessions()]
    assert len(jobs) == sum(map(len, runs))
    assert {(State.SUCCEEDED, 0, 1)} == {
        (record.state, record.crashes, record.attempt) for record in (job.record() for job in jobs)
    }
    assert servers == caplog.text.count(LOGGED)


def _is_of_now(one, host):
    """Return whether the session was renewed after the clock jump."""
    now = host.wall_nanos() // 1_000
    return now + 20 * SECOND < one.expires_at <= now + 30 * SECOND


@pytest.mark.parametrize("servers", [1], indirect=True)
def test_job_with_a_delay_becomes_due_by_the_wall_clock(programs):
    """A delay is stored as a time. If the clock is set forward by more than the delay, the job is due."""
    host, (program,) = programs
    job = program.tick.schedule(400)
    before = job.record().due_at

    host.set_clock(600)

    until(lambda: job.refresh().state is State.SUCCEEDED)
    after = program.tick.schedule(400).record().due_at
    assert 600 * SECOND <= after - before < 660 * SECOND


@pytest.mark.parametrize("servers", [1], indirect=True)
def test_recurring_job_does_not_repeat_after_clock_is_set_back(programs):
    """If a job was created for a time, no second job is created for it. Other jobs run in the meantime."""
    host, (program,) = programs
    program.tick.recur("hourly", Every(timedelta(hours=1)))
    definition = program.fire.recurring.get("hourly")
    host.set_clock((definition.next_at.timestamp() - host.clocks.wall()) + 1)
    until(lambda: program.fire.recurring.get("hourly").last_at is not None)
    fired_at = program.fire.recurring.get("hourly").last_at

    host.set_clock(-600)
    job = program.tick.enqueue()
    until(lambda: job.refresh().state is State.SUCCEEDED)
    meanwhile = len(program.fire.jobs.find(recurring="hourly").jobs)
    next_at = program.fire.recurring.get("hourly").next_at
    host.set_clock(HOUR + 601)
    until(lambda: program.fire.recurring.get("hourly").last_at != fired_at)

    assert (1, HOUR) == (meanwhile, (next_at - fired_at).total_seconds())
    assert 2 == len(program.fire.jobs.find(recurring="hourly").jobs)


# ---- the search for dead servers, sweep by sweep ---------------------------------------------------------


class Scene:
    """An upkeep next to another server, on a host whose clocks stand still; the test makes its sweeps."""

    def __init__(self, settings=None):
        self.host = Host(stands_still=True)
        self.storage = HostStorage(self.host)
        settings = settings or Settings(session_timeout=30, heartbeat=10, sweep=5)
        self.fire = self.host.serve(Firelock(self.storage, settings=settings))
        self.task = self.fire.task(name="task")(lambda: None)
        self.worker = Worker(self.fire)
        self.board = SharedMemory.create(1, self.host.clocks.elapsed)
        self.board.grant(1e9)
        context = WorkerContext(self.worker.runner, self.worker.console, self.board, Inbox(), None)
        server = ServerInfo("server-a", "host:a", "*", 1, 7)
        self.upkeep = Upkeep(self.fire.runtime, server, context, FakeWorkers())
        self.storage.begin_session(NewSession("other", "server-b", "host:b", "host", 8, 1, 30.0))
        self.sweep()

    def sweep(self):
        """Make one sweep and return whether the other server is alive."""
        self.upkeep._sweep()  # noqa: SLF001 - as in test_upkeep
        return self.other_lives

    @property
    def other_lives(self):
        return {one.session.id: one.is_alive for one in self.storage.list_sessions()}["other"]

    def sweeps_until_dead(self, act=lambda: None, *, most=100):
        """Return the number of sweeps, five seconds apart, until the other server is considered dead."""
        for number in range(most):
            self.host.go_on(5)
            act()
            if not self.sweep():
                return number + 1
        raise AssertionError(f"alive after {most} sweeps")

    def close(self):
        self.board.close()
        self.fire.close()


@pytest.fixture
def scene():
    """A live server next to another one that was renewed just now."""
    scene = Scene()
    yield scene
    scene.close()


def test_dead_server_is_found_within_its_timeout(scene):
    """Without a clock jump, a dead server is found within the session timeout."""
    assert 6 == scene.sweeps_until_dead()


def test_dead_server_is_found_a_full_timeout_after_a_jump(scene, jump):
    """A live server could still renew during this time.

    A dead server is not kept alive by a clock that was set back.
    """
    jump(scene.host)

    assert 6 <= scene.sweeps_until_dead() <= 7


def test_short_jump_changes_nothing(scene, caplog):
    """A jump of one second is within the safety margin of every session."""
    scene.host.set_clock(0.9)
    scene.host.suspend(0.9)

    assert 6 == scene.sweeps_until_dead()
    assert LOGGED not in caplog.text


def test_jump_is_logged_once(scene, caplog):
    """The log line contains the measured jump and what happens next."""
    scene.host.set_clock(600)
    for _ in range(3):
        scene.sweep()

    (line,) = [record.getMessage() for record in caplog.records if LOGGED in record.getMessage()]
    assert (
        "This machine had its clock set forward by 600.0 s; renewing the sessions of this server now. "
        "No server is declared lost for 30 s."
    ) == line


@pytest.mark.parametrize("verb", ["oldest_session", "orphans"])
def test_jump_within_a_sweep_ends_no_session(scene, verb, jump):
    """The clock may jump after the sweep has read the time and before the storage does."""
    call = getattr(scene.storage, verb)

    def late(*args, **kwargs):
        if jumps := [jump] * (not scene.host.suspended and scene.host.set_by == 1_700_000_000):
            jumps[0](scene.host)
        return call(*args, **kwargs)

    setattr(scene.storage, verb, late)

    assert [True] * 3 == [scene.sweep() for _ in range(3)]


@pytest.mark.parametrize("by", [600, -600])
def test_clock_that_keeps_jumping_does_not_hide_a_dead_server(scene, by):
    """Three timeouts after the first jump, one second without a jump is enough to detect a dead server."""
    signs = iter([1, -1] * 100)

    def jump():
        scene.host.set_clock(by * next(signs))
        scene.sweep()
        scene.host.go_on(1)

    assert 15 <= scene.sweeps_until_dead(jump) <= 18


def test_sweep_after_repeated_clock_jumps_is_repeated_soon(scene):
    """After three timeouts, the next sweep is due one second after a jump, whatever the sweep interval is."""
    upkeep = scene.upkeep
    for _ in range(18):
        scene.host.go_on(5)
        scene.host.set_clock(600)
        upkeep._sweeps.at = float("inf")  # noqa: SLF001 - as the loop does before each sweep
        scene.sweep()
        soon = upkeep._sweeps.at  # noqa: SLF001
    before = time.monotonic()
    scene.host.go_on(5)
    scene.host.set_clock(600)
    scene.sweep()

    assert soon == float("inf")
    assert before < upkeep._sweeps.at - 0.9 < time.monotonic() + 0.2  # noqa: SLF001


def test_live_server_keeps_its_session_during_repeated_clock_jumps(scene):
    """A server that renews its session after each jump is never considered dead."""

    def jump_and_renew():
        scene.host.set_clock(600)
        scene.sweep()
        scene.storage.renew([one.renewal for one in scene.storage.list_sessions()])

    with pytest.raises(AssertionError, match="alive after 100 sweeps"):
        scene.sweeps_until_dead(jump_and_renew)


def test_clock_jump_of_the_database_server_ends_no_session(scene):
    """The clock of PostgreSQL or Redis is read once a minute. A jump between two readings does not matter."""
    scene.storage.clock = lambda: scene.host.wall_nanos() // 1_000 + ahead
    ahead = 0
    scene.host.go_on(61)
    scene.storage.renew([one.renewal for one in scene.storage.list_sessions()])
    scene.sweep()

    ahead = 600 * SECOND
    lives = []
    for _ in range(14):
        scene.host.go_on(5)
        lives.append(scene.sweep())
        scene.storage.renew([one.renewal for one in scene.storage.list_sessions()])

    assert [True] * 14 == lives


def test_wall_clock_jump_of_a_server_does_not_affect_a_database(scene, caplog):
    """The storage has its own clock, so a dead server is found as usual and nothing is logged."""
    began = scene.host.wall_nanos() // 1_000
    scene.storage.clock = lambda: began + int(scene.host.passed * SECOND)
    scene.host.set_clock(600)

    assert 6 == scene.sweeps_until_dead()
    assert LOGGED not in caplog.text


def test_new_server_ends_no_session_during_its_first_heartbeat():
    """The clock may have been set just before the server started.

    Live servers renew within their heartbeat.
    """
    scene = Scene(Settings(session_timeout=30, heartbeat=9, sweep=0.05))
    scene.host.set_clock(600)
    scene.upkeep = type(scene.upkeep)(
        scene.fire.runtime, ServerInfo("server-c", "host:c", "*", 1, 9), scene.upkeep._context, FakeWorkers()  # noqa: SLF001
    )  # fmt: skip
    scene.upkeep.start()
    sweeps = len(scene.storage.called["oldest_session"])
    until(lambda: len(scene.storage.called["oldest_session"]) > sweeps + 3)
    at_first = scene.other_lives

    scene.host.go_on(9)
    until(lambda: not scene.other_lives)

    assert at_first
    scene.upkeep.stop(10)
    scene.close()


# ---- the right to run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR, 31])
def test_suspended_server_renews_its_session_before_it_starts_jobs(seconds):
    """The storage's clock has continued, so the session may have expired and its jobs may have been requeued.

    This applies to every storage.
    """
    host = Host()
    storage = HostStorage(host)
    lost = []
    server = ServerInfo("server-a", "host:a", "*", 1, 7)
    renewal = SessionRenewal(
        storage, Settings(session_timeout=30, heartbeat=10), server, on_lost=lost.append,
        on_order=lost.append, clocks=host.clocks,
    )  # fmt: skip
    memory = SharedMemory.create(1, host.clocks.elapsed)
    session = renewal.begin(memory, pid=7, workers=1)
    memory.adopt_session()
    before = memory.may_start()

    host.suspend(seconds)
    storage.orphans(10)  # as a server that was not suspended would do
    after = memory.may_start()
    renewal.start()
    until(lambda: lost)

    assert (True, False, [session]) == (before, after, lost)
    assert not memory.may_start()
    renewal.stop()
    memory.close()


@pytest.mark.parametrize("act", [lambda host: host.set_clock(600), lambda host: host.suspend(HOUR)])
def test_server_renews_soon_after_a_jump(act):
    """A server renews without waiting for its next heartbeat, which may be a minute away."""
    host = Host()
    storage = HostStorage(host)
    server = ServerInfo("server-a", "host:a", "*", 1, 7)
    renewal = SessionRenewal(
        storage, Settings(session_timeout=HOUR, heartbeat=600), server, on_lost=print, on_order=print,
        clocks=host.clocks,
    )  # fmt: skip
    memory = SharedMemory.create(1, host.clocks.elapsed)
    renewal.begin(memory, pid=7, workers=1)
    renewal.start()
    until(lambda: len(storage.called["renew"]) == 2)  # the renewals soon after the start
    act(host)

    until(lambda: len(storage.called["renew"]) == 3)

    (one,) = storage.list_sessions()
    assert one.expires_at > host.wall_nanos() // 1_000 + (HOUR - 60) * SECOND
    renewal.stop()
    memory.close()


def test_session_that_expired_during_a_suspension_claims_nothing(scene):
    """The storage checks the session in the same operation as the claim."""
    scene.task.enqueue()
    scene.host.suspend(HOUR)
    scene.storage.orphans(10)

    claim = scene.storage.claim(ClaimRequest(None, 1, "other", scene.storage.clock()))

    assert ([], True) == (claim.jobs, claim.is_session_lost)
