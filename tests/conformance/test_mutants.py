"""The kit sees: whatever is broken in a storage turns a test of the duty red that promises it."""

from __future__ import annotations

import pytest

from tests.conformance.mutants import Mutation, cases, catcher, mutations


@pytest.mark.parametrize(
    "mutation", mutations(), ids=lambda one: f"{one.module}: {one.name}".replace(" ", "-")
)
def test_every_mutant_is_caught(mutation: Mutation) -> None:
    """A storage with one fault fails a test of the part of the kit that is about it."""
    assert catcher(mutation, mutation.duty) is not None, (
        f"no test of {mutation.duty}Duty notices: {mutation.name}"
    )


def test_the_unbroken_model_is_not_caught() -> None:
    """The same runner finds nothing wrong with the model as it is."""
    unbroken = Mutation("nothing", "", "storage", "_DAY = ", "_DAY = ")

    assert catcher(unbroken) is None
    assert len(list(cases())) > 300
