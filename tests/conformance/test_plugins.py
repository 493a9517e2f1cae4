"""The kit on the core's own locks, serializer and retry policies."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock.retry import Retry, RetryPolicy
from firelock.serializer import JsonSerializer, Serializer
from firelock.testing import LockConformance, RetryConformance, SerializerConformance


class TestLocksInMemory(LockConformance):
    @pytest.fixture
    def lock_url(self) -> str:
        return "memory://locks"


class TestJson(SerializerConformance):
    @pytest.fixture
    def serializer(self) -> Serializer:
        return JsonSerializer(use_orjson=False)


class TestFastJson(SerializerConformance):
    @pytest.fixture
    def serializer(self) -> Serializer:
        pytest.importorskip("orjson")
        return JsonSerializer(use_orjson=True)


class TestRetry(RetryConformance):
    @pytest.fixture(
        params=[Retry(), Retry(attempts=0, on_exceeded="delete"), Retry(only_on=[ValueError], jitter=1)]
    )
    def policy(self, request: pytest.FixtureRequest) -> RetryPolicy:
        policy: Retry = request.param
        return policy


def test_the_kit_finds_a_policy_that_remembers() -> None:
    """A policy that decides by how often it was asked is found out."""

    class Forgetful:
        def __init__(self) -> None:
            self.asked = 0

        def decide(self, job: object, error: BaseException, /) -> object:
            from firelock.retry import RetryDecision

            self.asked += 1
            return RetryDecision.fail() if self.asked > 3 else RetryDecision.retry(timedelta(seconds=1))

    with pytest.raises(AssertionError):
        RetryConformance().test_the_same_question_has_the_same_answer(Forgetful(), 0)  # type: ignore[arg-type]
