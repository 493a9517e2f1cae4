"""Transactions of an application that lock rows of jobs, batches and limit keys for a long time.

The application is a process of its own, because a process with two writers of one SQLite file is told so.
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

_CHOICES = [  # a table, the column that names a row, which rows, and how many of them are locked at once
    ("firelock_jobs", "id", "WHERE state = 'processing'", 10),
    ("firelock_jobs", "id", "WHERE state IN ('awaiting', 'enqueued', 'scheduled')", 10),
    ("firelock_batches", "id", "ORDER BY id DESC", 4),  # the newest: their members run
    ("firelock_limit_keys", "key", "", 2),
]


@attrs.define(eq=False)
class Locker:
    """Locks random rows for a time, then leaves all alone for a time, again and again."""

    url: str
    folder: Path
    hold: float  # seconds
    rest: float  # seconds
    seed: int = 57
    locked: int = 0  # rows
    times: int = 0

    def run(self):
        """Lock until told to end."""
        chance = random.Random(self.seed)
        while not self._wait(self.rest):
            if self.url.startswith("sqlite"):
                self._hold_file()
            else:
                self._hold_rows(chance)

    def _wait(self, seconds):
        """Return whether it was told to end, after the time at the latest."""
        deadline = time.monotonic() + seconds
        while not (self.folder / "over").exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _hold_file(self):
        """Hold the one write lock of a SQLite file."""
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
                    asked = ", ".join(f":{one}" for one in names)
                    statement = f"SELECT {name} FROM {table} WHERE {name} IN ({asked}) FOR UPDATE SKIP LOCKED"
                    self.locked += len(connection.execute(text(statement), names).all())
            self.times += 1
            self._wait(self.hold)
            connection.rollback()


def main(url, folder, hold, rest):
    """Lock until told to end; return how many rows in how many transactions."""
    locker = Locker(url, folder, hold, rest)
    locker.run()
    return locker.locked, locker.times


@contextmanager
def locking(place, *, hold, rest):
    """Lock random rows meanwhile; yield a function that ends it and returns how many, in how many times.

    Redis has no locks of rows.
    """
    with ThreadPoolExecutor(1) as threads:
        is_locking = not place.storage.startswith("redis")
        locker = threads.submit(run_program, place, "rows", hold, rest) if is_locking else None

        def stop():
            (place.folder / "rows").mkdir(exist_ok=True)
            (place.folder / "rows" / "over").touch()
            return locker.result() if locker is not None else (0, 0)

        try:
            yield stop
        finally:
            stop()
