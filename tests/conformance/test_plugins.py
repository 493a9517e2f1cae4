"""The kit on the core's own locks, serializer and retry policies."""

from __future__ import annotations

import runpy
from datetime import timedelta

import pytest

from firelock.arguments.serializer import JsonSerializer
from firelock.retry import Retry
from firelock.testing import LockConformance, RetryConformance, SerializerConformance
from tests.repository.docs.pages import ROOT, python_blocks


class TestLocksInMemory(LockConformance):
    @pytest.fixture
    def lock_url(self):
        return "memory://locks"


class TestJson(SerializerConformance):
    @pytest.fixture
    def serializer(self):
        return JsonSerializer(use_orjson=False)


class TestFastJson(SerializerConformance):
    @pytest.fixture
    def serializer(self):
        pytest.importorskip("orjson")
        return JsonSerializer(use_orjson=True)


class TestTheExampleOfTheDocuments(SerializerConformance):
    """The serializer in `docs/plugins.md`, which people copy."""

    @pytest.fixture
    def serializer(self):
        page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
        (block,) = [one for one in python_blocks(page) if "(Serializer):" in one.code]
        shown = {}
        exec(block.code.partition("\n\n\nclass SqueezedArguments")[0], shown)
        return shown["Squeezed"]()


class TestTheLocksOfTheDocuments(LockConformance):
    """The smallest lock provider in `docs/plugins.md`.

    All handles are the same one, because its locks are in-process.
    """

    @pytest.fixture
    def open_provider(self):
        page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
        (block,) = [one for one in python_blocks(page) if "class LocksHere" in one.code]
        shown = {}
        exec(block.code.partition("\n\n\nclass LocksElsewhere")[0], shown)
        locks = shown["LocksHere"]("elsewhere://")
        return lambda: locks


class TestTheEncryptedExample(SerializerConformance):
    """The encrypting serializer, which produces a different string each time."""

    @pytest.fixture
    def serializer(self):
        shown = runpy.run_path(str(ROOT / "examples" / "encrypted_arguments.py"))
        return shown["EncryptedSerializer"]([shown["Fernet"].generate_key().decode()])


class TestRetry(RetryConformance):
    @pytest.fixture(
        params=[Retry(), Retry(attempts=0, on_exceeded="delete"), Retry(only_on=[ValueError], jitter=1)]
    )
    def policy(self, request):
        return request.param


def test_kit_detects_a_policy_with_state():
    """A retry policy whose decisions depend on the number of calls fails the tests of the kit."""

    class Forgetful:
        def __init__(self):
            self.calls = 0

        def decide(self, job, error, /):
            from firelock.retry import RetryDecision

            self.calls += 1
            return RetryDecision.fail() if self.calls > 3 else RetryDecision.retry(timedelta(seconds=1))

    with pytest.raises(AssertionError):
        RetryConformance().test_repeated_decisions_are_of_the_same_kind(Forgetful(), 0)
