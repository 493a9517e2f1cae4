"""The storage kit: subclass `StorageConformance`, give it the URL of an empty store, and run pytest.

Read `subject` (the fixtures) first. Then read the parts of the kit in the order in which their tests run (the
base classes of `StorageConformance` from last to first): `life`, `insert`, `text`, `claim`, `left_out`,
`settle`, `sessions`, `closing`, `upkeep`, `moves`; `limits`, `turns`, `rates`, `lines`, `unique`; `reading`;
`batches`, `memos`, `calls`, `streams`; `newer`; `recurring`, `records`; `locked`; `races`, `key_races`,
`flow_races`; `model` (random operations). `rows` is only for storages that derive from `RowStorage`.
"""

from __future__ import annotations

from firelock.testing.conformance.locks import LockTests
from firelock.testing.conformance.storage.batches import BatchCountsTests
from firelock.testing.conformance.storage.calls import CallTests
from firelock.testing.conformance.storage.claim import ClaimTests
from firelock.testing.conformance.storage.closing import ClosingTests
from firelock.testing.conformance.storage.flow_races import FlowRaceTests
from firelock.testing.conformance.storage.insert import InsertTests
from firelock.testing.conformance.storage.key_races import LimitRaceTests, UniqueRaceTests
from firelock.testing.conformance.storage.left_out import LeftOutInLanesTests, LeftOutTests
from firelock.testing.conformance.storage.life import LifeTests
from firelock.testing.conformance.storage.limits import KeyTests, LimitTests
from firelock.testing.conformance.storage.lines import LineTests
from firelock.testing.conformance.storage.locked import LockedRowTests
from firelock.testing.conformance.storage.memos import MemoTests
from firelock.testing.conformance.storage.model import ModelTests
from firelock.testing.conformance.storage.moves import MoveTests
from firelock.testing.conformance.storage.newer import NewerTests
from firelock.testing.conformance.storage.races import CrowdTests, RaceTests
from firelock.testing.conformance.storage.rates import RateTests
from firelock.testing.conformance.storage.reading import FindTests, PeopleTests
from firelock.testing.conformance.storage.records import RecordTests
from firelock.testing.conformance.storage.recurring import RecurringTests
from firelock.testing.conformance.storage.rows import PrunedRowTests, RowTests
from firelock.testing.conformance.storage.sessions import ReconcileTests, SessionTests
from firelock.testing.conformance.storage.settle import ExchangeTests, GuardTests, SettleTests, TailTests
from firelock.testing.conformance.storage.streams import StreamTests
from firelock.testing.conformance.storage.text import TextTests
from firelock.testing.conformance.storage.turns import TurnTests
from firelock.testing.conformance.storage.unique import UniqueTests
from firelock.testing.conformance.storage.upkeep import ContinuationTests, PromoteTests, PruneTests

__all__ = ["RowStorageConformance", "StorageConformance"]


# pytest runs the tests of the last base class first, so a test that names the broken rule runs before tests
# that compare everything.
class StorageConformance(
    ModelTests, FlowRaceTests, UniqueRaceTests, LimitRaceTests, CrowdTests, RaceTests, LockedRowTests,
    LockTests, RecordTests, RecurringTests, NewerTests, StreamTests, CallTests, MemoTests,
    BatchCountsTests, PeopleTests, FindTests, UniqueTests, LineTests, KeyTests, RateTests, TurnTests,
    LimitTests, MoveTests, PruneTests, ContinuationTests, PromoteTests, TailTests, ReconcileTests,
    ClosingTests, SessionTests, ExchangeTests, GuardTests, SettleTests, LeftOutInLanesTests, LeftOutTests,
    ClaimTests, TextTests, InsertTests, LifeTests,
):  # fmt: skip
    """The tests of everything that a storage must do.

    ::

        class TestMongoStorage(StorageConformance):
            @pytest.fixture
            def storage_url(self, mongo):      # an EMPTY store that the kit may wipe
                return mongo.new_database_url()

    Tests run in the order in which a storage is best written, from opening and closing to random operations.
    The name of a verb selects the tests of the part of the kit to which it belongs: `-k prune`, `-k claim`.

    A feature that is not in `Storage.features` is not tested, but calls that need it must be refused. If the
    storage has a known gap, override its test with `@pytest.mark.xfail(reason="…")`; an override without this
    mark is an error.
    """


class RowStorageConformance(StorageConformance, PrunedRowTests, RowTests):
    """The storage kit for a `RowStorage`.

    It first tests the transactions and rows on which all verbs are based, and the rows that `prune` leaves.
    """
