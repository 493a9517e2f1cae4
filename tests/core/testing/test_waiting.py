"""`eventually`: waiting for a condition, with a deadline."""

from __future__ import annotations

import pytest

from firelock.testing import eventually


def test_what_the_condition_returned_is_returned():
    """As soon as it is true."""
    answers = iter([None, 0, "", [], "there", "too late"])

    assert "there" == eventually(lambda: next(answers))


def test_a_failed_assertion_is_not_yet():
    """A condition may assert; it is asked again."""
    tries = []

    def condition():
        tries.append(1)
        assert len(tries) == 3
        return True

    assert eventually(condition)


def test_the_deadline_says_what_the_condition_returned():
    """So that the failure can be understood."""
    with pytest.raises(AssertionError, match=r"Not within 0 s: the condition still returned \[\]\."):
        eventually(list, within=0)


def test_the_deadline_says_what_the_condition_raised():
    """Its own assertion is the cause."""

    def condition():
        raise AssertionError("three of four")

    with pytest.raises(AssertionError, match="still raised three of four") as caught:
        eventually(condition, within=0)

    assert "three of four" == str(caught.value.__cause__)


def test_another_error_passes():
    """Only assertions mean: not yet."""

    def condition():
        raise LookupError

    with pytest.raises(LookupError):
        eventually(condition)
