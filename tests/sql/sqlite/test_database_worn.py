"""Disk errors in SQLite: the caller's error, and the state of the file."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from firelock.storage import StorageUnavailable
from firelock_sql.connections.url import parse_sqlite_url
from firelock_sql.sqlite.database import FileConnections, translated


@pytest.fixture
def connections(tmp_path):
    """The connections of one process to a file with one table."""
    with closing(FileConnections(parse_sqlite_url(f"sqlite:///{tmp_path}/jobs.db"))) as connections:
        connections.write(lambda cursor: cursor.execute("CREATE TABLE pieces (piece BLOB)"))
        yield connections


def _fill(cursor):
    """Prevent the file from growing, as on a full disk, and write a value that needs more pages."""
    cursor.execute("INSERT INTO pieces VALUES (1)")
    cursor.execute("PRAGMA max_page_count = 2")
    cursor.execute("INSERT INTO pieces VALUES (zeroblob(100000))")


def test_full_disk_is_reported_as_such(connections):
    """If a file cannot grow, the error states that the disk is full.

    The class of the error means that a later call may succeed.
    """
    with pytest.raises(StorageUnavailable, match="database or disk is full; free space on its disk"):
        connections.write(_fill)


def test_file_is_written_again_after_space_is_freed(connections):
    """The refused write leaves nothing behind, and the next write opens the file again."""
    with pytest.raises(StorageUnavailable):
        connections.write(_fill)

    connections.write(lambda cursor: cursor.execute("INSERT INTO pieces VALUES (2)"))

    found = connections.read(lambda cursor: cursor.execute("SELECT piece FROM pieces").fetchall())
    assert [(2,)] == found


def _input_output_error():
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    return error


@pytest.mark.skipif(sys.platform != "linux", reason="a file system without any space is there on Linux")
def test_opening_error_on_a_full_disk_names_the_cause():
    """If the disk is full when a file is opened, the error states this, unlike the message of SQLite."""
    with (
        pytest.raises(StorageUnavailable, match="disk I/O error; free space on its disk"),
        translated(Path("/proc/jobs.db")),
    ):
        raise _input_output_error()


def test_opening_error_on_a_disk_with_space_is_unchanged(tmp_path):
    """The error contains only the message of SQLite."""
    with pytest.raises(StorageUnavailable, match=r"disk I/O error\.$"), translated(tmp_path / "jobs.db"):
        raise _input_output_error()
