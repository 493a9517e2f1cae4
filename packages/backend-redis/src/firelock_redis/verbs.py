"""What every group of the storage's verbs stands on."""

from __future__ import annotations

from firelock.storage import DerivedStorage
from firelock_redis.database import RedisDatabase
from firelock_redis.notify import RedisWaiting
from firelock_redis.partitions import PartitionTurns


class RedisVerbs(DerivedStorage):
    """One Redis, and what this process knows of the work in it."""

    def __init__(self, database: RedisDatabase) -> None:
        super().__init__()
        self.database = database
        self._turns = PartitionTurns(database.partitions.number)
        self._waiting = RedisWaiting(database, self._turns.note)
        self.url = str(database.url)
        self.connect_url = database.url.text
