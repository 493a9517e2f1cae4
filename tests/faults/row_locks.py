"""Long transactions of an application that lock rows of jobs, batches and limit keys.

The application is a separate process, because Firelock reports a process with two writers of one SQLite file.
"""

from __future__ import annotations

import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
from sqlalchemy import text

from tests.faults.effects import database
from tests.faults.program import run_program

_CHOICES = [  # a table, the column that identifies a row, a condition, and how many rows are locked at a time
    ("firelock_jobs", "id", "WHERE state = 'processing'", 10),
    ("firelock_jobs", "id", "WHERE state IN ('awaiting', 'enqueued', 'scheduled')", 10),
    ("firelock_batches", "id", "ORDER BY id DESC", 4),  # the newest, because their members run
    ("firelock_limit_keys", "key", "", 2),
]


@attrs.define(eq=False)
class Locker:
    """Repeatedly locks random rows for a time, then pauses."""

    url: str
    folder: Path
    hold: float  # seconds
    rest: float  # seconds
    seed: int = 57
    locked: int = 0  # rows
    times: int = 0

    def run(self):
        """Lock rows until requested to stop."""
        chance = random.Random(self.seed)
        while not self._wait(self.rest):
            if self.url.startswith("sqlite"):
                self._hold_file()
            else:
                self._hold_rows(chance)

    def _wait(self, seconds):
        """Wait for this time at most; return whether the end was requested."""
        deadline = time.monotonic() + seconds
        while not (self.folder / "over").exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _hold_file(self):
        """Hold the only write lock of a SQLite file."""
        path = Path(self.url.removeprefix("sqlite:///").partition("?")[0])
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self.times, self.locked = self.times + 1, self.locked + 1
            self._wait(self.hold)
            connection.execute("ROLLBACK")

    def _hold_rows(self, chance):
        engine = database(self.url).execution_options(isolation_level="READ COMMITTED")
        with engine.connect() as connection:
            quote = connection.dialect.identifier_preparer.quote
            for table, column, which, number in _CHOICES:
                name = quote(column)
                rows = (
                    connection.execute(text(f"SELECT {name} FROM {table} {which} LIMIT 40")).scalars().all()
                )
                found = chance.sample(rows, min(number, len(rows)))
                names = {f"n{place}": one for place, one in enumerate(found)}
                if names:
                    placeholders = ", ".join(f":{one}" for one in names)
                    statement = (
                        f"SELECT {name} FROM {table} WHERE {name} IN ({placeholders}) FOR UPDATE SKIP LOCKED"
                    )
                    self.locked += len(connection.execute(text(statement), names).all())
            self.times += 1
            self._wait(self.hold)
            connection.rollback()


def main(url, folder, hold, rest):
    """Lock rows until requested to stop; return the numbers of rows and transactions."""
    locker = Locker(url, folder, hold, rest)
    locker.run()
    return locker.locked, locker.times


@contextmanager
def locking(place, *, hold, rest):
    """Lock random rows within the block; yield a function that stops this and returns two numbers.

    These are the numbers of locked rows and of transactions. Redis has no row locks.
    """
    with ThreadPoolExecutor(1) as threads:
        is_locking = not place.storage.startswith("redis")
        locker = threads.submit(run_program, place, "row_locks", hold, rest) if is_locking else None

        def stop():
            (place.folder / "row_locks").mkdir(exist_ok=True)
            (place.folder / "row_locks" / "over").touch()
            return locker.result() if locker is not None else (0, 0)

        try:
            yield stop
        finally:
            stop()
