"""A SQLite file and its write-ahead log as a killed process left them, and what that process had been told.

The process writes its ledger after each verb: which jobs it was told about, in which state they are, and a
digest of all that is stored. A verb of it is one commit, so that the last lines of the ledger are the commits
that the log holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import struct
from contextlib import closing
from functools import partial
from pathlib import Path

import attrs

from firelock import Firelock
from firelock.lifecycle import failed, retried, succeeded
from firelock.storage import Applied, ClaimRequest, NewSession, Renewal, Storage
from firelock.values import ClaimedJob, Edge, ErrorInfo, Holder, NewJob, On, State
from tests.faults.forking import end_of, start_fork
from tests.faults.ledger import Ledger, read_ledger

__all__ = ["KINDS", "Left", "Step", "digest", "left_behind", "remove"]

_SUFFIXES = ("", "-wal", "-shm")
_LOG_HEADER, _FRAME_HEADER, _PAGE = 32, 24, 4_096
_FOLDED_PAGES = 1_000  # the commit that reaches so many has the log folded into the file
_FOLDED_AT = 96  # of the index: how many frames are in the file as well
_QUEUES = ["default", "other"]
_HOUR = 3_600
_HOLDER = Holder("writer", "writer")


@attrs.frozen
class Step:
    """One commit as its writer was told of it."""

    what: str
    states: dict[str, State]  # of the jobs it concerns, by id, as they are behind it
    digest: str  # of all that is stored behind it


@attrs.frozen
class Left:
    """What a killed writer left: three files, and its ledger."""

    kind: str
    file: bytes
    log: bytes
    index: bytes  # the shared memory beside them
    steps: list[Step]  # every commit since there was nothing
    ends: list[int]  # where in the log each commit that it holds ends
    folded: int  # up to where in the log its pages are in the file as well

    @property
    def first(self):
        """How many commits the file has without the log."""
        return len(self.steps) - len(self.ends)

    def before(self, place):
        """Return how many commits there are when the log is good up to a place."""
        return self.first + sum(end <= place for end in self.ends)

    def states(self, commits):
        """Return every job that is stored after so many commits."""
        return {id: state for step in self.steps[:commits] for id, state in step.states.items()}

    def digest(self, commits):
        """Return the digest of all that is stored after so many commits; tables without rows are nothing."""
        return self.steps[commits - 1].digest if commits else _of_rows([])

    def lay(self, path, *, log, index):
        """The files are there, with another log and index, or without them."""
        for suffix, content in zip(_SUFFIXES, (self.file, log, index), strict=True):
            beside = Path(f"{path}{suffix}")
            beside.unlink(missing_ok=True)
            if content is not None:
                beside.write_bytes(content)


def digest(connection):
    """Return the digest of every row of our tables, but of the one that says when they were made."""
    return _of_rows(_rows(connection))


def _rows(connection):
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'firelock#_%' ESCAPE '#'"
        " AND name <> 'firelock_schema' ORDER BY name"
    ).fetchall()
    for (name,) in names:
        for row in sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))):
            yield f"{name} {row}\n"


def _of_rows(rows):
    total = hashlib.blake2b(digest_size=16)
    for row in rows:
        total.update(row.encode("utf-8", "surrogatepass"))
    return total.hexdigest()


# ---- the writer ------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Writer:
    """Inserts, claims and settles by chance, one commit after the other."""

    storage: Storage
    ledger: Ledger
    plain: sqlite3.Connection  # reads what is stored, by no code of ours
    chance: random.Random
    known: dict[str, State] = attrs.field(factory=dict)
    held: list[ClaimedJob] = attrs.field(factory=list)

    def begin(self):
        """There are tables and a session."""
        self.storage.migrate()
        self.note("migrate", [])
        self.storage.begin_session(NewSession("writer", "writer", "writer", "host", os.getpid(), 0, _HOUR))
        self.note("begin", [])

    def note(self, what, ids):
        """The ledger says what was just committed: these jobs are in these states now."""
        records = self.storage.get(ids)
        states = {record.id: record.state for record in records if record is not None}
        assert len(states) == len(set(ids)), (what, ids)
        self.known.update(states)
        self.ledger.write(what, note=json.dumps([states, digest(self.plain)]))

    def step(self):
        """One commit more, of whatever kind is possible and comes up."""
        kinds = [self.insert] * 4 + [self.renew]
        kinds += [self.claim] * 3 * self._has(State.ENQUEUED)
        kinds += [self.settle] * 4 * bool(self.held)
        kinds += [self.promote] * 2 * self._has(State.SCHEDULED)
        self.chance.choice(kinds)()

    def _has(self, state):
        return state in self.known.values()

    def insert(self):
        """Jobs are stored: plain ones, or such with tags, parents and instants; some are long."""
        chance, now = self.chance, self.storage.clock()
        is_plain = chance.random() < 0.5
        count = chance.choice([1, 3, 10, 40])
        jobs = [self._job(f"job-{len(self.known) + number:06}", now, is_plain) for number in range(count)]
        assert all(self.storage.insert(jobs).is_new)
        self.note("inserted", [job.id for job in jobs])

    def _job(self, id, now, is_plain):
        chance = self.chance
        arguments = '{"seconds":0.0}' + " " * chance.choice([0, 0, 200, 9_000])
        job = NewJob(id, "work", arguments, "json", chance.choice(_QUEUES), 0, State.ENQUEUED, now)
        if is_plain:
            return job
        job = attrs.evolve(job, tags=tuple(chance.sample(["red", "green", "blue"], chance.randint(0, 2))))
        if self.known and chance.random() < 0.5:
            parents = chance.sample(sorted(self.known), min(len(self.known), chance.randint(1, 2)))
            edges = tuple(Edge(parent, On.FINISHED) for parent in parents)
            return attrs.evolve(job, state=State.AWAITING, parents=edges)
        if chance.random() < 0.5:
            return attrs.evolve(job, state=State.SCHEDULED, due_at=now)
        return job

    def claim(self):
        """Some jobs are the writer's."""
        claim = self.storage.claim(
            ClaimRequest(_QUEUES, self.chance.randint(1, 20), "writer", self.storage.clock())
        )
        self.held += claim.jobs
        assert claim.jobs
        self.note("claimed", [job.id for job in claim.jobs])

    def settle(self):
        """Some of its jobs have ended one way or the other, or wait for another try."""
        self.chance.shuffle(self.held)
        count = self.chance.randint(1, len(self.held))
        ends = [self._end(job, self.storage.clock()) for job in self.held[:count]]
        answers = self.storage.apply(ends)
        assert {*answers} <= {Applied.APPLIED, Applied.RELEASING}, answers
        self.held = self.held[count:]
        self.note("settled", [end.job_id for end in ends])
        assert all(self.known[end.job_id] is end.to for end in ends)
        if Applied.RELEASING in answers:
            self.release()

    def _end(self, job, now):
        error = ErrorInfo("ValueError", "odd", "f" * 8, "→ here\n" * 40)
        match self.chance.choice("ssssfr"):
            case "f":
                return failed(
                    job, _HOLDER, at=now, started_at=now, reason="odd", error=error, expires_at=None
                )
            case "r":
                return retried(job, _HOLDER, at=now, started_at=now, wait=1, reason="odd", error=error)
            case _:
                return succeeded(
                    job, _HOLDER, at=now, started_at=now, result='"done"', result_absent=None, expires_at=None
                )

    def release(self):
        """Children of ended parents are moved."""
        assert self.storage.release(10_000)
        self.note("released", [id for id, state in self.known.items() if state is State.AWAITING])

    def promote(self):
        """What was scheduled is due."""
        assert self.storage.promote(10_000).promoted
        self.note("promoted", [id for id, state in self.known.items() if state is State.SCHEDULED])

    def renew(self):
        """The session lives on."""
        assert self.storage.renew([Renewal("writer", busy=len(self.held))]) == [True]
        self.note("renewed", [])


