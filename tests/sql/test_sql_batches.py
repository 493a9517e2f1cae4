"""Batches in a file: the same walks lead to the same counts as in memory, and every batch ends."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.memory import MemoryStorage
from firelock.values import FINAL_STATES
from firelock_sql.sqlite.storage import SqliteStorage
from tests.core.storage.test_batch_walks import shown, walked


@pytest.mark.parametrize("seed", range(6))
def test_a_file_counts_as_memory_does(tmp_path, seed):
    """What is done to nested batches by chance leaves the same states and tallies."""
    with closing(SqliteStorage(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal")) as storage:
        walk = walked(storage, seed)

        assert shown(walked(MemoryStorage(), seed)) == shown(walk)
        for batch in walk.batches:
            assert walk.yard.state(batch) in FINAL_STATES or walk.yard.tally(batch).is_shut
