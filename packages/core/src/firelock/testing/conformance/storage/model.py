"""The model test: after random operations, a storage has the same results and contents as `MemoryStorage`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

import pytest

from firelock.storage import Feature, Storage
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.operations.batch_operations import BatchOperations
from firelock.testing.conformance.operations.limit_operations import LimitOperations
from firelock.testing.conformance.operations.memo_operations import MemoOperations
from firelock.testing.conformance.operations.seeded import SeededOperations
from firelock.testing.conformance.operations.unique_operations import UniqueOperations
from firelock.testing.conformance.scene import Handles
from firelock.testing.conformance.storage.subject import StorageFixtures


class ModelTests(StorageFixtures):
    """Tests of the whole contract with random operations."""

    model_runs: ClassVar[int] = 100
    """The number of the model test's short runs, and of its runs of thirty operations.

    Set fewer if the storage is remote.
    """

    model_handles: ClassVar[int] = 2
    """The number of handles that take the random operations of keys.

    Use one if a handle learns only gradually what another has stored, as with partitions. Otherwise the
    result of a claim would depend on timing.
    """

    def test_random_operations_agree_with_the_model(
        self, handles: Handles, open_handle: Callable[[], Storage], request: pytest.FixtureRequest
    ) -> None:
        """In `model_runs` short runs and as many runs of thirty operations, the storage matches the model.

        The invariants of the model also hold.

        If this fails: Hypothesis prints a run that differs. Compare its last operation with the contract.
        """
        pytest.importorskip("hypothesis", reason="the model test needs hypothesis: install firelock[testing]")
        from firelock.testing.conformance.model import machine_for, run_machine

        handles.first.clear()
        lock_job = None
        with suppress(pytest.skip.Exception):  # not offered by this storage
            lock_job = request.getfixturevalue("lock_job")
        run_machine(machine_for(open_handle, lock_job), runs=self.model_runs)

    @requires(Feature.LIMITS)
    def test_random_claims_follow_the_limits(self, open_handle: Callable[[], Storage]) -> None:
        """Each claim of random jobs with limits observes the limits and turns, and no capacity is lost.

        If this fails: the message lists the operations. Compare the last one with `judge`.
        """
        self._random_operations(LimitOperations, open_handle, 60)

    @requires(Feature.UNIQUE)
    def test_random_calls_with_unique_keys_get_the_expected_results(
        self, open_handle: Callable[[], Storage]
    ) -> None:
        """A random call with a unique key is stored, a duplicate or refused, depending on the key's holder.

        If this fails: the message lists the operations. Compare the last one with `unique_operations`.
        """
        self._random_operations(UniqueOperations, open_handle, 80)

    def test_random_batches_have_correct_counts_and_ends(self, open_handle: Callable[[], Storage]) -> None:
        """After random operations on their members, nested batches have the correct counts and states.

        If this fails: the message lists the operations. Compare the last one with `batch_operations`.
        """
        self._random_operations(BatchOperations, open_handle, 80)

    def test_random_waits_see_the_expected_memos(self, open_handle: Callable[[], Storage]) -> None:
        """If jobs wait and store memos at random, their runs read the same values, and no signal is lost.

        If this fails: the message lists the operations. Compare the last one with `memo_operations`.
        """
        self._random_operations(MemoOperations, open_handle, 120)

    def _random_operations(
        self, kind: type[SeededOperations], open_handle: Callable[[], Storage], number: int
    ) -> None:
        for seed in range(max(4, self.model_runs // 10)):
            run = kind(open_handle, seed, self.model_handles)
            try:
                run.run(number)
            finally:
                run.close()
