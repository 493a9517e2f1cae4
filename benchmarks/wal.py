"""Count commits from outside, in SQLite's write-ahead log, so that no contender can miscount its own.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

HEADER = struct.Struct(">4sIII8sII")
FRAME = struct.Struct(">II8sII")
MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


@contextmanager
def kept(database: Path) -> Iterator[None]:
    """Keep all commits of the block, and no older ones, in the log.

    The log is emptied, then a read transaction is kept open. As long as it reads the database without the
    log, a checkpoint cannot copy anything back, so no writer restarts the log, whatever its settings are.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        blocked, _, _ = reader.execute("pragma wal_checkpoint(truncate)").fetchone()
        if blocked:
            message = f"the log of {database} could not be emptied: another connection is using it"
            raise RuntimeError(message)
        reader.execute("begin")
        reader.execute("select count(*) from sqlite_master").fetchone()
        yield
        reader.execute("rollback")


def count_commits(database: Path) -> int:
    """Return the number of transactions in the log; the last frame of each has the database's new size."""
    with database.with_name(database.name + "-wal").open("rb") as log:
        header = log.read(HEADER.size)
        if not header:
            return 0
        magic, _, page_size, _, salt, _, _ = HEADER.unpack(header)
        if magic not in MAGIC:
            message = f"{database}-wal is not a write-ahead log"
            raise RuntimeError(message)
        commits = 0
        while len(frame := log.read(FRAME.size)) == FRAME.size:
            _, size_after_commit, frame_salt, _, _ = FRAME.unpack(frame)
            if frame_salt != salt:
                break
            commits += size_after_commit > 0
            log.seek(page_size, 1)
    return commits
