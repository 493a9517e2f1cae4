"""A run that waits without a worker costs two round trips on a server: its memo and its end."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.memo import MemoKind
from firelock.storage import Applied, State
from firelock.testing.conformance.flow_scene import call_memo, sleeps, suspends
from firelock.testing.conformance.scene import BASE, HOUR, fails, succeeds


def for_a_signal(flow, job):
    """Store that the run waits for a signal; return its suspension."""
    flow.begin_wait(job, "approval")
    return suspends(job)


def for_a_signal_until(flow, job):
    """Store that the run waits for a signal with a deadline; return its suspension."""
    flow.begin_wait(job, "approval", BASE + HOUR)
    return suspends(job, due_at=BASE + HOUR)


def for_an_instant(flow, job):
    """Store the time until which the run sleeps; return its suspension."""
    flow.keep(job, "night", str(BASE + HOUR), kind=MemoKind.SLEEP)
    return sleeps(job, "night", due_at=BASE + HOUR)


def for_a_job(flow, job):
    """Store the call of a job and the job; return the suspension of the run."""
    child = flow.add(queue="children")
    flow.remember(call_memo(job, "pay", child))
    return suspends(job, "pay", kind=MemoKind.CALL, children=[child])


MANY = 130  # more than the bits of a number
WAITS = [for_a_signal, for_a_signal_until, for_an_instant, for_a_job]


def shown(flow, job_id):
    """Return all visible data of the job, except its id and its time of creation."""
    record = flow.record(job_id)
    return attrs.evolve(record, id="", created_at=0, changed_at=0), flow.history(job_id)[1:]


@pytest.mark.parametrize("wait", WAITS)
def test_suspension_takes_one_round_trip(flow, proxy, wait):
    """After the round trip for the memo, a second one checks the awaited condition and stores the wait."""
    flow.settle(wait(flow, flow.run()))  # this prepares the statements
    job = flow.run()
    suspension = wait(flow, job)
    before = proxy.traffic

    assert Applied.APPLIED is flow.apply(suspension)

    assert 1 == (proxy.traffic - before).trips
    flow.check(
        job.id, state=suspension.to, reason=suspension.reason, due_at=suspension.due_at,
        waits_for=suspension.waits_for, attempt=0, session=None, changed_at=suspension.at,
    )  # fmt: skip


@pytest.mark.parametrize("wait", WAITS)
def test_memo_of_a_wait_takes_one_round_trip(flow, proxy, wait):
    """Storing a called job takes one more round trip, as for any job."""
    flow.settle(wait(flow, flow.run()))
    job = flow.run()
    before = proxy.traffic

    wait(flow, job)

    assert (2 if wait is for_a_job else 1) == (proxy.traffic - before).trips


def test_suspensions_share_one_round_trip(flow, proxy):
    """The number of suspensions and their kinds of conditions do not matter."""
    flow.settle(for_a_signal(flow, flow.run()))
    flow.add_many(8)
    jobs = flow.take(flow.begin())
    suspensions = [WAITS[place % 4](flow, job) for place, job in enumerate(jobs)]
    before = proxy.traffic

    assert [Applied.APPLIED] * 8 == flow.storage.apply(suspensions)

    assert 1 == (proxy.traffic - before).trips
    assert [one.to for one in suspensions] == flow.states(*(job.id for job in jobs))
    waiting, sleeping = {State.AWAITING: 1 + 6}, {State.SCHEDULED: 2}
    assert {**waiting, **sleeping, State.ENQUEUED: 2} == flow.by_state()


def test_suspensions_of_one_call_are_decided_separately(flow):
    """In this test, every tenth suspension already has its signal, so its job is enqueued."""
    flow.add_many(MANY)
    jobs = flow.take(flow.begin(), MANY)
    suspensions = [for_a_signal(flow, job) for job in jobs]
    signalled = jobs[::10]
    for job in signalled:
        flow.send(job.id, "approval")

    assert {Applied.APPLIED} == set(flow.storage.apply(suspensions))

    assert {State.AWAITING: MANY - len(signalled), State.ENQUEUED: len(signalled)} == flow.by_state()
    assert {State.ENQUEUED} == set(flow.states(*(job.id for job in signalled)))


@pytest.mark.parametrize("wait", WAITS)
def test_suspension_on_the_fast_path_equals_one_on_the_slow_path(flow, wait):
    """If a call contains a job twice, the job takes the slow path. The stored results are equal."""
    flow.add_many(2)
    one, other = flow.take(flow.begin())
    long, short = wait(flow, one), wait(flow, other)
    short = attrs.evolve(short, at=long.at, started_at=long.started_at, claimed_at=long.claimed_at)

    assert [Applied.APPLIED, Applied.ALREADY] == flow.storage.apply([long, long])
    assert Applied.APPLIED is flow.apply(short)

    assert shown(flow, one.id) == shown(flow, other.id)


def test_exchange_settles_suspensions_and_other_ends(flow):
    """Each kind is settled in its own way.

    The results are in the order of the transitions in the call, and more jobs are claimed.
    """
    flow.add_many(6)
    holder = flow.begin()
    jobs = flow.take(holder, 5)
    flow.send(jobs[3].id, "approval")
    transitions = [
        for_a_signal(flow, jobs[0]), succeeds(jobs[1]), for_an_instant(flow, jobs[2]), suspends(jobs[3]),
        fails(jobs[4]),
    ]  # fmt: skip

    exchange = flow.exchange(holder, [*transitions, attrs.evolve(transitions[0], job_id="unknown")], 5)

    assert [*[Applied.APPLIED] * 5, Applied.MISSING] == exchange.results
    assert 2 == len(exchange.claim.jobs)  # the remaining job, and the job whose signal was already sent
    assert {
        State.AWAITING: 1, State.SUCCEEDED: 1, State.SCHEDULED: 1, State.FAILED: 1, State.PROCESSING: 2,
    } == flow.by_state()  # fmt: skip


def test_repeated_suspension_is_stored_once(flow):
    """The reply to the first suspension was lost.

    The job still waits for the called job only once, and the history has one line about it.
    """
    job = flow.run()
    suspension = for_a_job(flow, job)
    flow.settle(suspension)

    assert Applied.ALREADY is flow.apply(suspension)

    (child,) = suspension.parents
    flow.settle(succeeds(flow.take(flow.begin("b"), queues=["children"])[0]))
    assert 1 == flow.storage.release(10)
    assert [State.ENQUEUED, State.AWAITING, State.ENQUEUED] == [one.state for one in flow.history(job.id)]
    assert State.SUCCEEDED is flow.state(child.parent_id)
