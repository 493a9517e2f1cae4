"""The server kit: tests of real servers over a storage. Subclass `ServerConformance` with an empty store.

Read `stage` first, which runs a server and its jobs in this process. `tests` contains the tests, and
`own_process` contains an app for servers in other processes.
"""

from __future__ import annotations

from firelock.testing.conformance.server.tests import (
    CancellingTests,
    ContinuingTests,
    CrashingTests,
    EndingTests,
    LockingTests,
    OrderingTests,
    OutageTests,
    StoppingBatchesTests,
    StoppingTests,
    TimingTests,
)

__all__ = ["ServerConformance"]


class ServerConformance(
    EndingTests, ContinuingTests, CancellingTests, OrderingTests, TimingTests, StoppingTests, CrashingTests,
    OutageTests, LockingTests, StoppingBatchesTests,
):  # fmt: skip
    """The tests of everything that a server must do over a storage that passes `StorageConformance`.

    ::

        class TestMongoServer(ServerConformance):
            @pytest.fixture
            def storage_url(self, mongo):      # an EMPTY store that the kit may wipe
                return mongo.new_database_url()

    The tests use real threads and, if the storage is shared, real processes. The tests wait only for
    conditions, and with a deadline. For a storage that exists in one process only, use a named URL
    (`memory://kit`), so that several apps share it.
    """
