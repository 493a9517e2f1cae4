"""The tests that run together if several test workers share a run."""

from __future__ import annotations

import pytest

from tests.sharing import together


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "tests/end_to_end/browser/test_pages.py::test_a",
            "tests/end_to_end/browser/test_live.py::test_b[redis-6.2]",
        ),
        (
            "tests/repository/test_words.py::test_a",
            "tests/repository/docs/test_hooks_documented.py::test_b[x]",
        ),
        ("tests/core/model/test_ids.py::test_a", "tests/core/model/test_ids.py::test_b[x::y]"),
        (
            "tests/redis/verbs/test_find.py::test_a[redis-6.2]",
            "tests/redis/verbs/test_find.py::test_b[3-redis-6.2-4]",
        ),
        (
            "tests/conformance/test_redis.py::TestRedis::test_a",
            "tests/conformance/test_redis.py::TestRedis::test_b",
        ),
    ],
)
def test_tests_that_share_something_run_in_one_worker(one, other):
    """These tests share the browser, syntax trees, the fixtures of a module, or a server."""
    assert together(one) == together(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tests/core/model/test_ids.py::test_a", "tests/core/schedules/cron/test_schedule.py::test_a"),
        (
            "tests/redis/verbs/test_find.py::test_a[redis-6.2]",
            "tests/redis/verbs/test_find.py::test_a[valkey-8.1]",
        ),
        (
            "tests/conformance/test_redis.py::TestRedis::test_a",
            "tests/conformance/test_redis.py::TestCluster::test_a",
        ),
        ("tests/faults/test_faults.py::test_a[F01-x]", "tests/faults/test_faults.py::test_a[F02-y]"),
    ],
)
def test_independent_tests_are_distributed_to_workers(one, other):
    """Each module, class, program and long test can run in any free test worker."""
    assert together(one) != together(other)
