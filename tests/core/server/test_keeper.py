"""A server's sessions, renewed together; each child's right to run, which ends before its session does."""

from __future__ import annotations

import time

import pytest

from firelock import Settings
from firelock.errors import StorageError, StorageUnavailable
from firelock.server.session_renewal import SessionKeeper
from firelock.server.shared_memory import Board
from firelock.storage import NewSession
from tests.core.fakes import FailingStorage, until

SETTINGS = Settings(heartbeat=0.1, session_timeout=2)


class Scene:
    """A keeper over a storage that fails as told, and what it reports."""

    def __init__(self, settings=SETTINGS):
        self.storage = FailingStorage()
        self.lost, self.orders, self.boards = [], [], {}
        self.keeper = SessionKeeper(
            self.storage, settings, "server-a", on_lost=self.lost.append, on_order=self.orders.append
        )

    def begin(self, name="a", timeout_seconds=1e6):
        """A session of that name, with a board of its own."""
        self.boards[name] = Board.create(1)
        session = NewSession(name, "server-a", "host:a", "host", 7, 0, timeout_seconds)
        self.keeper.begin(session, self.boards[name])
        self.boards[name].adopt_session()
        return self.boards[name]

    def sessions(self):
        """What is stored of each session's last renewal."""
        return {one.session.id: one.renewal for one in self.storage.list_sessions()}

    def renewals(self):
        return len(self.storage.called["renew"])

    def until_renewed(self):
        """A round of renewals that begins from now on is over."""
        before = len(self.storage.called["get_record"])
        until(lambda: len(self.storage.called["get_record"]) > before)


@pytest.fixture
def scene():
    """A keeper that runs, stopped at the end."""
    scene = Scene()
    scene.keeper.start()
    yield scene
    scene.keeper.stop()
    for board in scene.boards.values():
        board.close()


def test_a_session_that_has_begun_may_run_jobs(scene):
    """It is stored, and its child may start jobs."""
    board = scene.begin()

    assert (True, ["a"]) == (board.may_start(), list(scene.sessions()))


def test_a_session_that_could_not_begin_may_run_none(scene):
    """The error passes; nothing is kept of it."""
    scene.storage.fail("begin_session", StorageUnavailable("down"))

    with pytest.raises(StorageUnavailable):
        scene.begin()

    assert not scene.boards["a"].may_start()
    scene.until_renewed()
    assert 0 == scene.renewals()


@pytest.mark.parametrize(
    ("timeout", "heartbeat", "margin"), [(30, 10, 1.0), (0.5, 0.1, 0.05), (600, 100, 12.0)]
)
def test_the_right_to_run_ends_before_the_session(timeout, heartbeat, margin):
    """A margin before anybody else can see the session as dead, counted from before it was renewed."""
    scene, granted = Scene(Settings(session_timeout=timeout, heartbeat=heartbeat)), []
    board = Board.create(1)
    board.grant = granted.append
    before = time.monotonic()

    scene.keeper.begin(NewSession("a", "server-a", "host:a", "host", 7, 0, timeout), board)

    assert before <= granted[0] - (timeout - margin) <= time.monotonic()
    board.close()


def test_all_sessions_are_renewed_in_one_call(scene):
    """With what their children report; the right to run grows with each renewal."""
    boards = [scene.begin(name) for name in "ab"]
    boards[0].report(3)
    granted = []
    boards[1].grant = granted.append

    scene.until_renewed()

    (renewals,) = scene.storage.called["renew"][-1]
    assert [("a", 3, "running"), ("b", 0, "running")] == [
        (one.session, one.busy, one.state) for one in renewals
    ]
    assert time.monotonic() < granted[-1]


def test_a_renewal_tells_what_the_child_takes():
    """Its memory, and its share of one processor since the renewal before, from its own reports."""
    scene = Scene(Settings(heartbeat=600, session_timeout=2_000))
    board = scene.begin()
    board.report(1, cpu_seconds=10.0, rss_bytes=50_000_000)
    scene.keeper.renew()
    first = scene.sessions()["a"]
    before = board.reported_at

    board.report(1, cpu_seconds=10.5, rss_bytes=60_000_000)
    scene.keeper.renew()

    second = scene.sessions()["a"]
    assert (50_000_000, 60_000_000) == (first.rss_bytes, second.rss_bytes)
    assert 0.0 == first.cpu_percent
    assert second.cpu_percent == pytest.approx(50 / (board.reported_at - before), rel=1e-6)
    board.close()


def test_the_state_of_a_server_is_told(scene):
    """From the next renewal on."""
    scene.begin()

    scene.keeper.mark("quiet")
    scene.until_renewed()

    assert "quiet" == scene.sessions()["a"].state


