"""Many more of the random operations with which the kit tests limits and unique keys."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing.conformance.operations.limit_operations import LimitOperations
from firelock.testing.conformance.operations.unique_operations import UniqueOperations

pytestmark = pytest.mark.heavy("thousands of operations")


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("kind", [LimitOperations, UniqueOperations])
@pytest.mark.parametrize("first", range(100, 400, 100))
def test_every_claim_and_call_in_random_operations_is_correct(kind, where, first, tmp_path):
    """Each case checks a hundred runs of sixty operations, in addition to the kit's own runs."""
    url = "memory://operations" if where == "memory" else f"sqlite:///{tmp_path}/operations.db"
    for seed in range(first, first + 100):
        run = kind(lambda: open_storage(url), seed)
        try:
            run.run(60)
        finally:
            run.close()
