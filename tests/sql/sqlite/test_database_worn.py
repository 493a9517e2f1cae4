"""SQLite met an error of its disk: what the caller is told, and what becomes of the file."""

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
    """The connections of a process to a file with one table."""
    with closing(FileConnections(parse_sqlite_url(f"sqlite:///{tmp_path}/jobs.db"))) as connections:
        connections.write(lambda cursor: cursor.execute("CREATE TABLE pieces (piece BLOB)"))
        yield connections


def _fill(cursor):
    """The file may take no page more, as on a full disk, and a piece that needs some is written."""
    cursor.execute("INSERT INTO pieces VALUES (1)")
    cursor.execute("PRAGMA max_page_count = 2")
    cursor.execute("INSERT INTO pieces VALUES (zeroblob(100000))")


def test_a_full_disk_is_called_that(connections):
    """Who writes to a file that cannot grow is told so, and that trying again may help."""
    with pytest.raises(StorageUnavailable, match="database or disk is full; free space on its disk"):
        connections.write(_fill)


def test_the_file_is_written_to_again_when_there_is_space(connections):
    """What was refused left nothing behind, and the next write opens the file anew."""
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
def test_an_error_of_a_full_disk_names_the_cause():
    """Who opens a file whose disk has no space left hears of the space, which SQLite does not say."""
    with (
        pytest.raises(StorageUnavailable, match="disk I/O error; free space on its disk"),
        translated(Path("/proc/jobs.db")),
    ):
        raise _input_output_error()


def test_an_error_of_a_disk_with_space_names_no_cause(tmp_path):
    """Where there is space, an error of input or output is told as SQLite tells it."""
    with pytest.raises(StorageUnavailable, match=r"disk I/O error\.$"), translated(tmp_path / "jobs.db"):
        raise _input_output_error()
