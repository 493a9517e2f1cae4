"""Breaches of the contract that are easy to make, and the test of the kit that fails first for each.

A failed test is only as useful as its name. Here every test that the kit runs earlier passes on the broken
storage, so an author who runs `pytest -x` sees the name of the broken rule.
"""

from __future__ import annotations

import pytest

from tests.conformance.mutants import catcher, mutations

pytestmark = pytest.mark.heavy("each breach runs the kit up to the test that sees it")

FILES = "firelock_files.storage"
BREACHES = [
    (FILES, "values are normalized", "test_keys_and_values_of_rows_are_kept_exactly"),
    (
        FILES,
        "a delete also removes rows with the same long prefix",
        "test_row_with_a_long_key_is_deleted_alone",
    ),
    (FILES, "a row with an empty value does not exist", "test_row_with_an_empty_value_is_read_and_scanned"),
    (FILES, "a scan includes the row of its prefix", "test_scan_excludes_the_row_of_its_prefix"),
    (FILES, "a scan ends after a hundred rows", "test_scan_returns_as_many_rows_as_its_limit_allows"),
    (FILES, "the clock has a resolution of seconds", "test_clock_is_finer_than_a_second"),
    (
        FILES,
        "a driver error within a transaction leaks",
        "test_failing_driver_of_a_used_handle_raises_storage_error",
    ),
    (FILES, "waits continue after the handle was closed", "test_closing_ends_every_wait"),
    ("row_storage", "memos are kept after their job was pruned", "test_pruned_job_leaves_no_row"),
    (
        "short_keys",
        "a delete also removes keys with the same long prefix",
        "test_record_with_a_long_key_is_deleted_alone",
    ),
    ("memory", "waits continue after the handle was closed", "test_closing_ends_every_wait"),
    (
        "memory",
        "work that arrives before a wait does not end it",
        "test_work_between_claim_and_wait_ends_the_wait",
    ),
    ("rules", "arguments are normalized", "test_unusual_strings_of_a_job_are_returned_exactly"),
    (
        "derived",
        "the line numbers of a log start again",
        "test_line_numbers_keep_growing_after_old_lines_are_deleted",
    ),
]


@pytest.mark.parametrize(
    ("module", "name", "test"), BREACHES, ids=[f"{one}: {name}" for one, name, _ in BREACHES]
)
def test_broken_rule_is_the_first_to_fail(module, name, test):
    """In a run of the whole kit, the first test that fails is the test of the broken rule."""
    (mutation,) = (one for one in mutations() if (one.module, one.name) == (module, name))

    caught = catcher(mutation, rounds=1)

    assert (test, True) == (caught.name, caught.part == mutation.detected_by)
