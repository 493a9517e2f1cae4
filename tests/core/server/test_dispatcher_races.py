"""What comes between two steps: a stop, a loss or a failure at the moment a job changes hands."""

from __future__ import annotations

import threading

import pytest

from firelock import Firelock, JobContext, Settings
from firelock.errors import StorageUnavailable
from firelock.values import State
from tests.core.fakes import FailingStorage, until
from tests.core.server.test_dispatcher import Crew

SETTINGS = Settings(poll=60, heartbeat=300, session_timeout=3_600, sweep=300, claim_ahead=0)


@pytest.fixture
def crew():
    """A dispatcher with its executors, closed at the end."""
    crew = Crew()
    yield crew
    crew.close()


class Slow(FailingStorage):
    """A storage whose claims, once they have found something, answer when the test lets them."""

    def __init__(self):
        super().__init__()
        self.has_claimed, self.may_answer = threading.Event(), threading.Event()

    def claim(self, *args):
        answer = super().claim(*args)
        if answer.jobs:
            self.has_claimed.set()
            assert self.may_answer.wait(20)
        return answer


# ---- before a run can be seen ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
def test_a_job_lost_while_it_is_prepared_is_not_run(crew, is_async):
    """It was nobody's to cancel yet; whoever was about to start it looks once more."""
    crew.opened.set()
    task = crew.agated() if is_async else crew.gated()
    crew.start()
    prepare, prepared, may_go = crew.desk.runner.prepare, threading.Event(), threading.Event()

    def slowly(job, holder):
        run = prepare(job, holder)
        if not prepared.is_set():
            prepared.set()
            assert may_go.wait(20)
        return run

    crew.desk.runner.prepare = slowly
    (job,) = crew.enqueue(task)
    assert prepared.wait(20)
    crew.storage.end_session("session-a", None, reason="server lost")

    crew.dispatcher.adopt(crew.begin("session-b"))
    until(lambda: crew.dispatcher.wake() or job.refresh().record().fence == 2 or crew.came)
    may_go.set()
    until(lambda: crew.dispatcher.refused)

    crew.until_all(State.SUCCEEDED, [job])
    assert [job.id] == crew.came


# ---- when a release fails --------------------------------------------------------------------------------


def test_a_failed_release_costs_no_claimed_job_its_place(crew):
    """What came with the same answer is at work; upkeep releases the children later."""
    crew = crew.start()
    until(lambda: crew.dispatcher.is_idle)
    parent = crew.enqueue(crew.gated())[0]
    until(lambda: crew.came)
    child = parent.then(crew.task())
    crew.storage.fail("release", StorageUnavailable("away"))
    quiet = crew.dispatcher.quiet
    quiet(is_quiet=True)
    until(lambda: crew.dispatcher.is_quiet)
    other = crew.task().enqueue()
    crew.dispatcher.order(lambda: crew.opened.set() or until(lambda: crew.desk.ended))
    quiet(is_quiet=False)

    crew.until_all(State.SUCCEEDED, [parent, other])

    assert 1 == other.refresh().record().fence
    assert State.AWAITING is crew.state(child)


# ---- stopping --------------------------------------------------------------------------------------------


def test_a_stop_waits_for_a_claim_that_is_under_way():
    """What it brings is handed back as any job that has not started: the server was not lost."""
    storage = Slow()
    with Firelock(storage, settings=SETTINGS) as fire:
        ran = []
        job = fire.task(name="runs")(lambda: ran.append(1)).enqueue()
        server = fire.server(workers=1).start()
        assert storage.has_claimed.wait(20)
        server._board.grant(0)  # noqa: SLF001 - so that no worker begins it in the meantime
        stopping = threading.Thread(target=server.stop, kwargs={"grace": 0})
        stopping.start()
        until(lambda: server._child._dispatcher._orders)  # noqa: SLF001
        storage.may_answer.set()
        stopping.join(20)

        record = job.refresh().record()
        assert (State.ENQUEUED, 0, "server stopping") == (record.state, record.attempt, record.reason)
        assert [] == ran


def test_a_job_that_heeds_its_cancellation_has_a_moment_even_in_a_hurry():
    """It ends by itself before it is handed back, so that it cannot run twice at once."""
    storage, started = FailingStorage(), threading.Event()
    with Firelock(storage, settings=SETTINGS) as fire:

        def heeds(context: JobContext) -> None:
            started.set()
            until(lambda: context.cancelled)
            context.raise_if_cancelled()

        job = fire.task(name="heeds")(heeds).enqueue()
        server = fire.server(workers=1).start()
        assert started.wait(20)
        server._child.hurry()  # noqa: SLF001 - what a second signal does

        server.stop(grace=20)

        assert (State.ENQUEUED, "server stopping") == ((again := job.refresh()).state, again.reason)


# ---- who runs where --------------------------------------------------------------------------------------


def test_a_coroutine_that_crashed_is_run_where_no_process_can_be_had(crew):
    """An app that stands in no module: its suspects are awaited on the loop, as ever."""
    crew.opened.set()
    (job,) = crew.enqueue(crew.agated())
    for number in range(2):
        session = f"crashed-{number}"
        crew.begin(session)
        crew.storage.claim(None, 1, session, crew.storage.clock())
        crew.storage.end_session(session, [job.id], reason="its process died")

    crew.start()

    crew.until_all(State.SUCCEEDED, [job])
    assert (2, [job.id]) == (job.refresh().record().crashes, crew.came)


def test_coroutines_in_processes_are_claimed_by_threads(crew):
    """A thread waits for each: the room on the event loop says nothing about them."""
    crew.app_spec = "nowhere:fire"
    crew.agated(executor="process")

    crew.start()
    until(lambda: crew.dispatcher.is_idle)

    assert [crew.workers] == [limit for _, limit, *_ in crew.storage.called["claim"]]


# ---- waking up -------------------------------------------------------------------------------------------


def test_a_wait_that_fails_in_a_way_nobody_knows_is_taken_up_again(caplog):
    """Else every job from then on would wait for the poll."""
    storage = FailingStorage()
    with Firelock(storage, settings=Settings(poll=0.01)) as fire:
        fire.task(name="noop")(lambda: None)
        storage.fail("wait", ArithmeticError("unheard of"))

        with fire.server(workers=1):
            until(lambda: len(storage.called["wait"]) >= 3)

    assert "unheard of" in caplog.text
