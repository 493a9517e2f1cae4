"""Tests of retry policies: a policy decides about every error, and a decision has no side effects."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from functools import partial

import attrs
import pytest

from firelock.model.job import ClaimedJob
from firelock.retry import DecisionKind, RetryDecision, RetryPolicy
from firelock.testing.conformance.kit import REPORTED, Conformance
from firelock.testing.conformance.race import race
from firelock.testing.conformance.scene import BASE

_LONGEST = timedelta(days=365)


class _Mute(Exception):
    """An error that cannot be converted to a string."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class _Rootless(BaseException):
    """An error that is not an `Exception`."""


def _chained() -> BaseException:
    """Return an error whose chain of causes leads back to itself."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    return first


def _from_nowhere() -> BaseException:
    """Return an error of a class without a module."""
    kind = type("Odd <locals>.É", (Exception,), {"__module__": None})
    error: BaseException = kind()
    return error


_ERRORS: dict[str, BaseException] = {
    "plain": ValueError("boom"),
    "no message": ValueError(),
    "many arguments": ValueError(1, None, b"\xff", "\ud800"),
    "huge message": ValueError("x" * 1_000_000),
    "special message": ValueError("%s {0} \0 \x1b[31m\n東京"),
    "mute": _Mute(),
    "group": ExceptionGroup("several", [ValueError("a"), ExceptionGroup("more", [KeyError("b")])]),
    "chained": _chained(),
    "from nowhere": _from_nowhere(),
    "not an Exception": _Rootless(),
    "interrupt": KeyboardInterrupt(),
    "exit": SystemExit(3),
    "memory": MemoryError(),
    "recursion": RecursionError("too deep"),
    "timeout": TimeoutError(),
}

_RETRIES = (0, 1, 2, 9, 10, 11, 100, 1_000, 1_000_000)


def _job(retries: int = 0) -> ClaimedJob:
    return ClaimedJob(
        "018f0000-0000-7000-8000-000000000001", "tasks.run", '{"day": "monday"}', "json", "default", 0,
        retries + 1, retries, 0, retries + 1, BASE, BASE, BASE, BASE, ("eu",), 12.5, None, None,
    )  # fmt: skip


class RetryConformance(Conformance):
    """Tests of a retry policy; define the fixture `policy`: a value that a task's `retry=` accepts."""

    @pytest.fixture
    def policy(self) -> RetryPolicy:
        """Return the policy."""
        raise NotImplementedError(f"{type(self).__name__} must define the fixture policy.")

    @pytest.fixture(autouse=True)
    def _is_reported(self, policy: RetryPolicy, request: pytest.FixtureRequest) -> None:
        request.node.user_properties.append((REPORTED, f"retry policy {type(policy).__name__}"))

    @pytest.mark.parametrize("error", _ERRORS.values(), ids=_ERRORS)
    def test_policy_decides_about_every_error(self, policy: RetryPolicy, error: BaseException) -> None:
        """For every error the policy returns a `RetryDecision` or None, and does not raise an error.

        If this fails: an unusual exception in a task fails the job although it has retries left.
        """
        decision = policy.decide(_job(), error)

        assert decision is None or isinstance(decision, RetryDecision)

    @pytest.mark.parametrize("retries", _RETRIES)
    def test_policy_decides_for_every_number_of_retries(self, policy: RetryPolicy, retries: int) -> None:
        """For every number of retries the policy returns a decision or None.

        If this fails: the policy reads past the end of its list of delays, or a delay grows without bound.
        """
        decision = policy.decide(_job(retries), ValueError("boom"))

        assert decision is None or isinstance(decision, RetryDecision)

    @pytest.mark.parametrize("retries", _RETRIES)
    def test_delay_is_from_zero_to_a_year(self, policy: RetryPolicy, retries: int) -> None:
        """A delay is a timedelta from zero to 365 days, and only decisions to run the job again have one.

        If this fails: a job is scheduled in the past, or never runs.
        """
        decision = policy.decide(_job(retries), ValueError("boom"))

        if decision is not None and decision.kind in (DecisionKind.RETRY, DecisionKind.SNOOZE):
            assert decision.after is not None or decision.kind is DecisionKind.RETRY
            assert timedelta(0) <= (decision.after or timedelta(0)) <= _LONGEST
        elif decision is not None:
            assert decision.after is None

    def test_reason_is_a_short_storable_string(self, policy: RetryPolicy) -> None:
        """A reason is None or a string of 1 to 1,000 characters that every storage accepts.

        If this fails: the message of an error fills the history, or the storage refuses it.
        """
        for error in _ERRORS.values():
            decision = policy.decide(_job(), error)
            reason = decision.reason if decision else None
            assert reason is None or (0 < len(reason) <= 1_000 and "\0" not in reason)
            assert reason is None or reason == reason.encode(errors="replace").decode()

    @pytest.mark.parametrize("retries", [0, 5, 50])
    def test_repeated_decisions_are_of_the_same_kind(self, policy: RetryPolicy, retries: int) -> None:
        """Repeated decisions about the same job and error are of the same kind; only the jitter may differ.

        If this fails: the policy keeps state, so another server or a repetition decides differently.
        """
        error = ValueError("boom")
        kinds = set()

        for _ in range(20):
            for other in (KeyError("x"), error):
                decision = policy.decide(_job(retries), other)
                if other is error:
                    kinds.add(decision.kind if decision else None)

        assert 1 == len(kinds)

    def test_decision_does_not_change_job_or_error(self, policy: RetryPolicy) -> None:
        """A decision changes neither the job nor the error.

        If this fails: a policy changes what is stored about the attempt.
        """
        job, error = _job(3), ValueError("boom", [1, 2])
        before = (
            attrs.astuple(job),
            deepcopy(error.args),
            dict(vars(error)),
            error.__cause__,
            error.__traceback__,
        )

        policy.decide(job, error)

        assert before == (
            attrs.astuple(job), error.args, vars(error), error.__cause__, error.__traceback__,
        )  # fmt: skip

    def test_concurrent_decisions_are_independent(self, policy: RetryPolicy) -> None:
        """Eight threads that call the policy at the same time get the decisions that each would get alone.

        If this fails: the failure of one job affects the decision about another.
        """

        def kinds(retries: int) -> set[DecisionKind | None]:
            decisions = [policy.decide(_job(retries), ValueError("boom")) for _ in range(100)]
            return {decision.kind if decision else None for decision in decisions}

        alone = [kinds(number) for number in range(8)]

        assert alone == race([partial(kinds, number) for number in range(8)])
