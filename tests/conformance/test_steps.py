"""Many more of the random steps in which the kit tests limits and unique keys."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing.conformance.steps.limit_steps import LimitSteps
from firelock.testing.conformance.steps.unique_steps import UniqueSteps

pytestmark = pytest.mark.heavy("thousands of steps")


@pytest.mark.parametrize("where", ["memory", "sqlite"])
@pytest.mark.parametrize("kind", [LimitSteps, UniqueSteps])
@pytest.mark.parametrize("first", range(100, 400, 100))
def test_every_claim_and_call_in_random_steps_is_correct(kind, where, first, tmp_path):
    """A hundred runs of sixty steps are checked, in addition to the kit's own runs."""
    url = "memory://steps" if where == "memory" else f"sqlite:///{tmp_path}/steps.db"
    for seed in range(first, first + 100):
        run = kind(lambda: open_storage(url), seed)
        try:
            run.run(60)
        finally:
            run.close()
