"""`RedisStorage`: the contract, each verb one script in the partition that is concerned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from firelock.storage import Feature, Finding, SchemaState, Taken
from firelock_redis import health
from firelock_redis.engine import EngineVerbs
from firelock_redis.find import FindVerbs
from firelock_redis.insert import InsertVerbs
from firelock_redis.locks import LockVerbs
from firelock_redis.logs import LogVerbs
from firelock_redis.metrics import MetricVerbs
from firelock_redis.partitions import EVERYWHERE
from firelock_redis.sessions import SessionVerbs
from firelock_redis.upkeep import UpkeepVerbs


class RedisStorage(
    InsertVerbs,
    EngineVerbs,
    SessionVerbs,
    UpkeepVerbs,
    FindVerbs,
    LockVerbs,
    LogVerbs,
    MetricVerbs,
):
    """A storage in Redis or Valkey: one server, a primary with Sentinels, or a cluster."""

    contract = 1
    features = frozenset({Feature.NOTIFY, Feature.SHARED, Feature.DURABLE})

    @property
    def clock_offset(self) -> int:
        """Return the micros added to the server's clock."""
        return self.database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self.database.clock_offset = offset

    @override
    def clock(self) -> int:
        return int(self.database.run("prefix.clock", 0))

    @override
    def new_ids(self, count: int, parent: str | None = None) -> list[str]:
        return self.database.partitions.new_ids(count, parent)

    # ---- the layout --------------------------------------------------------------------------------------

    @override
    def migrate(self) -> list[str]:
        return self.database.migrate()

    @override
    def schema(self) -> SchemaState:
        return self.database.schema()

    @override
    def clear(self) -> None:
        self.database.clear()
        self.forget_held()
        self._turns.note(EVERYWHERE)

    @override
    def close(self) -> None:
        self._waiting.close()
        self.database.close()

    # ---- what is told of it ------------------------------------------------------------------------------

    @override
    def describe(self) -> Mapping[str, str]:
        return health.describe(self.database)

    @override
    def diagnose(self) -> list[Finding]:
        return health.diagnose(self.database)

    # ---- waiting for work --------------------------------------------------------------------------------

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        return self._waiting.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._waiting.interrupt()

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = super().end_session(session, running, reason=reason)
        self.forget_held(session)
        return taken
