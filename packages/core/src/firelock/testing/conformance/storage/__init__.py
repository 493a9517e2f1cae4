"""The storage kit: subclass `StorageConformance`, give it the URL of an empty store, and run pytest.

Read `subject` (the fixtures) first. Then read the parts of the kit in the order in which their tests run,
which is the base classes of `StorageConformance` from last to first: `life`, `insert`, `text`, `claim`,
`left_out`, `settle`, `sessions`, `closing`, `upkeep`, `moves`; `limits`, `turns`, `rates`, `lines`, `unique`;
`reading`; `batches`, `memos`, `calls`, `streams`; `newer`; `recurring`, `records`; `locked`; `races`,
`key_races`, `flow_races`; `model` (random steps). `rows` is only for storages that derive from `RowStorage`.
"""

from __future__ import annotations

from firelock.testing.conformance.locks import LockDuty
from firelock.testing.conformance.storage.batches import BatchCountsDuty
from firelock.testing.conformance.storage.calls import CallDuty
from firelock.testing.conformance.storage.claim import ClaimDuty
from firelock.testing.conformance.storage.closing import ClosingDuty
from firelock.testing.conformance.storage.flow_races import FlowRaceDuty
from firelock.testing.conformance.storage.insert import InsertDuty
from firelock.testing.conformance.storage.key_races import LimitRaceDuty, UniqueRaceDuty
from firelock.testing.conformance.storage.left_out import LeftOutDuty, LeftOutInLanesDuty
from firelock.testing.conformance.storage.life import LifeDuty
from firelock.testing.conformance.storage.limits import KeyDuty, LimitDuty
from firelock.testing.conformance.storage.lines import LineDuty
from firelock.testing.conformance.storage.locked import LockedRowDuty
from firelock.testing.conformance.storage.memos import MemoDuty
from firelock.testing.conformance.storage.model import ModelDuty
from firelock.testing.conformance.storage.moves import MoveDuty
from firelock.testing.conformance.storage.newer import NewerDuty
from firelock.testing.conformance.storage.races import CrowdDuty, RaceDuty
from firelock.testing.conformance.storage.rates import RateDuty
from firelock.testing.conformance.storage.reading import FindDuty, PeopleDuty
from firelock.testing.conformance.storage.records import RecordDuty
from firelock.testing.conformance.storage.recurring import RecurringDuty
from firelock.testing.conformance.storage.rows import PrunedRowDuty, RowDuty
from firelock.testing.conformance.storage.sessions import ReconcileDuty, SessionDuty
from firelock.testing.conformance.storage.settle import ExchangeDuty, GuardDuty, SettleDuty, TailDuty
from firelock.testing.conformance.storage.streams import StreamDuty
from firelock.testing.conformance.storage.text import TextDuty
from firelock.testing.conformance.storage.turns import TurnDuty
from firelock.testing.conformance.storage.unique import UniqueDuty
from firelock.testing.conformance.storage.upkeep import ContinuationDuty, PromoteDuty, PruneDuty

__all__ = ["RowStorageConformance", "StorageConformance"]


# pytest runs the tests of the last base class first, so a test that names the broken rule runs before tests
# that compare everything.
class StorageConformance(
    ModelDuty, FlowRaceDuty, UniqueRaceDuty, LimitRaceDuty, CrowdDuty, RaceDuty, LockedRowDuty, LockDuty,
    RecordDuty, RecurringDuty, NewerDuty, StreamDuty, CallDuty, MemoDuty, BatchCountsDuty, PeopleDuty,
    FindDuty, UniqueDuty, LineDuty, KeyDuty, RateDuty, TurnDuty, LimitDuty, MoveDuty, PruneDuty,
    ContinuationDuty, PromoteDuty, TailDuty, ReconcileDuty, ClosingDuty, SessionDuty, ExchangeDuty, GuardDuty,
    SettleDuty, LeftOutInLanesDuty, LeftOutDuty, ClaimDuty, TextDuty, InsertDuty, LifeDuty,
):  # fmt: skip
    """The tests of everything that a storage must do.

    ::

        class TestMongoStorage(StorageConformance):
            @pytest.fixture
            def storage_url(self, mongo):      # an EMPTY store that the kit may wipe
                return mongo.new_database_url()

    Tests run in the order in which a storage is best written, from opening and closing to random steps. The
    name of a verb selects the tests of the part of the kit to which it belongs: `-k prune`, `-k claim`.

    A feature that is not in `Storage.features` is not tested, but calls that need it must be refused. If the
    storage has a known gap, override its test with `@pytest.mark.xfail(reason="…")`; an override without this
    mark is an error.
    """


class RowStorageConformance(StorageConformance, PrunedRowDuty, RowDuty):
    """The storage kit for a `RowStorage`.

    It first tests the steps and rows on which all verbs are based, and the rows that `prune` leaves.
    """
