"""`eventually`: waiting for a condition with a deadline."""

from __future__ import annotations

import pytest

from firelock.testing import eventually


def test_value_of_the_condition_is_returned():
    """`eventually` returns as soon as the value is true."""
    answers = iter([None, 0, "", [], "there", "too late"])

    assert "there" == eventually(lambda: next(answers))


def test_condition_is_checked_again_after_a_failed_assertion():
    """A condition may contain assertions, and is checked again after a failure."""
    tries = []

    def condition():
        tries.append(1)
        assert len(tries) == 3
        return True

    assert eventually(condition)


def test_timeout_message_contains_the_returned_value():
    """The value makes the failure easier to understand."""
    with pytest.raises(
        AssertionError, match=r"The condition was not met within 0 s; it last returned \[\]\."
    ):
        eventually(list, within=0)


def test_timeout_message_contains_the_failed_assertion():
    """The condition's own assertion is the cause."""

    def condition():
        raise AssertionError("three of four")

    with pytest.raises(AssertionError, match="it last raised three of four") as caught:
        eventually(condition, within=0)

    assert "three of four" == str(caught.value.__cause__)


def test_other_errors_are_raised():
    """Only a failed assertion means that the condition is not yet true."""

    def condition():
        raise LookupError

    with pytest.raises(LookupError):
        eventually(condition)