def test_a_child_that_reports_nothing_is_overdue(scene):
    """Three heartbeats without a word, whatever its server says of itself."""
    board = scene.begin()
    board.report(1)

    until(lambda: scene.sessions()["a"].state == "overdue")
    board.report(0)
    until(lambda: scene.sessions()["a"].state == "running")


def test_a_lost_session_is_told_once(scene):
    """It may start nothing more, the others live on."""
    lost, board = scene.begin("a"), scene.begin("b")
    scene.storage.end_session("a", None, reason="server lost")

    until(lambda: scene.lost)
    scene.until_renewed()

    assert (["a"], False, True) == (scene.lost, lost.may_start(), board.may_start())
    assert ["b"] == [one.session for one in scene.storage.called["renew"][-1][0]]


def test_a_session_that_is_forgotten_is_not_renewed(scene):
    """Its child may start nothing; forgetting twice is nothing."""
    board = scene.begin()

    scene.keeper.forget("a")
    scene.keeper.forget("a")
    renewals = scene.renewals()
    scene.until_renewed()

    assert (False, renewals) == (board.may_start(), scene.renewals())


@pytest.mark.parametrize(
    ("error", "told"),
    [(StorageUnavailable("down"), 1), (StorageError("refused"), 2), (RuntimeError("a bug"), 2)],
)
def test_a_renewal_that_fails_is_tried_again(scene, error, told, caplog):
    """The thread goes on, the session lives, nobody is told of a loss; of an outage the log has both ends."""
    caplog.set_level("INFO")
    board = scene.begin()
    scene.storage.fail("renew", error, error)

    until(lambda: scene.renewals() >= 4)

    assert ([], True) == (scene.lost, board.may_start())
    assert told == caplog.text.count("trying again")
    assert 1 == caplog.text.count("Sessions are renewed again")


def test_after_an_outage_the_right_has_run_out():
    """A child that cannot be renewed starts nothing, until it is."""
    scene = Scene(Settings(heartbeat=0.1, session_timeout=0.5))
    board = scene.begin()
    scene.storage.fail_always("renew", StorageUnavailable("down"))
    scene.keeper.start()

    until(lambda: not board.may_start())
    scene.storage.mend()

    until(board.may_start)
    scene.keeper.stop()
    board.close()


# ---- orders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["quiet", "resume", "stop"])
def test_an_order_is_heard_within_a_heartbeat(scene, order):
    """Once, however often it is read."""
    scene.storage.put_record("server_order", "server-a", f'"{order}"')
    until(lambda: scene.orders)
    scene.until_renewed()

    assert [order] == scene.orders


def test_an_order_may_be_given_again(scene):
    """Each time it is written it is heard."""
    for _ in range(2):
        before = len(scene.orders)
        scene.storage.put_record("server_order", "server-a", '"quiet"')
        until(lambda before=before: len(scene.orders) > before)

    assert ["quiet", "quiet"] == scene.orders


@pytest.mark.parametrize("value", ['"restart"', "null", "[]", "{}", "7", "not json"])
def test_what_is_no_order_is_passed_over(scene, value):
    """Whatever the record holds, sessions are renewed."""
    scene.begin()
    scene.storage.put_record("server_order", "server-a", value)
    scene.until_renewed()
    scene.until_renewed()

    scene.storage.put_record("server_order", "server-a", '"quiet"')

    until(lambda: scene.orders)
    assert ["quiet"] == scene.orders


def test_orders_that_cannot_be_read_cost_no_right_to_run(scene):
    """What was renewed is renewed."""
    board, granted, grant = scene.begin(), [], scene.boards["a"].grant
    board.grant = lambda until: granted.append(grant(until))
    scene.storage.fail_always("get_record", StorageUnavailable("down"))

    until(lambda: len(granted) >= 2)

    assert ([], True) == (scene.lost, board.may_start())


def test_what_an_order_or_a_loss_leads_to_does_not_end_the_renewals(caplog):
    """An error there is logged; the other sessions live on."""

    def fail(_):
        raise RuntimeError("a bug")

    scene = Scene()
    scene.keeper = SessionKeeper(scene.storage, SETTINGS, "server-a", on_lost=fail, on_order=fail)
    scene.begin("a")
    board = scene.begin("b")
    scene.storage.end_session("a", None, reason="server lost")
    scene.storage.put_record("server_order", "server-a", '"stop"')
    scene.keeper.start()

    until(lambda: scene.renewals() >= 3)
    scene.keeper.stop()

    assert board.may_start()
    assert 2 == caplog.text.count("RuntimeError: a bug")
    for one in scene.boards.values():
        one.close()


def test_stopping_ends_the_renewals(our_threads):
    """At once, whatever the heartbeat."""
    scene = Scene(Settings(heartbeat=1_000, session_timeout=3_600))
    scene.keeper.start()

    scene.keeper.stop()

    assert [] == our_threads("firelock-sessions")
