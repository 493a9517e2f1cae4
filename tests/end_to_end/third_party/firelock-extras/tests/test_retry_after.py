"""The retry filter: the errors that it handles, and those that it leaves to other policies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from firelock_extras import RetryAfter

from firelock import Firelock, JobContext, Retry, RetryDecision
from firelock.testing import RetryConformance, Tester

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class TestRetryAfter(RetryConformance):
    """The filter as a task's own policy."""

    @pytest.fixture
    def policy(self):
        return RetryAfter()


class Limited(Exception):
    """An error that requests a wait."""

    def __init__(self, retry_after):
        super().__init__("too many requests")
        self.retry_after = retry_after


class Refused(Exception):
    """An error of an HTTP client."""

    def __init__(self, header):
        super().__init__("503")
        self.response = SimpleNamespace(headers={"Retry-After": header})


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Limited(30), 30),
        (Limited(0.5), 0.5),
        (Limited(timedelta(minutes=2)), 120),
        (Limited(-5), 0),
        (Limited(10**12), 86_400),
        (Refused("120"), 120),
        (Refused("9" * 5_000), 86_400),
        (Refused("Fri, 01 May 2026 12:10:00 GMT"), 600),
        (Refused("Fri, 01 May 2026 11:00:00 GMT"), 0),
    ],
)
def test_delay_is_the_requested_one(error, wait):
    """The delay is a number of seconds, a timedelta, or either form of the header.

    It is limited to the range from 0 to a day.
    """
    decision = RetryAfter(lambda: NOW).decide(JobContext.fake(), error)

    reason = f"the service requested a wait of {wait:g} s"
    assert RetryDecision.retry(wait, reason=reason) == decision


@pytest.mark.parametrize(
    "error",
    [ValueError("boom"), Limited(None), Limited(float("nan")), Refused("soon"), Refused("-1"), Refused("")],
)
def test_other_errors_are_ignored(error):
    """If an error does not request a delay, the task's own policy applies."""
    assert RetryAfter(lambda: NOW).decide(JobContext.fake(), error) is None


def test_policy_returns_none_after_twenty_retries():
    """The task's own policy then decides. Otherwise, the service would be called forever."""
    decisions = [RetryAfter().decide(JobContext.fake(retries=number), Limited(1)) for number in (19, 20)]

    assert [True, False] == [decision is not None for decision in decisions]


@pytest.mark.parametrize("of_call", [None, Retry.never()], ids=["task", "call"])
def test_hook_adds_no_retries(of_call):
    """If the task or the caller allows no retry, the job fails, even if its error requests one."""
    fire = Firelock("memory://")

    @fire.task(name="fetch", retry=Retry() if of_call else Retry.never())
    def fetch() -> None:
        raise Limited(90)

    with Tester(fire) as tester:
        job = (fetch.using(retry=of_call) if of_call else fetch).enqueue()
        tester.drain()
        ended = job.record()

    assert ("failed", 0) == (ended.state, ended.retries)
    fire.close()


def test_hook_sets_the_time_of_a_retry():
    """With the plugin, a job is retried at the time that its error requests, not at that of its policy."""
    fire, runs = Firelock("memory://"), []

    @fire.task(name="fetch", retry=Retry.fixed(3_600))
    def fetch() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise Limited(90)

    with Tester(fire) as tester:
        fetch.enqueue()
        tester.drain()
        tester.clock.advance(seconds=89)
        too_early = len(runs)
        tester.clock.advance(seconds=1)

    assert (1, 2) == (too_early, len(runs))
    fire.close()
