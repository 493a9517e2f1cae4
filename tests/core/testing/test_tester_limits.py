"""Limits, rates, unique keys and debounced jobs in a test, controlled by the test's clock."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock import Debounce, DuplicateJob, Firelock, Limit, State, Turns, Unique, hookimpl
from firelock.testing import Tester


@pytest.fixture
def fire():
    """Yield an app whose tasks have limits or unique keys; `ran` contains the arguments of their runs."""
    with Firelock("memory://") as fire:
        fire.ran = []

        @fire.task(name="call", limits=[Limit("api:{tenant}", rate=2, per=60, burst=1)])
        def call(tenant: int, number: int = 0):
            fire.ran.append((tenant, number))

        @fire.task(name="rebuild", unique=Unique("index"))
        def rebuild(): ...

        @fire.task(name="save", unique=Debounce("doc:{doc}", wait=5))
        def save(doc: int, text: str):
            fire.ran.append((doc, text))

        fire.call, fire.rebuild, fire.save = call, rebuild, save
        yield fire


def test_declared_rate_applies_in_a_tester(fire):
    """The tester stores the settings from the code, as a server does when it starts."""
    with Tester(fire) as tester:
        fire.call.enqueue_many([(7, number) for number in range(4)])
        fire.call.enqueue(8, 0)

        first = tester.drain().succeeded
        second = tester.clock.advance(seconds=29).succeeded
        third = tester.clock.advance(seconds=61).succeeded

    assert (2, 0, 3) == (first, second, third)
    assert [number for tenant, number in fire.ran if tenant == 7] == [0, 1, 2, 3]


def test_tenants_take_turns(fire):
    """If ten jobs of one tenant follow a hundred of another, they are among the first 21 that run."""
    with Tester(fire) as tester:
        task = fire.call.using(limits=[Turns("tenant:{tenant}")])
        task.enqueue_many([(1, number) for number in range(100)])
        task.enqueue_many([(2, number) for number in range(10)])

        tester.drain(limit=21)

    assert 10 == sum(tenant == 2 for tenant, _ in fire.ran)


def test_duplicate_is_not_enqueued(fire):
    """A duplicate is not stored, reported to plugins, or counted by assertions."""
    with Tester(fire) as tester:
        first, second = fire.rebuild.enqueue(), fire.rebuild.enqueue()

        tester.assert_enqueued(fire.rebuild, count=1)
        assert (True, False, first.id) == (first.is_new, second.is_new, second.id)
        with pytest.raises(DuplicateJob):
            fire.rebuild.using(unique=Unique("index", conflict="raise")).enqueue()
        tester.drain()
        assert fire.rebuild.enqueue().is_new
        tester.assert_enqueued(fire.rebuild, count=2)


def test_plugins_are_notified_only_of_created_jobs():
    """Duplicates are not reported, neither alone nor in bulk."""
    created = []

    class Watching:
        @hookimpl
        def jobs_created(self, jobs):
            created.extend(job.id for job in jobs)

    with Firelock("memory://", plugins=[Watching]) as fire:
        task = fire.task(name="task", unique=Unique("day"))(lambda: None)
        with Tester(fire):
            first = task.enqueue()
            task.enqueue()
            task.enqueue_many([(), ()])

    assert [first.id] == created


def test_debounced_job_runs_once_after_the_last_call(fire):
    """Each call postpones the job. It runs with the last arguments when the clock reaches its due time."""
    with Tester(fire) as tester:
        fire.save.enqueue(1, "a")
        tester.clock.advance(seconds=4)
        fire.save.enqueue(1, "b")
        early = tester.clock.advance(seconds=4.999999).succeeded
        late = tester.clock.advance(seconds=0.000001).succeeded

        tester.assert_enqueued(fire.save, args=(1, "b"), count=1)

    assert (0, 1, [(1, "b")]) == (early, late, fire.ran)


def test_debounced_jobs_run_although_calls_continue(fire):
    """Debounced jobs run after ten times their wait, however often they are called."""
    with Tester(fire) as tester:
        for number in range(20):
            fire.save.enqueue(1, str(number))
            tester.clock.advance(seconds=4)

    assert 1 <= len(fire.ran) <= 2


def test_inline_does_not_run_duplicates(fire):
    """A duplicate does not run, and its handle refers to the job that has the key."""
    with Tester(fire) as tester:
        waiting = fire.rebuild.enqueue()
        with tester.inline():
            again = fire.rebuild.enqueue()
            fire.call.enqueue(7)
            refused = fire.call.enqueue(7)

        assert (False, waiting.id, State.ENQUEUED) == (again.is_new, again.id, again.refresh().state)
        assert State.ENQUEUED is refused.refresh().state
        assert refused.waits_for is not None
    assert [(7, 0)] == fire.ran


def test_job_past_its_start_deadline_is_deleted(fire):
    """The deadline is checked by the clock of the test."""
    with Tester(fire) as tester:
        job = fire.call.using(limits=[], start_before=timedelta(minutes=1)).enqueue(7)
        tester.clock.jump(minutes=2)

        assert 1 == tester.drain().deleted
        assert State.DELETED is job.refresh().state
        assert job.reason.startswith("not started before 2030-01-01 00:01:00")


def test_assertion_message_shows_limit_keys_and_unique_key(fire):
    """The message contains the limit keys and the unique key, so that a wrong key is visible."""
    with Tester(fire) as tester:
        fire.call.enqueue(7)
        fire.rebuild.enqueue()

        with pytest.raises(AssertionError) as failed:
            tester.assert_enqueued(fire.save)

    assert "limits=['api:7']" in str(failed.value)
    assert "unique_key='index'" in str(failed.value)
