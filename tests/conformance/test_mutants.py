"""The kit detects faults: any fault in a storage fails a test of the part of the kit that covers it."""

from __future__ import annotations

import pytest

from tests.conformance.mutants import Mutation, cases, catcher, mutations

pytestmark = pytest.mark.heavy("each of hundreds of faults runs tests of the kit")

FAULTS = [mutation for mutation in mutations() if not mutation.legal]


def named(mutation):
    """Return the mutation's module and name, for the selection of a test."""
    return f"{mutation.module}: {mutation.name}".replace(" ", "-")


@pytest.mark.parametrize("mutation", FAULTS, ids=named)
def test_every_mutant_is_caught(mutation):
    """If a storage has a fault, a test in the part of the kit that covers the fault fails."""
    assert catcher(mutation, mutation.detected_by) is not None, (
        f"no test of {mutation.detected_by}Tests notices: {mutation.name}"
    )


@pytest.mark.parametrize("mutation", [mutation for mutation in mutations() if mutation.legal], ids=named)
def test_permitted_change_fails_no_test(mutation):
    """A change that the contract allows does not fail any test in the part of the kit that covers it."""
    assert catcher(mutation, mutation.detected_by, rounds=1) is None, f"it is no fault: {mutation.legal}"


@pytest.mark.parametrize("module", ["memory", "row_storage", "firelock_files.storage"])
def test_unchanged_storages_fail_no_test(module):
    """The runner that detects faults finds none in the unchanged storages."""
    unbroken = Mutation("nothing", "", module, "from __future__", "from __future__")

    assert catcher(unbroken, rounds=1) is None
    assert len(list(cases())) > 300
    assert (
        len([mutation for mutation in FAULTS if mutation.module in {"row_storage", "firelock_files.storage"}])
        > 40
    )
