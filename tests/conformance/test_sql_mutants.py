"""The kit detects faults in the SQL verbs that appear while rows are locked."""

from __future__ import annotations

import pytest

from tests.conformance.mutants import Mutation
from tests.conformance.sql_mutants import sql_catcher, sql_mutations
from tests.conformance.test_mutants import named
from tests.sql.transactions import lock_jobs

pytestmark = pytest.mark.heavy("each of many faults runs tests of the kit on a server")


@pytest.fixture
def lock_job(postgresql):
    with lock_jobs(postgresql.engine_url()) as lock:
        yield lock


@pytest.mark.parametrize("mutation", [one for one in sql_mutations() if not one.legal], ids=named)
def test_every_mutant_of_the_verbs_is_caught(mutation, postgresql, lock_job):
    """If a verb has a fault, a test about the verb fails, in the kit or in the tests that use the tables."""
    assert sql_catcher(mutation, postgresql, lock_job) is not None, (
        f"no test of {mutation.detected_by} notices: {mutation.name}"
    )


@pytest.mark.parametrize("mutation", [one for one in sql_mutations() if one.legal], ids=named)
def test_permitted_change_of_a_verb_fails_no_test(mutation, postgresql, lock_job):
    """A change that is allowed for the stated reason does not fail any test."""
    assert sql_catcher(mutation, postgresql, lock_job) is None, f"it is no fault: {mutation.legal}"


@pytest.mark.parametrize("part", sorted({mutation.detected_by for mutation in sql_mutations()}))
def test_unchanged_verbs_fail_no_test(part, postgresql, lock_job):
    """The runner that detects faults finds none in the unchanged verbs."""
    unbroken = Mutation("nothing", part, "sessions", "from __future__", "from __future__")

    assert sql_catcher(unbroken, postgresql, lock_job) is None
