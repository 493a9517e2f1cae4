"""The sessions of a server, which are renewed together.

The right of a worker process to run jobs ends before its session does.
"""

from __future__ import annotations

import time

import attrs
import pytest

from firelock import Firelock, Settings, State
from firelock.errors import StorageError, StorageUnavailable
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import NO_WORKERS, SharedMemory, WorkerCounts
from firelock.storage import ClaimRequest
from tests.core.fakes import FailingStorage, until

SETTINGS = Settings(heartbeat=0.1, session_timeout=2)


SERVER = ServerInfo("server-a", "host:a", "*", 1, 7)


class Scene:
    """The sessions of a server over a storage with programmable failures.

    It collects the reported losses and orders.
    """

    def __init__(self, settings=SETTINGS, storage=None, on_lost=None):
        self.storage = storage or FailingStorage()
        self.lost, self.orders, self.children, self.ids = [], [], {}, {}
        self.renewal = SessionRenewal(
            self.storage, settings, SERVER, on_lost=on_lost or self.lost.append,
            on_order=on_lost or self.orders.append,
        )  # fmt: skip

    def begin(self, name="a"):
        """Begin a session of that name, and return the memory of a worker process that has adopted it."""
        self.children[name] = child = SharedMemory.create(1)
        self.ids[name] = self.renewal.begin(child, pid=7, workers=1)
        child.adopt_session()
        return child

    def session(self, name="a"):
        """Return the stored data of the last renewal."""
        stored = {one.session.id: one.renewal for one in self.storage.list_sessions()}
        return stored[self.ids[name]]

    def renewals(self):
        return len(self.storage.called["renew"])

    def until_renewed(self):
        """Wait until a round of renewals that begins after this call is complete."""
        before = len(self.storage.called["get_record"])
        until(lambda: len(self.storage.called["get_record"]) > before)


class Overtaken(FailingStorage):
    """A storage that runs given functions after a renewal and before its reply arrives."""

    def __init__(self):
        super().__init__()
        self.meanwhile = []

    def renew(self, renewals):
        answer = super().renew(renewals)
        while self.meanwhile:
            self.meanwhile.pop()()
        return answer


class Locked(FailingStorage):
    """A storage in which other transactions have locked two jobs of each session that ends."""

    def end_session(self, session, running, *, reason):
        return attrs.evolve(super().end_session(session, running, reason=reason), left=2)


@pytest.fixture
def scene():
    """Sessions that are renewed until the end of the test."""
    scene = Scene(storage=Overtaken())
    scene.renewal.start()
    yield scene
    scene.renewal.stop()
    for child in scene.children.values():
        child.close()


def test_jobs_locked_at_the_end_of_their_session_are_logged(caplog):
    """The log line contains the session, the number of jobs and what happens to them."""
    scene = Scene(storage=Locked())
    child = scene.begin()

    taken = scene.renewal.end(scene.ids["a"], reason="killed")
    child.close()

    assert 2 == taken.left
    assert (
        f"Session {scene.ids['a']} has ended, but other transactions have locked 2 of its jobs" in caplog.text
    )


@pytest.mark.parametrize(
    ("timeout", "heartbeat", "margin"), [(30, 10, 1.0), (0.5, 0.1, 0.05), (600, 100, 12.0)]
)
def test_right_to_run_ends_before_the_session(timeout, heartbeat, margin):
    """The right ends a safety margin before another server can consider the session expired.

    Its duration is counted from before the renewal.
    """
    scene, granted = Scene(Settings(session_timeout=timeout, heartbeat=heartbeat)), []
    board = SharedMemory.create(1)
    board.grant = granted.append
    before = time.monotonic()

    scene.renewal.begin(board, pid=7, workers=1)

    assert before <= granted[0] - (timeout - margin) <= time.monotonic()
    board.close()


def test_all_sessions_are_renewed_in_one_call(scene):
    """The call contains the reports of the worker processes, and each renewal extends their right to run."""
    boards = [scene.begin(name) for name in "ab"]
    boards[0].report(WorkerCounts(busy_threads=2, busy_coroutines=1, stuck_threads=2, stuck_coroutines=1))
    granted = []
    boards[1].grant = granted.append

    scene.until_renewed()

    (renewals,) = scene.storage.called["renew"][-1]
    assert [(scene.ids["a"], 3, 2, 1, "running"), (scene.ids["b"], 0, 0, 0, "running")] == [
        (one.session, one.busy, one.stuck_threads, one.stuck_coroutines, one.state) for one in renewals
    ]
    assert time.monotonic() < granted[-1]


def test_renewal_contains_memory_and_cpu_use():
    """A renewal contains the process's memory and its CPU use since the previous renewal.

    Both values come from reports of the process.
    """
    scene = Scene(Settings(heartbeat=600, session_timeout=2_000))
    board = scene.begin()
    board.report(NO_WORKERS, cpu_seconds=10.0, rss_bytes=50_000_000)
    scene.renewal.renew()
    first = scene.session()
    before = board.last_report().at

    board.report(NO_WORKERS, cpu_seconds=10.5, rss_bytes=60_000_000)
    scene.renewal.renew()

    second = scene.session()
    assert (50_000_000, 60_000_000) == (first.rss_bytes, second.rss_bytes)
    assert 0.0 == first.cpu_percent
    assert second.cpu_percent == pytest.approx(50 / (board.last_report().at - before), rel=1e-6)
    board.close()


