"""The model test: whatever random steps are done, the storage answers and holds what `MemoryStorage` does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

import pytest

from firelock.storage import Feature, Storage
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import Handles
from firelock.testing.conformance.steps.batch_steps import BatchSteps
from firelock.testing.conformance.steps.limit_steps import LimitSteps
from firelock.testing.conformance.steps.memo_steps import MemoSteps
from firelock.testing.conformance.steps.seeded import SeededSteps
from firelock.testing.conformance.steps.unique_steps import UniqueSteps
from firelock.testing.conformance.storage.subject import StorageFixtures


class ModelDuty(StorageFixtures):
    """What the whole contract promises at once."""

    model_runs: ClassVar[int] = 100
    """How many short runs the model test takes, and how many of thirty steps; a far storage takes fewer."""

    model_handles: ClassVar[int] = 2
    """How many handles take the random steps of keys. One where a handle learns by and by what another has
    stored, as with partitions: whether a claim finds that would depend on the moment."""

    def test_random_steps_agree_with_the_model(
        self, handles: Handles, open_handle: Callable[[], Storage], request: pytest.FixtureRequest
    ) -> None:
        """`model_runs` short runs, and as many of thirty steps, end as in the model and keep its invariants.

        If this fails: Hypothesis prints a run that differs; read its last step against the contract.
        """
        pytest.importorskip("hypothesis", reason="the model test needs hypothesis: install firelock[testing]")
        from firelock.testing.conformance.model import machine_for, run_machine

        handles.first.clear()
        lock_job = None
        with suppress(pytest.skip.Exception):  # a storage that does not offer it
            lock_job = request.getfixturevalue("lock_job")
        run_machine(machine_for(open_handle, lock_job), runs=self.model_runs)

    @requires(Feature.LIMITS)
    def test_random_claims_are_just(self, open_handle: Callable[[], Storage]) -> None:
        """Whatever jobs with limits come, run and end, each claim is as the rule says, and nothing leaks.

        If this fails: the message has the steps; read the last one against `steps.judge`.
        """
        self._random_steps(LimitSteps, open_handle, 60)

    @requires(Feature.UNIQUE)
    def test_random_calls_are_answered_rightly(self, open_handle: Callable[[], Storage]) -> None:
        """Whatever becomes of jobs with unique keys, each call is stored, answered or refused as they say.

        If this fails: the message has the steps; read the last one against `steps.unique_steps`.
        """
        self._random_steps(UniqueSteps, open_handle, 80)

    def test_random_batches_end_rightly(self, open_handle: Callable[[], Storage]) -> None:
        """Whatever becomes of batches within batches, they are counted rightly, and end when they should.

        If this fails: the message has the steps; read the last one against `steps.batch_steps`.
        """
        self._random_steps(BatchSteps, open_handle, 80)

    def test_random_waits_are_answered(self, open_handle: Callable[[], Storage]) -> None:
        """Whatever becomes of jobs that wait and remember, runs agree, and no accepted signal is lost.

        If this fails: the message has the steps; read the last one against `steps.memo_steps`.
        """
        self._random_steps(MemoSteps, open_handle, 120)

    def _random_steps(self, kind: type[SeededSteps], open_handle: Callable[[], Storage], steps: int) -> None:
        for seed in range(max(4, self.model_runs // 10)):
            run = kind(open_handle, seed, self.model_handles)
            try:
                run.run(steps)
            finally:
                run.close()
