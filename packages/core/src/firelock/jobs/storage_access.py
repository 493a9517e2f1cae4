"""What a client shares of its storage among its calls: the clock, group commit, waits for results."""

from __future__ import annotations

import attrs

from firelock.jobs.group_commit import GroupCommit
from firelock.jobs.results import Results
from firelock.model.clock import StorageClock
from firelock.storage import Storage


@attrs.frozen
class StorageAccess:
    """A storage, and what a client shares of it among its calls."""

    storage: Storage
    clock: StorageClock
    group_commit: GroupCommit
    results: Results

    @classmethod
    def of(cls, storage: Storage) -> StorageAccess:
        """Return the access of an app; threads begin with the first await."""
        return cls(storage, StorageClock(storage), GroupCommit(storage), Results(storage))

    def close(self) -> None:
        """What was awaited is stored, and the threads have ended; the storage stays open."""
        self.group_commit.close()
        self.results.close()
