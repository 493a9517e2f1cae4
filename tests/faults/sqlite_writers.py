"""Many writers of one SQLite file: killed while they write, or delayed by other programs.

The processes are forks of one process that keeps no connection open.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from firelock import Firelock, FirelockError
from firelock.model.job import NewJob, Transition
from firelock.model.lifecycle import HELD
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.storage import ClaimRequest, NewSession
from tests.faults.forked_processes import end_of, start_fork
from tests.faults.ledger import Ledger, read_ledger
from tests.faults.servers import eventually

_KILLS_A_FILE = 25
_FILE_TIMEOUT = 60.0  # seconds that the other program may wait for the file


def _file_of(url):
    return Path(url.removeprefix("sqlite:///").partition("?")[0])


# ---- killed writers --------------------------------------------------------------------------------------


def write_for_ever(url, folder, seed):
    """Insert, claim and settle in chunks; the ledger has an event before and after each call."""
    chance, ledger, storage = random.Random(seed), Ledger(folder), open_storage(url)
    session = f"session-{os.getpid()}"
    storage.begin_session(NewSession(session, "server", "server", "host", os.getpid(), 0, 3600))
    while True:
        jobs = [_job(storage) for _ in range(chance.randint(1, 200))]
        ledger.write("begin")
        storage.insert(jobs)
        ledger.write("inserted", note=",".join(job.id for job in jobs))
        ledger.write("begin")
        claim = storage.claim(ClaimRequest(None, chance.randint(1, 100), session, 1))
        ends = [
            Transition(job.id, HELD, session, job.fence, State.SUCCEEDED, 1, attempt=job.attempt)
            for job in claim.jobs
        ]
        storage.apply(ends)
        ledger.write("settled", note=",".join(job.id for job in claim.jobs))


def _job(storage):
    return NewJob(storage.new_ids(1)[0], "work", '{"a":[1]}' * 20, "json", "default", 0, State.ENQUEUED, 1)


def kill_writers(url, folder, kills):
    """Return the figures of a number of writers killed while writing, with a new file from time to time."""
    chance, path = random.Random(36), _file_of(url)
    damaged = within = acknowledged = 0
    lost = []
    for number in range(kills):
        if number % _KILLS_A_FILE == 0:
            _remove(path, folder)
        pid = start_fork(partial(write_for_ever, url, folder, number))
        eventually((folder / f"{pid}.jsonl").exists, 10, "the writer writes")
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        damaged += not _is_whole(path)
        within += [event for event in read_ledger(folder) if event.pid == pid][-1].what == "begin"
        if (number + 1) % _KILLS_A_FILE == 0 or number + 1 == kills:
            found, missing = _compare(path, folder)
            acknowledged += found
            lost += missing
    return {"within": within, "damaged": damaged, "acknowledged": acknowledged, "lost": lost}


def _remove(path, folder):
    for ledger in folder.glob("*.jsonl"):
        ledger.unlink()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _is_whole(path):
    """Return whether SQLite finds no damage and the stored counts match the jobs."""
    with closing(sqlite3.connect(path)) as connection:
        answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
        by_state = dict(connection.execute("SELECT state, count(*) FROM firelock_jobs GROUP BY state"))
        counted = dict(connection.execute("SELECT state, jobs FROM firelock_counts WHERE jobs > 0"))
    return answer == "ok" and by_state == counted


def _compare(path, folder):
    """Return the number of acknowledged jobs, and the ids of those whose insert or end is missing."""
    with closing(sqlite3.connect(path)) as connection:
        states = dict(connection.execute("SELECT id, state FROM firelock_jobs"))
    inserted, settled = list(_noted(folder, "inserted")), list(_noted(folder, "settled"))
    lost = [job for job in inserted if job not in states]
    return len(inserted), lost + [job for job in settled if states.get(job) != State.SUCCEEDED]


def _noted(folder, what):
    for event in read_ledger(folder):
        if event.what == what and event.note:
            yield from event.note.split(",")


# ---- delayed writers -------------------------------------------------------------------------------------


def enqueue_for(url, folder, seconds):
    """Enqueue one job after another; write the duration of each call in seconds, and the errors.

    It continues until the other program has locked and released the file, which may happen late on a busy
    machine.
    """
    fire = Firelock(url)

    @fire.task(name="work", remote=True)
    def work(seconds: float) -> int: ...

    deadline, took, errors = time.monotonic() + seconds, [], []
    latest = deadline + _FILE_TIMEOUT
    held = folder / "held.json"
    while (now := time.monotonic()) < deadline or (not held.exists() and now < latest):
        began = time.monotonic()
        try:
            work.enqueue(0.0)
        except FirelockError as error:
            errors.append(str(error))
        took.append((began, time.monotonic() - began))
    (folder / f"enqueued-{os.getpid()}.json").write_text(json.dumps([took, errors]))


def hold_the_file(path, folder, wait, hold):
    """Write to the same file as another program, in a long transaction."""
    time.sleep(wait)
    with closing(sqlite3.connect(path, timeout=_FILE_TIMEOUT, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS other_rows (at REAL)")
        connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        connection.execute("INSERT INTO other_rows VALUES (?)", (began,))
        time.sleep(hold)
        connection.execute("COMMIT")
    (folder / "held.json").write_text(json.dumps([began, time.monotonic()]))


def read_for(path, seconds):
    """Keep a reading transaction open, so that the write-ahead log cannot be reset."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM firelock_jobs").fetchone()
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def crowd(url, folder, clients, seconds):
    """Return the figures of clients next to a long reader and a program that locks the file for some time."""
    path = _file_of(url)
    storage = open_storage(url)
    storage.migrate()
    storage.close()
    works = [
        partial(read_for, path, seconds),
        partial(hold_the_file, path, folder, seconds / 4, seconds / 3),
        *[partial(enqueue_for, url, folder, seconds)] * clients,
    ]
    pids = [start_fork(work) for work in works]
    peak = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
        peak = max(peak, _size_of_log(path))
    assert [end_of(pid) for pid in pids] == [0] * len(pids)
    at_end = _size_of_log(path)
    assert end_of(start_fork(partial(enqueue_for, url, folder, 1.0))) == 0
    return {**_waits(folder), "peak": peak, "at_end": at_end, "after": _size_of_log(path)}


def _size_of_log(path):
    log = Path(f"{path}-wal")
    return log.stat().st_size if log.exists() else 0


def _waits(folder):
    held, freed = json.loads((folder / "held.json").read_text())
    took = []
    errors = []
    for path in folder.glob("enqueued-*.json"):
        some, wrong = json.loads(path.read_text())
        took += some
        errors += wrong
    free = [duration for began, duration in took if began + duration < held or began > freed]
    waiting = [duration for began, duration in took if began + duration >= held and began <= freed]
    return {"errors": errors, "free": free, "held": waiting}


def main(url, folder, kind, number, seconds):
    """Return the figures of one variant."""
    return kill_writers(url, folder, number) if kind == "kill" else crowd(url, folder, number, seconds)
