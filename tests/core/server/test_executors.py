"""Where runs happen: threads in turn, coroutines at once, processes for what asks for one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import attrs
import pytest

from firelock import Firelock, Retry, current_job
from firelock.context import JobCancelled
from firelock.hookspecs import ServerInfo
from firelock.server.attempt import CancelKind
from firelock.server.shared_memory import Board
from firelock.server.workers import FLUSH_SIZE, AsyncWorkers, Desk, ThreadWorkers, Ticket
from firelock.values import State
from tests.core.fakes import Worker, until

FOR_EVER = 1e9


class Office:
    """A desk with everything that executors share, and jobs to put there."""

    def __init__(self):
        self.fire = Firelock("memory://")
        self.worker = Worker(self.fire)
        self.board = Board.create(20)
        self.board.grant(FOR_EVER)
        self.wakes = []
        server = ServerInfo("server-a", "host:a", "*", 2, 7)
        self.desk = Desk(
            self.worker.runner,
            self.worker.console,
            self.board,
            server,
            None,
            lambda: self.wakes.append("wake"),
        )
        self.executors = []

    def threads(self, count=1):
        """So many threads."""
        self.executors.append(ThreadWorkers(self.desk, count))
        return self.executors[-1]

    def coroutines(self, limit=10):
        """An event loop for so many coroutines."""
        self.executors.append(AsyncWorkers(self.desk, limit, 5))
        return self.executors[-1]

    def tickets(self, function, number=1, **options):
        """Claimed jobs of a new task."""
        name = f"task-{len(self.fire.tasks())}"
        self.fire.task(name=name, **options)(function).enqueue_many([()] * number)
        return [Ticket(job, self.worker.holder) for job in self.worker.claim(number)]

    def ends(self, number):
        """Where the first ends lead, once there are so many."""
        until(lambda: len(self.desk.ended) >= number)
        return [ended.transition.to for ended in self.desk.ended]

    def close(self):
        for executor in self.executors:
            executor.close(10)
        self.board.close()
        self.fire.close()


@pytest.fixture
def office():
    """A desk, closed with all its executors at the end."""
    office = Office()
    yield office
    office.close()


class Gate:
    """Holds runs until the test opens it; counts who came."""

    def __init__(self):
        self.came = came = []
        self.opened = opened = threading.Event()

        def work():
            came.append(current_job().id)
            assert opened.wait(10)

        async def wait():
            came.append(current_job().id)
            await asyncio.to_thread(opened.wait, 10)

        self.work, self.wait = work, wait


@pytest.fixture
def gate():
    """A gate that is opened at the end, whatever happened."""
    gate = Gate()
    yield gate
    gate.opened.set()


# ---- threads ---------------------------------------------------------------------------------------------


def test_a_thread_runs_jobs_in_their_order(office):
    """One after another; each end waits to be settled."""
    order = []
    tickets = office.tickets(lambda: order.append(current_job().id), 5)

    office.threads(1).put(tickets)

    assert [State.SUCCEEDED] * 5 == office.ends(5)
    assert [ticket.job.id for ticket in tickets] == order == [ended.job.id for ended in office.desk.ended]


def test_several_threads_run_at_once(office, gate):
    """As many as there are; the next waits for the first that is free."""
    threads = office.threads(2)

    threads.put(office.tickets(gate.work, 3))
    until(lambda: len(gate.came) == 2)
    seen = (threads.waiting, len(threads.running), threads.has_idle, sorted(office.board.running()))
    gate.opened.set()

    assert (1, 2, False, sorted(gate.came[:2])) == seen
    assert [State.SUCCEEDED] * 3 == office.ends(3)
    until(lambda: threads.has_idle)
    assert ([], {}) == (office.board.running(), threads.running)


def test_the_dispatcher_is_woken_when_nothing_else_waits(office, gate):
    """Or when a batch is full: not for each end."""
    threads = office.threads(1)
    threads.put(office.tickets(gate.work, 1) + office.tickets(lambda: None, FLUSH_SIZE + 5))

    gate.opened.set()
    office.ends(FLUSH_SIZE + 6)
    until(lambda: threads.has_idle)

    assert 7 == len(office.wakes)  # from the hundredth end on, the last one among them


def test_the_oldest_wait_is_known(office, gate):
    """It begins when a job is put there and no worker is free; it ends when the job starts."""
    threads = office.threads(1)
    empty = threads.oldest_wait()
    threads.put(office.tickets(gate.work))
    until(lambda: gate.came)
    running = threads.oldest_wait()
    before = time.monotonic()
    threads.put(office.tickets(lambda: None))
    until(lambda: threads.oldest_wait() > 0.005)
    waited = threads.oldest_wait()
    gate.opened.set()
    office.ends(2)

    assert (0.0, 0.0, 0.0) == (empty, running, threads.oldest_wait())
    assert 0.005 < waited <= time.monotonic() - before


def test_what_has_not_started_can_be_taken_back(office, gate):
    """It will not run; what runs goes on."""
    threads = office.threads(1)
    tickets = office.tickets(gate.work, 3)
    threads.put(tickets)
    until(lambda: gate.came)

    back = threads.take_back()
    gate.opened.set()

    assert tickets[1:] == back
    assert [State.SUCCEEDED] == office.ends(1)
    assert (0, [tickets[0].job.id]) == (threads.waiting, gate.came)


def test_a_ticket_that_was_dropped_is_passed_over(office, gate):
    """A job that was lost before it started is not run."""
    threads = office.threads(1)
    tickets = office.tickets(gate.work, 3)
    tickets[1].is_dropped = True
    threads.put(tickets)

    gate.opened.set()
    office.ends(2)

    assert [tickets[0].job.id, tickets[2].job.id] == gate.came


def test_what_cannot_be_run_here_ends_without_a_run(office):
    """An unknown task has its end at once."""
    (ticket,) = office.tickets(lambda: None)
    ticket.job.task = "nobody"

    office.threads(1).put([ticket])

    assert [State.SCHEDULED] == office.ends(1)


def test_nothing_starts_without_the_right_to_run(office):
    """It waits for the right; a ticket that is dropped meanwhile does not start at all."""
    office.board.grant(0)
    threads, tickets = office.threads(1), office.tickets(lambda: None, 2)
    threads.put(tickets)
    until(lambda: threads.waiting == 1)
    before = len(office.desk.ended)

    tickets[0].is_dropped = True
    until(lambda: threads.waiting == 0)
    office.board.grant(FOR_EVER)

    assert (0, [State.SUCCEEDED]) == (before, office.ends(1))
    assert [tickets[1].job.id] == [ended.job.id for ended in office.desk.ended]


def test_closing_ends_who_waits_for_the_right(office, our_threads):
    """No thread is left, and nothing was started."""
    office.board.grant(0)
    threads = office.threads(1)
    threads.put(office.tickets(lambda: None))
    until(lambda: threads.waiting == 0)

    threads.close(10)

    assert 0 == len(office.desk.ended)
    assert [] == our_threads("firelock-worker-0")


def test_closing_waits_for_no_busy_worker(office, gate):
    """Beyond its time; the worker ends with its job."""
    threads = office.threads(2)
    threads.put(office.tickets(gate.work))
    until(lambda: gate.came)

    threads.close(0)
    gate.opened.set()

    assert [State.SUCCEEDED] == office.ends(1)


def test_what_has_not_started_can_be_taken_back_after_closing_too(office, gate):
    """The word to end, which waits among the jobs, is none of them."""
    threads = office.threads(1)
    first, second = office.tickets(gate.work, 2)
    threads.put([first])
    until(lambda: gate.came)
    threads.close(0)
    threads.put([second])

    assert [second] == threads.take_back()
    assert [] == threads.take_back()
    threads.close(0)  # the word to end was taken back with them


def test_a_worker_survives_a_failure_outside_of_its_task(office, caplog):
    """A process that cannot be started is a failed attempt of the job, told once; the thread goes on."""
    office.desk.app_spec = "nowhere:fire"
    office.desk.server = object()  # what no process can be told
    threads = office.threads(1)
    apart = office.tickets(lambda: None, executor="process", retry=Retry.never())
    threads.put(apart + office.tickets(lambda: None))

    assert [State.FAILED, State.SUCCEEDED] == office.ends(2)
    (line,) = [record for record in caplog.records if apart[0].job.id in record.getMessage()]
    assert ("firelock.jobs", True) == (line.name, line.exc_info is not None)
    assert ([], {}) == (office.board.running(), threads.running)
    assert 0 <= office.desk.ended[0].duration < 10_000_000


def test_a_policy_that_ends_in_nonsense_fails_the_job(office, caplog):
    """Whatever is decided about a failure, the worker goes on."""
    from firelock.retry import DecisionKind, RetryDecision

    class Nonsense:
        def decide(self, job, error):
            return RetryDecision(DecisionKind.RETRY, "soon")

    def fail():
        raise ValueError("boom")

    office.threads(1).put(office.tickets(fail, retry=Nonsense()) + office.tickets(lambda: None))

    assert [State.FAILED, State.SUCCEEDED] == office.ends(2)
    assert "no end could be made of it" in office.desk.ended[0].transition.reason
    assert "TypeError" in caplog.text


# ---- coroutines ------------------------------------------------------------------------------------------


def test_coroutines_run_at_once(office, gate):
    """On one loop in one thread, each with a place on the board."""
    coroutines = office.coroutines(10)
    tickets = office.tickets(gate.wait, 5)

    coroutines.put(tickets)
    until(lambda: len(gate.came) == 5)
    seen = (len(coroutines.running), sorted(office.board.running()))
    gate.opened.set()

    assert (5, sorted(ticket.job.id for ticket in tickets)) == seen
    assert [State.SUCCEEDED] * 5 == office.ends(5)
    until(lambda: not office.board.running())


def test_no_loop_runs_before_the_first_coroutine(office, our_threads):
    """An app without `async def` tasks has none; closing it is nothing."""
    coroutines = office.coroutines()
    coroutines.watch()

    coroutines.close(1)

    assert [] == our_threads("firelock-loop")


def test_more_than_there_is_room_for_waits_in_order(office, gate):
    """Never more than the limit run; each that ends makes room for the next."""
    coroutines = office.coroutines(2)
    tickets = office.tickets(gate.wait, 5)

    coroutines.put(tickets)
    until(lambda: len(gate.came) == 2)
    seen = (len(coroutines.running), coroutines.waiting, coroutines.oldest_wait() > 0)
    gate.opened.set()

    assert (2, 3, True) == seen
    assert [State.SUCCEEDED] * 5 == office.ends(5)
    assert [ticket.job.id for ticket in tickets] == gate.came
    assert (0, 0.0) == (coroutines.waiting, coroutines.oldest_wait())


def test_coroutines_that_wait_can_be_taken_back(office, gate):
    """They will not run; those that run go on."""
    coroutines = office.coroutines(1)
    tickets = office.tickets(gate.wait, 3)
    coroutines.put(tickets)
    until(lambda: gate.came)

    back = coroutines.take_back()
    gate.opened.set()

    assert tickets[1:] == back
    assert [State.SUCCEEDED] == office.ends(1)


def test_a_cancelled_coroutine_ends_at_once(office, gate):
    """Its task is cancelled where it awaits."""
    coroutines = office.coroutines()
    coroutines.put(office.tickets(gate.wait))
    until(lambda: gate.came)

    (run,) = coroutines.running.values()
    run.cancel(CancelKind.STOP, "server stopping")

    assert [State.ENQUEUED] == office.ends(1)
    assert "server stopping" == office.desk.ended[0].transition.reason


def test_a_coroutine_cancelled_before_its_first_step_ends_too(office, gate):
    """Where it first awaits; its place is free again."""
    loop_is_busy, go_on = threading.Event(), threading.Event()

    async def block():
        loop_is_busy.set()
        go_on.wait(10)

    coroutines = office.coroutines(2)
    coroutines.put(office.tickets(block))
    loop_is_busy.wait(10)
    (ticket,) = office.tickets(gate.wait)
    prepare = office.desk.runner.prepare

    def cancelled(job, holder):
        run = prepare(job, holder)
        run.cancel(CancelKind.LOST, "deleted")
        return run

    office.desk.runner.prepare = cancelled
    coroutines.put([ticket])
    go_on.set()

    assert [State.SUCCEEDED, State.ENQUEUED] == office.ends(2)
    until(lambda: not coroutines.running)


def test_a_coroutine_that_cannot_be_run_here_takes_no_place(office):
    """It has its end at once; a dropped one has none."""
    coroutines = office.coroutines(1)
    tickets = office.tickets(asyncio_nothing, 3)
    tickets[0].job.task = "nobody"
    tickets[1].is_dropped = True

    coroutines.put(tickets)

    assert [State.SCHEDULED, State.SUCCEEDED] == office.ends(2)


async def asyncio_nothing():
    """Returns at once."""


def test_coroutines_wait_for_the_right_to_run(office):
    """They start when it is granted; one that is dropped meanwhile does not."""
    office.board.grant(0)
    coroutines, tickets = office.coroutines(), office.tickets(asyncio_nothing, 2)
    coroutines.put(tickets)
    until(lambda: coroutines.oldest_wait() > 0.06)
    before = len(office.desk.ended)

    tickets[0].is_dropped = True
    office.board.grant(FOR_EVER)

    assert (0, [State.SUCCEEDED]) == (before, office.ends(1))


def test_the_dispatcher_is_woken_by_the_last_coroutine(office, gate):
    """Others of a batch share its wake."""
    coroutines = office.coroutines()
    coroutines.put(office.tickets(gate.wait, 3))
    until(lambda: len(gate.came) == 3)

    gate.opened.set()
    office.ends(3)
    until(lambda: not coroutines.running)

    assert 1 <= len(office.wakes) <= 3


def test_a_callback_of_a_job_does_not_end_the_loop(office, caplog):
    """What it raises would end a program; the coroutines of other jobs go on."""

    async def leaves():
        loop = asyncio.get_running_loop()
        later = loop.create_future()
        loop.call_soon(exec, "raise SystemExit(3)")
        loop.call_soon(later.set_result, None)
        await later

    coroutines = office.coroutines()

    coroutines.put(office.tickets(leaves) + office.tickets(asyncio_nothing))

    assert [State.SUCCEEDED] * 2 == office.ends(2)
    assert "SystemExit: 3" in caplog.text


def test_a_coroutine_that_blocks_the_loop_is_named(office, caplog):
    """Once a blockade; after it nothing is said any more."""
    go_on = threading.Event()

    async def block():
        go_on.wait(10)

    coroutines = office.coroutines()
    (ticket,) = office.tickets(block)
    coroutines.put([ticket])
    until(lambda: coroutines.running)

    with caplog.at_level(logging.WARNING):
        until(lambda: coroutines.watch() or "blocked" in caplog.text)
        coroutines.watch()
    go_on.set()
    office.ends(1)
    until(lambda: not coroutines.running)
    coroutines.watch()

    assert 1 == caplog.text.count("The event loop has been blocked for")
    assert f"by job {ticket.job.id} task-0; use a `def` task, or await." in caplog.text


def test_a_loop_that_answers_is_not_blamed(office, gate, caplog):
    """However long its jobs run."""
    coroutines = office.coroutines()
    coroutines.put(office.tickets(gate.wait))
    until(lambda: gate.came)

    began = time.monotonic()
    until(lambda: coroutines.watch() or time.monotonic() - began > 0.9)

    assert "" == caplog.text


def test_closing_cancels_what_still_awaits(office, gate, our_threads):
    """The loop's thread ends, and so do its coroutines."""
    coroutines = office.coroutines()
    coroutines.put(office.tickets(gate.wait, 2))
    until(lambda: len(gate.came) == 2)

    coroutines.close(10)

    assert {} == coroutines.running
    assert [] == our_threads("firelock-loop")


def test_a_run_knows_when_it_is_told_to_end(office, gate):
    """A thread cannot be ended: its job is told, and decides."""
    threads, seen = office.threads(1), []

    def work():
        gate.work()
        try:
            current_job().raise_if_cancelled()
        except JobCancelled as told:
            seen.append(str(told))
            raise

    threads.put(office.tickets(work))
    until(lambda: gate.came)
    (run,) = threads.running.values()
    run.cancel(CancelKind.STOP, "server stopping")
    gate.opened.set()

    assert [State.ENQUEUED] == office.ends(1)
    assert ["server stopping"] == seen


def test_a_ticket_is_equal_to_itself_only(office):
    """A job that is claimed again is another ticket."""
    (ticket,) = office.tickets(lambda: None)

    assert ticket != attrs.evolve(ticket)
