"""Objects that the calls of a client share: the storage, its clock, group commit and waits for results."""

from __future__ import annotations

import attrs

from firelock.jobs.group_commit import GroupCommit
from firelock.jobs.results import Results
from firelock.model.clock import StorageClock
from firelock.storage import Storage


@attrs.frozen
class StorageAccess:
    """A storage, and the objects that all calls of a client share."""

    storage: Storage
    clock: StorageClock
    group_commit: GroupCommit
    results: Results

    @classmethod
    def of(cls, storage: Storage) -> StorageAccess:
        """Return the access object of an app.

        A thread starts only when a job is first awaited, or when a caller first waits for a result.
        """
        return cls(storage, StorageClock(storage), GroupCommit(storage), Results(storage))

    def close(self) -> None:
        """Store the jobs that coroutines await, then stop the threads. The storage stays open."""
        self.group_commit.close()
        self.results.close()
