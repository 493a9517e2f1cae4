"""F35: the disk with the jobs has no space left."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from firelock import Firelock, StorageUnavailable
from tests.faults.scenarios.base import NotHere, Size, at, feeding, scenario
from tests.faults.scenarios.databases import PATIENT
from tests.faults.servers import eventually
from tests.faults.storages import scheme_of
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import account

_DISK_OF_SERVER = 224  # MiB: an empty server uses half of it, and its write-ahead log grows
_DISK_OF_FILE = 64
_BACKLOG = 2_000  # jobs
_FULL_FOR = 2.0  # seconds for which a file's disk stays full after client and server have seen the error
_BUSY = 0.5  # processors that all processes of a server together may use during this time
_TICKS = os.sysconf("SC_CLK_TCK")


@scenario("full-disk", "F35", full=Size(0, 3), short=Size(0, 1), schemes=["sqlite", "postgresql"])
def full_disk(place, size):
    """The disk is full. Enqueue reports it, nothing is lost or damaged, and work continues with free space.

    This is repeated `rounds` times, on a small disk in memory, which only root may mount.
    """
    play = _full_disk_of_file if scheme_of(place.storage) == "sqlite" else _full_disk_of_server
    return play(place, size.rounds)


# ---- a file ----------------------------------------------------------------------------------------------


def _full_disk_of_file(place, rounds):
    folder = place.folder / "disk"
    folder.mkdir()
    path, filler = folder / "jobs.db", folder / "filler"
    back = []
    busy = []
    with _small_disk(folder, _DISK_OF_FILE):
        with at(place, f"sqlite:///{path}", **PATIENT) as on:
            (server,) = on.serve()
            with feeding(on) as feed:
                for _ in range(rounds):
                    on.await_progress(60)
                    busy.append(_meet_full_disk(on, feed, server, filler))
                    filler.unlink()
                    back.append(_await_start(on, time.monotonic()))
            report = on.finish()
            assert server.stop() == 0
            log = server.log.read_text()
        assert _integrity(path) == "ok"
        first = _refusal_of_first(path, filler)
    assert report.repeats == 0, report.lines()
    assert all("free space on its disk" in text for text in feed.refusals), feed.refusals[-3:]
    assert "Traceback" not in log, log[-3_000:]
    assert "ERROR" not in log, log[-3_000:]
    assert max(busy) <= _BUSY, busy
    return [
        f"{report.brief}, full {rounds} times; integrity_check ok",
        f"refused enqueues {len(feed.refusals)}, each with one line; {feed.outage}",
        f"the server stayed up and used at most {max(busy):.2f} processors meanwhile",
        f"at work at most {max(back):.2f} s after there was space",
        *sorted(set(feed.refusals)),
        f"error for the first client that opens the file: {first}",
    ]


def _meet_full_disk(on, feed, server, filler):
    """Let client and server run with the full disk for a while; return the processors it used."""
    refused, met = len(feed.refusals), _met(server)
    on.enqueue(_BACKLOG, 0.005)  # without jobs, the server would not write, so it would not get the error
    _fill(filler)
    eventually(
        lambda: len(feed.refusals) > refused and _met(server) > met, 60, "client and server see the full disk"
    )
    family = [server.pid, *server.family()]
    began, took = time.monotonic(), _processor_seconds(family)
    while time.monotonic() < began + _FULL_FOR:
        on.fire.jobs.counts()  # readers do not see the error
        time.sleep(0.1)
    assert [server.pid, *server.family()] == family, "a process of the server has ended"
    return (_processor_seconds(family) - took) / (time.monotonic() - began)


def _met(server):
    return server.log.read_text().count("Storage unavailable; keeping the outcomes of jobs")


def _processor_seconds(pids):
    """Return the processor seconds that the processes have used so far."""
    used = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(ticks) for times in used for ticks in times) / _TICKS


def _await_start(on, since):
    """Return how long after a time the first job started; waiting jobs come first."""

    def starts():
        return [event.at for event in on.events() if event.what == "start" and event.at > since]

    eventually(lambda: starts() != [], 30, "a job starts")
    return min(starts()) - since


def _integrity(path):
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def _refusal_of_first(path, filler):
    """Return the error for a client that opens the file as the only one when there is no space."""
    _fill(filler)
    with Firelock(f"sqlite:///{path}") as fire:
        with pytest.raises(StorageUnavailable, match="free space on its disk") as raised:
            fire.jobs.counts()
        filler.unlink()
        fire.jobs.counts()
    return str(raised.value)


# ---- a server --------------------------------------------------------------------------------------------


def _full_disk_of_server(place, rounds):
    refused = set()
    down = 0
    options = {"max_wal_size": "48MB", "min_wal_size": "32MB", "fsync": "on"}
    with _server_on_small_disk(place, options) as (database, url), at(place, url, **PATIENT) as on:
        on.serve()
        for _ in range(rounds):
            on.await_progress()
            filler = database.folder / "filler"
            _fill(filler)
            refused |= _refusals(on)
            filler.unlink()
            down += _start_again(database)
            on.await_progress(60)
        report = on.finish()
    assert refused, "no enqueue was refused"
    return [
        f"{report.brief}, full {rounds} times; the server stopped {down} times",
        *sorted(refused),
    ]


@contextmanager
def _server_on_small_disk(place, options):
    assert place.program is not None
    database = Postgresql(place.program, options)
    who = account()
    try:
        with (
            _small_disk(database.folder, _DISK_OF_SERVER, f"uid={who.uid},gid={who.gid},mode=700"),
            database,
        ):
            database.create_database("jobs")
            yield database, database.url("jobs")
    finally:
        shutil.rmtree(database.folder, ignore_errors=True)  # rmtree fails while the disk is mounted on it


def _refusals(on):
    """Enqueue until there is no space, and return the errors."""
    for _ in range(100):
        try:
            on.enqueue(500, 0.0)
        except StorageUnavailable as error:
            return {str(error)}
    return set()


def _start_again(database):
    """Return whether the server had stopped by itself and had to be started."""
    with suppress(AssertionError):
        eventually(lambda: not database.is_running, 3, "it goes down")
    if database.is_running:
        return False
    database.start()
    return True


# ---- disks -----------------------------------------------------------------------------------------------


@contextmanager
def _small_disk(folder, mebibytes, *options):
    """Mount a disk in memory on the folder within the block.

    Raises:
        NotHere: if this system or this user cannot do that.
    """
    if shutil.which("mount") is None:
        raise NotHere("No disk can be mounted here: the program mount is missing")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={mebibytes}m", *options]), "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        raise NotHere(f"No disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(path):
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 65_536):
            pass