# ---- what becomes of the log -----------------------------------------------------------------------------


def _pages(path):
    """Return how many pages the log's file holds, old ones behind its end included."""
    return Path(f"{path}-wal").stat().st_size // (_FRAME_HEADER + _PAGE)


def _young(writer, path, commits):
    """Everything since the file was made is in the log, nothing in the file."""
    for _ in range(commits):
        if _pages(path) > _FOLDED_PAGES * 3 // 4:
            break
        writer.step()


def _kept(writer, path, commits):
    """A reader keeps the log from being folded into the file, so that it grows and grows."""
    _fill_file(writer)
    reader = _reader(path)
    for _ in range(2 * commits):
        writer.step()
    assert reader.in_transaction


def _fill_file(writer):
    """What was written is in the file, and the log is empty."""
    for _ in range(10):
        writer.step()
    writer.plain.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _turned(writer, path, commits):
    """The log has been folded in and begun anew; behind its end are pages of its former life."""
    while _pages(path) < _FOLDED_PAGES:
        writer.step()
    for _ in range(commits // 2):
        writer.step()


def _folded(writer, path, commits):
    """The first half of the log is in the file as well, and a reader keeps the log from beginning anew."""
    _fill_file(writer)
    for _ in range(commits // 2):
        writer.step()
    reader = _reader(path)
    writer.plain.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    for _ in range(commits // 2):
        writer.step()
    assert reader.in_transaction


def _reader(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM firelock_jobs").fetchone()
    return connection


KINDS = {
    "young": _young,
    "kept": _kept,
    "turned": _turned,
    "folded": _folded,
}


def left_behind(kind, path, folder, commits, seed):
    """Return what a process left that wrote about so many commits and then died by `kill -9`."""
    remove(path)
    for ledger in folder.glob("*.jsonl"):
        ledger.unlink()
    pid = start_fork(partial(_write, kind, path, folder, commits, seed))
    assert end_of(pid) == -signal.SIGKILL
    steps = [
        Step(event.what, {id: State(state) for id, state in states.items()}, total)
        for event in read_ledger(folder)
        for states, total in [json.loads(event.note)]
    ]
    file, log, index = (Path(f"{path}{suffix}").read_bytes() for suffix in _SUFFIXES)
    frames, folded = list(_frames(log)), struct.unpack_from("=I", index, _FOLDED_AT)[0]
    ends = [end for end, is_commit in frames if is_commit]
    return Left(kind, file, log, index, steps, ends, frames[folded - 1][0] if folded else 0)


def _write(kind, path, folder, commits, seed):
    fire = Firelock(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        writer = _Writer(fire.storage, Ledger(folder), plain, random.Random(seed))
        writer.begin()
        KINDS[kind](writer, path, commits)
        os.kill(os.getpid(), signal.SIGKILL)


def _frames(log):
    """Yield where each frame of the log's present life ends, and whether a commit ends with it.

    https://www.sqlite.org/fileformat2.html#walformat
    """
    salts, length = log[16:24], _FRAME_HEADER + _PAGE
    assert struct.unpack_from(">I", log, 8)[0] == _PAGE
    for start in range(_LOG_HEADER, len(log), length):
        if log[start + 8 : start + 16] != salts:
            break
        yield start + length, log[start + 4 : start + 8] != bytes(4)


def remove(path):
    """There is no such file, and nothing of it."""
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
