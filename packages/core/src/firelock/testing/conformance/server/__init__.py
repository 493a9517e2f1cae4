"""The server kit: real servers over a storage. Subclass `ServerConformance` and give it an empty store.

Read `stage` first, a server in this process and what its jobs do; `duties` are the rules, `own_process` is an
app for servers in other processes.
"""

from __future__ import annotations

from firelock.testing.conformance.server.duties import (
    CancellingDuty,
    ContinuingDuty,
    CrashingDuty,
    EndingDuty,
    LockingDuty,
    OrderingDuty,
    OutageDuty,
    StoppingBatchesDuty,
    StoppingDuty,
    TimingDuty,
)

__all__ = ["ServerConformance"]


class ServerConformance(
    EndingDuty, ContinuingDuty, CancellingDuty, OrderingDuty, TimingDuty, StoppingDuty, CrashingDuty,
    OutageDuty, LockingDuty, StoppingBatchesDuty,
):  # fmt: skip
    """Everything that a server promises over a storage that passes `StorageConformance`.

    ::

        class TestMongoServer(ServerConformance):
            @pytest.fixture
            def storage_url(self, mongo):      # an EMPTY store that the kit may wipe
                return mongo.new_database_url()

    Real threads and, where the storage is shared, real processes; every wait is for a condition, with a
    deadline. A storage that lives in one process gives a named URL (`memory://kit`), so that several apps
    meet in it.
    """
