"""The model test: whatever random steps are done, the storage answers and holds what `MemoryStorage` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from firelock.storage import Storage
from firelock.testing.conformance.scene import Handles
from firelock.testing.conformance.storage.subject import StorageFixtures


class ModelDuty(StorageFixtures):
    """What the whole contract promises at once."""

    model_runs: ClassVar[int] = 100
    """How many short runs the model test takes, and how many of thirty steps; a far storage takes fewer."""

    def test_random_steps_agree_with_the_model(
        self, handles: Handles, open_handle: Callable[[], Storage]
    ) -> None:
        """`model_runs` short runs, and as many of thirty steps, end as in the model and keep its invariants.

        If this fails: Hypothesis prints a run that differs; read its last step against the contract.
        """
        pytest.importorskip("hypothesis", reason="the model test needs hypothesis: install firelock[testing]")
        from firelock.testing.conformance.model import machine_for, run_machine

        handles.first.clear()
        run_machine(machine_for(open_handle), runs=self.model_runs)
