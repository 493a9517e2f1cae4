"""Assertions about enqueued jobs, and the messages when they fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from firelock import ArgumentError, Firelock, SignatureMismatch, UnknownTask
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.testing import Tester


@pytest.fixture
def fire():
    return Firelock("memory://")


@pytest.fixture
def tester(fire):
    with Tester(fire, start=datetime(2030, 1, 1, tzinfo=UTC)) as tester:
        yield tester


@pytest.fixture
def pay(fire):
    def pay(user_id: int, amount: int = 5, *, note: str = "") -> None: ...

    return fire.task(name="pay")(pay)


@pytest.fixture
def greet(fire):
    def greet(name: str) -> None: ...

    return fire.task(name="greet")(greet)


def failure(assertion, *args, **kwargs):
    """Return the message of a failing assertion."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **kwargs)
    return str(caught.value)


def test_enqueued_job_is_found(tester, pay, greet):
    """A job is found by the task, by its name, and by its arguments in any form of the call."""
    job = pay.enqueue(1, note="a")
    greet.enqueue("b")

    found = [
        tester.assert_enqueued(pay),
        tester.assert_enqueued("pay"),
        tester.assert_enqueued(pay, args=(1,), kwargs={"note": "a"}),
        tester.assert_enqueued(pay, args=(1, 5), kwargs={"note": "a"}),
        tester.assert_enqueued(pay, kwargs={"user_id": 1, "amount": 5, "note": "a"}),
    ]

    assert [[job]] * 5 == [[one.job for one in each] for each in found]


def test_different_job_is_not_found(tester, pay, greet):
    """Another task, other arguments, and fewer arguments than the call had do not match."""
    pay.enqueue(1, note="a")

    tester.refute_enqueued(greet)
    tester.refute_enqueued(pay, args=(1,))
    tester.refute_enqueued(pay, args=(2,), kwargs={"note": "a"})
    tester.refute_enqueued(pay, args=(1, 6), kwargs={"note": "a"})


def test_options_are_compared(tester, pay):
    """A job counts only if it has all requested options."""
    pay.using(
        queue="critical", priority=7, tags=["a", "b", "c"], delay=3600, meta={"tenant": "acme", "x": "1"}
    ).enqueue(1)
    options = {
        "queue": "critical", "priority": 7, "tags": ["a", "b"], "due_at": timedelta(hours=1),
        "meta": {"tenant": "acme"},
    }  # fmt: skip
    others = {
        "queue": "default", "priority": 0, "tags": ["a", "d"], "due_at": timedelta(hours=2),
        "meta": {"tenant": "other"},
    }  # fmt: skip

    assert 1 == len(tester.assert_enqueued(pay, **options))
    assert 1 == len(tester.assert_enqueued(pay, due_at=datetime(2030, 1, 1, 1, tzinfo=UTC)))
    for name, other in others.items():
        tester.refute_enqueued(pay, **{**options, name: other})


def test_count_must_match_exactly(tester, pay):
    """The assertion fails if there are more or fewer jobs than the count.

    Without a count, it requires at least one job.
    """
    pay.enqueue_many([(1,), (1,), (2,)])

    found = tester.assert_enqueued(pay, args=(1,), count=2)

    assert 2 == len(found)
    assert 3 == len(tester.assert_enqueued(pay))
    assert failure(tester.assert_enqueued, pay, count=2).startswith("Expected 2 jobs, found 3:")
    assert failure(tester.assert_enqueued, pay, args=(2,), count=2).startswith("Expected 2 jobs, found 1:")
    assert [] == tester.assert_enqueued(pay, args=(3,), count=0)


def test_failure_message_lists_the_enqueued_jobs(tester, pay, greet):
    """The expected and the found jobs are shown in the same format."""
    none = failure(tester.assert_enqueued, pay)
    pay.using(queue="bulk", priority=-3, tags=["eu"], meta={"tenant": "acme"}).schedule(60, 1, note="a")
    greet.enqueue("b")

    message = failure(
        tester.assert_enqueued,
        pay,
        args=(2,),
        queue="critical",
        due_at=timedelta(0),
        priority=1,
        tags=["us"],
        meta={"a": "b"},
    )

    assert "Expected at least 1 job, found 0:\n  pay(…)\nNothing was enqueued." == none
    assert message == (
        "Expected at least 1 job, found 0:\n"
        "  pay(2)  queue=critical  due_at=2030-01-01T00:00:00+00:00  priority=1  tags=['us']"
        "  meta={'a': 'b'}\n"
        "Enqueued jobs:\n"
        "  pay(1, note='a')  queue=bulk  state=scheduled  due_at=2030-01-01T00:01:00+00:00  priority=-3"
        "  tags=['eu']  meta={'tenant': 'acme'}\n"
        "  greet('b')  queue=default  state=enqueued"
    )


def test_long_list_is_truncated(tester, pay):
    """Only the first twenty jobs are listed."""
    pay.enqueue_many([(number,) for number in range(23)])

    message = failure(tester.assert_enqueued, pay, args=(99,))

    assert message.endswith("  pay(19)  queue=default  state=enqueued\n  … and 3 more")


def test_assertion_can_expect_no_jobs(tester, pay, greet):
    """The message shows only the jobs that were found."""
    tester.refute_enqueued()
    greet.enqueue("b")
    pay.enqueue(1)

    assert failure(tester.refute_enqueued).startswith("Expected no job, found 2:\n  any job\n")
    assert failure(tester.refute_enqueued, pay) == (
        "Expected no job, found 1:\n  pay(…)\nEnqueued jobs:\n  pay(1)  queue=default  state=enqueued"
    )


def test_jobs_that_have_run_count_as_enqueued(tester, pay):
    with tester.inline():
        pay.enqueue(1)

    (found,) = tester.assert_enqueued(pay, args=(1,))

    assert State.SUCCEEDED == found.job.state


def test_jobs_of_all_pages_are_listed(tester, pay):
    pay.enqueue_many([(number,) for number in range(501)])

    assert list(range(501)) == [one.args[0] for one in tester.enqueued(pay)]


def test_undecodable_arguments_are_shown_unchanged(tester, pay, greet):
    """Jobs are listed in the order of their creation, with decoded arguments if possible."""
    tester.storage.insert([
        NewJob("damaged", "pay", "{", "json", "default", 0, State.ENQUEUED, 0),
        NewJob("unknown", "gone", "[1]", "json", "default", 0, State.ENQUEUED, 1),
    ])  # fmt: skip
    greet.enqueue("b")

    assert [("pay", ("{",)), ("gone", ("[1]",)), ("greet", ("b",))] == [
        (one.task, one.args) for one in tester.enqueued()
    ]


def test_expectation_that_matches_no_call_is_an_error(tester, pay):
    """A mistake in the test is not reported as a missing job."""
    with pytest.raises(SignatureMismatch):
        tester.assert_enqueued(pay, args=(1, 2, 3))
    with pytest.raises(ArgumentError):
        tester.assert_enqueued(pay, args=("one",))
    with pytest.raises(UnknownTask, match=r"Task 'bay' is not registered in this app\. Registered: pay"):
        tester.refute_enqueued("bay")