def test_worker_process_that_reports_nothing_is_overdue(scene):
    """A worker process is overdue after three heartbeats without a report, whatever its server reports."""
    board = scene.begin()
    board.report(NO_WORKERS)

    until(lambda: scene.session().state == "overdue")
    board.report(NO_WORKERS)
    until(lambda: scene.session().state == "running")


def test_end_of_a_session_ends_the_cancelled_batches_of_its_jobs(scene):
    """The deleted member was running, so nothing else would check its batch for a while."""
    fire = Firelock(scene.storage)
    with fire.batch("import") as batch:
        batch.add(fire.task(name="task")(lambda: None))
    scene.begin()
    scene.storage.claim(ClaimRequest(None, 1, scene.ids["a"], scene.storage.clock()))
    batch.delete()
    before = batch.refresh().state

    scene.renewal.end(scene.ids["a"])

    assert (State.AWAITING, State.DELETED) == (before, batch.refresh().state)


def test_session_ends_even_if_its_batches_cannot_be_checked(scene, caplog):
    """The next sweep of a server checks the batches, and the session is not ended again."""
    scene.begin()
    scene.storage.fail("release", StorageUnavailable("down"))

    taken = scene.renewal.end(scene.ids["a"])

    assert scene.ids["a"] == taken.session
    assert "the next sweep" in caplog.text


def test_session_removed_during_its_renewal_gets_no_right_to_run(scene):
    """The session was lost, or its process has died.

    The sessions of the other processes are renewed as usual.
    """
    first, second = scene.begin("a"), scene.begin("b")
    rights = []

    def dies():
        scene.renewal.forget(scene.ids["a"])
        rights.append(first.may_start())
        first.close()

    scene.storage.meanwhile.append(dies)
    until(lambda: rights)
    second.grant(0)

    until(second.may_start)
    assert [False] == rights


@pytest.mark.parametrize(
    ("error", "logged"),
    [(StorageUnavailable("down"), 1), (StorageError("refused"), 2), (RuntimeError("a bug"), 2)],
)
def test_failed_renewal_is_retried(scene, error, logged, caplog):
    """The thread continues, the session is kept, and no loss is reported.

    The beginning and the end of an outage are logged.
    """
    caplog.set_level("INFO")
    board = scene.begin()
    scene.storage.fail("renew", error, error)

    until(lambda: scene.renewals() >= 4)

    assert ([], True) == (scene.lost, board.may_start())
    assert logged == caplog.text.count("retrying")
    assert 1 == caplog.text.count("Sessions are renewed again")


# ---- orders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ['"restart"', "null", "[]", "{}", "7", "not json"])
def test_invalid_order_is_ignored(scene, value):
    """Sessions are renewed, whatever the record of orders contains."""
    scene.begin()
    scene.storage.put_record("server_order", "server-a", value)
    scene.until_renewed()
    scene.until_renewed()

    for number in (1, 2):  # an order may be given again
        scene.storage.put_record("server_order", "server-a", '"quiet"')
        until(lambda number=number: len(scene.orders) == number)

    assert ["quiet"] * 2 == scene.orders


def test_obeyed_order_is_deleted(scene):
    """Orders to servers that have ended must not remain forever."""
    scene.begin()

    scene.storage.put_record("server_order", "server-a", '"quiet"')

    until(lambda: scene.orders)
    until(lambda: scene.storage.get_record("server_order", "server-a") is None)
    assert ["quiet"] == scene.orders


def test_orders_of_one_heartbeat_are_obeyed_in_sequence(scene):
    """The record contains all orders of the heartbeat. An invalid order is ignored."""
    scene.begin()

    scene.storage.put_record("server_order", "server-a", '["end session-a", "explode", 7, "quiet"]')

    until(lambda: scene.storage.get_record("server_order", "server-a") is None)
    assert ["end session-a", "quiet"] == scene.orders


def test_order_that_cannot_be_deleted_is_obeyed_once(scene):
    """The order is deleted when the storage is reachable again, and a newer order is obeyed."""
    scene.begin()
    scene.storage.fail_always("delete_record", StorageUnavailable("down"))
    scene.storage.put_record("server_order", "server-a", '"quiet"')
    until(lambda: len(scene.storage.called["delete_record"]) >= 3)
    obeyed = list(scene.orders)

    scene.storage.recover()
    scene.storage.put_record("server_order", "server-a", '"resume"')
    until(lambda: scene.storage.get_record("server_order", "server-a") is None)

    assert (["quiet"], ["quiet", "resume"]) == (obeyed, scene.orders)


def test_renewal_counts_even_if_orders_cannot_be_read(scene):
    """If reading the orders fails after a renewal, the renewal still counts."""
    board, granted, grant = scene.begin(), [], scene.children["a"].grant
    board.grant = lambda until: granted.append(grant(until))
    scene.storage.fail_always("get_record", StorageUnavailable("down"))

    until(lambda: len(granted) >= 2)

    assert ([], True) == (scene.lost, board.may_start())


def test_error_in_a_callback_does_not_end_the_renewals(caplog):
    """An error in a callback is logged, and the other sessions are renewed."""

    def fail(_):
        raise RuntimeError("a bug")

    scene = Scene(on_lost=fail)
    scene.begin("a")
    board = scene.begin("b")
    scene.storage.end_session(scene.ids["a"], None, reason="server lost")
    scene.storage.put_record("server_order", "server-a", '"stop"')
    scene.renewal.start()

    until(lambda: scene.renewals() >= 3)
    scene.renewal.stop()

    assert board.may_start()
    assert 2 == caplog.text.count("RuntimeError: a bug")
    for one in scene.children.values():
        one.close()
