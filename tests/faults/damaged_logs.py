"""A SQLite file and its write-ahead log left by a killed process, and the replies that it had received.

After each call the process writes to its ledger: the jobs concerned, their states, and a digest of all stored
data. Each call is one commit, so the last lines of the ledger are the commits in the log.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import struct
import traceback
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import attrs

from firelock import Firelock
from firelock.model.dependencies import Edge, On
from firelock.model.job import ClaimedJob, ErrorInfo, NewJob
from firelock.model.lifecycle import failed, retried, succeeded
from firelock.model.session import ClaimHolder
from firelock.model.state import FINAL_STATES, State
from firelock.storage import Applied, ClaimRequest, NewSession, Renewal, Storage, StorageError
from tests.faults.checker import is_legal_history
from tests.faults.forked_processes import end_of, start_fork
from tests.faults.ledger import Ledger, read_ledger

_SUFFIXES = ("", "-wal", "-shm")
_LOG_HEADER, _FRAME_HEADER, _PAGE = 32, 24, 4_096
_FOLDED_PAGES = 1_000  # a commit that reaches this number causes a checkpoint of the log into the file
_FOLDED_AT = 96  # the offset in the index of the number of frames that are also in the file
_QUEUES = ["default", "other"]
_HOUR = 3_600
_HOLDER = ClaimHolder("writer", "writer")
_NEXT = NewSession("next", "next", "next", "host", 1, 1, _HOUR)


@attrs.frozen
class Step:
    """One commit, as its writer recorded it."""

    what: str
    states: dict[str, State]  # states by id of the jobs that it concerns, after the commit
    digest: str  # of all stored data after the commit


@attrs.frozen
class Left:
    """The three files and the ledger that a killed writer left."""

    kind: str
    file: bytes
    log: bytes
    index: bytes  # the shared memory file
    steps: list[Step]  # every commit since the start
    ends: list[int]  # the position in the log at which each of its commits ends
    folded: int  # the position in the log up to which its pages are also in the file

    @property
    def first(self):
        """The number of commits in the file without the log."""
        return len(self.steps) - len(self.ends)

    def before(self, place):
        """Return the number of commits if the log is intact up to a position."""
        return self.first + sum(end <= place for end in self.ends)

    def states(self, commits):
        """Return every job that is stored after this number of commits."""
        return {id: state for step in self.steps[:commits] for id, state in step.states.items()}

    def digest(self, commits):
        """Return the digest of all data after this number of commits; tables without rows do not count."""
        return self.steps[commits - 1].digest if commits else _of_rows([])

    def lay(self, path, *, log, index):
        """Write the files, with another log and index, or without them."""
        for suffix, content in zip(_SUFFIXES, (self.file, log, index), strict=True):
            file = Path(f"{path}{suffix}")
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)


def digest(connection):
    """Return the digest of all rows in Firelock's tables, except the table of the schema version."""
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
    """A process that inserts, claims and settles at random, one commit after another."""

    storage: Storage
    ledger: Ledger
    plain: sqlite3.Connection  # reads the stored data without Firelock's code
    chance: random.Random
    known: dict[str, State] = attrs.field(factory=dict)
    held: list[ClaimedJob] = attrs.field(factory=list)

    def begin(self):
        """Create the tables and a session."""
        self.storage.migrate()
        self.note("migrate", [])
        self.storage.begin_session(NewSession("writer", "writer", "writer", "host", os.getpid(), 0, _HOUR))
        self.note("begin", [])

    def note(self, what, ids):
        """Write the last commit to the ledger: the current states of these jobs."""
        records = self.storage.get(ids)
        states = {record.id: record.state for record in records if record is not None}
        assert len(states) == len(set(ids)), (what, ids)
        self.known.update(states)
        self.ledger.write(what, note=json.dumps([states, digest(self.plain)]))

    def steps(self, number):
        """Make this number of further commits."""
        for _ in range(number):
            self.step()

    def step(self):
        """Make one further commit of a random possible kind."""
        kinds = [self.insert] * 4 + [self.renew]
        kinds += [self.claim] * 3 * self._has(State.ENQUEUED)
        kinds += [self.settle] * 4 * bool(self.held)
        kinds += [self.promote] * 2 * self._has(State.SCHEDULED)
        self.chance.choice(kinds)()

    def _has(self, state):
        return state in self.known.values()

    def insert(self):
        """Store plain jobs, or jobs with tags, parents and due times; some are long."""
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
        """Claim some jobs for the writer."""
        claim = self.storage.claim(
            ClaimRequest(_QUEUES, self.chance.randint(1, 20), "writer", self.storage.clock())
        )
        self.held += claim.jobs
        assert claim.jobs
        self.note("claimed", [job.id for job in claim.jobs])

    def settle(self):
        """End some of its jobs, with success, failure or a retry."""
        self.chance.shuffle(self.held)
        count = self.chance.randint(1, len(self.held))
        ends = [self._end(job, self.storage.clock()) for job in self.held[:count]]
        answers = self.storage.apply(ends)
        assert {*answers} <= {Applied.APPLIED, Applied.RELEASE_NEEDED}, answers
        self.held = self.held[count:]
        self.note("settled", [end.job_id for end in ends])
        assert all(self.known[end.job_id] is end.to for end in ends)
        if Applied.RELEASE_NEEDED in answers:
            self.release()

    def _end(self, job, now):
        error = ErrorInfo("ValueError", "expected", "f" * 8, "→ here\n" * 40)
        match self.chance.choice("ssssfr"):
            case "f":
                return failed(
                    job, _HOLDER, at=now, started_at=now, reason="expected", error=error, expires_at=None
                )
            case "r":
                return retried(job, _HOLDER, at=now, started_at=now, wait=1, reason="expected", error=error)
            case _:
                return succeeded(
                    job, _HOLDER, at=now, started_at=now, result='"done"', result_absent=None, expires_at=None
                )

    def release(self):
        """Release the continuations of ended parents."""
        assert self.storage.release(10_000)
        self.note("released", [id for id, state in self.known.items() if state is State.AWAITING])

    def promote(self):
        """Enqueue the scheduled jobs, which are due."""
        assert self.storage.promote(10_000).promoted
        self.note("promoted", [id for id, state in self.known.items() if state is State.SCHEDULED])

    def renew(self):
        """Renew the session."""
        assert self.storage.renew([Renewal("writer", busy=len(self.held))]) == [True]
        self.note("renewed", [])


# ---- the state of the log --------------------------------------------------------------------------------


def _pages(path):
    """Return how many pages the log's file contains, including old ones after its end."""
    return Path(f"{path}-wal").stat().st_size // (_FRAME_HEADER + _PAGE)


def _young(writer, path, commits):
    """Write commits that are all in the log and not in the file."""
    for _ in range(commits):
        if _pages(path) > _FOLDED_PAGES * 3 // 4:
            break
        writer.step()


def _kept(writer, path, commits):
    """Write commits while a reader prevents checkpoints, so that the log keeps growing."""
    _fill_file(writer)
    reader = _reader(path)
    writer.steps(2 * commits)
    assert reader.in_transaction


def _fill_file(writer):
    """Write some commits, and checkpoint them so that the log is empty."""
    writer.steps(10)
    writer.plain.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _turned(writer, path, commits):
    """Write until the log has been checkpointed and restarted, with old pages after its end."""
    while _pages(path) < _FOLDED_PAGES:
        writer.step()
    writer.steps(commits // 2)


def _folded(writer, path, commits):
    """Checkpoint the first half of the log, while a reader prevents the log from restarting."""
    _fill_file(writer)
    writer.steps(commits // 2)
    reader = _reader(path)
    writer.plain.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    writer.steps(commits // 2)
    assert reader.in_transaction


def _reader(path):
    connection = _plain(path)
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
    """Return the files of a process that wrote about this number of commits and was killed with SIGKILL."""
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
    with closing(_plain(path)) as plain:
        writer = _Writer(fire.storage, Ledger(folder), plain, random.Random(seed))
        writer.begin()
        KINDS[kind](writer, path, commits)
        os.kill(os.getpid(), signal.SIGKILL)


def _frames(log):
    """Yield the end of each frame in the current part of the log, and whether a commit ends there.

    https://www.sqlite.org/fileformat2.html#walformat
    """
    salts, length = log[16:24], _FRAME_HEADER + _PAGE
    assert struct.unpack_from(">I", log, 8)[0] == _PAGE
    for start in range(_LOG_HEADER, len(log), length):
        if log[start + 8 : start + 16] != salts:
            break
        yield start + length, log[start + 4 : start + 8] != bytes(4)


def remove(path):
    """Remove the files, if they exist."""
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


_COPIES_OF_ONE = 25
_MANY = 1_000_000


# ---- the damage ------------------------------------------------------------------------------------------


def _cut(content, chance):
    return content[: chance.randrange(len(content))]


def _flipped(content, chance):
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _scrawled(content, chance):
    return _replaced(content, chance, chance.randbytes(chance.choice([1, 24, 512, 20_000])))


def _holed(content, chance):
    return _replaced(content, chance, bytes(chance.choice([512, 4_096, 65_536])))


def _replaced(content, chance, piece):
    start = chance.randrange(len(content))
    return (content[:start] + piece + content[start + len(piece) :])[: len(content)]


def _blank_at_the_end(content, chance):
    good = _cut(content, chance)
    return good + bytes(len(content) - len(good))


def _bad_head(content, chance):
    return _flipped(content[:32], chance) + content[32:]


def _grown(content, chance):
    return content + chance.randbytes(chance.choice([1, 4_120, 50_000]))


def _removed(_content, _chance):
    return None


def _whole(content, _chance):
    return content


# Kinds of damage to a log, with their weights, and then kinds of damage to the index, which locates each page
# in the log.
_LOG = {
    "cut": (_cut, 6),
    "flipped bits": (_flipped, 6),
    "overwritten": (_scrawled, 4),
    "zeros within": (_holed, 3),
    "zeros to the end": (_blank_at_the_end, 3),
    "damaged header": (_bad_head, 1),
    "grown": (_grown, 1),
    "removed": (_removed, 1),
    "whole": (_whole, 1),
}
_INDEX = {
    "whole": (_whole, 2),
    "removed": (_removed, 1),
    "flipped bits": (_flipped, 1),
    "overwritten": (_scrawled, 1),
    "zeros to the end": (_blank_at_the_end, 1),
    "cut": (_cut, 1),
}


def _drawn(kinds, chance):
    return chance.choices(list(kinds), [weight for _, weight in kinds.values()])[0]


def _alike(one, other):
    """Return the position up to which two contents are equal."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# ---- a copy ----------------------------------------------------------------------------------------------


@attrs.frozen
class Copy:
    """A damaged copy of the files that a writer left."""

    left: Left
    number: int
    log: str
    index: str
    place: int  # the position up to which its log is unchanged

    @property
    def is_in_file(self):
        """Whether the damage is in pages that are also in the file."""
        return self.place < self.left.folded

    @property
    def commits(self):
        """The number of intact commits, which are those before the damage."""
        return self.left.before(self.place)

    def __str__(self):
        return (
            f"copy {self.number}, {self.left.kind}: log {self.log} from byte {self.place}"
            f" of {self.left.ends[-1]}, index {self.index}"
        )


def _copied(left, path, number, chance):
    """Write a copy with random damage and return it."""
    log_kind, index_kind = _drawn(_LOG, chance), _drawn(_INDEX, chance)
    log = _LOG[log_kind][0](left.log, chance)
    left.lay(path, log=log, index=_INDEX[index_kind][0](left.index, chance))
    return Copy(left, number, log_kind, index_kind, _alike(left.log, log or b""))


def check(copy, path):
    """Assert that Firelock opens the copy, finds exactly the commits before the damage, and can use it.

    Raises:
        AssertionError: if this is not the case; the message describes the difference.
    """
    with Firelock(f"sqlite:///{path}") as fire, closing(_plain(path)) as plain:
        _assert_states(fire.storage, copy.left, copy.commits)
        _assert_sound(fire.storage, plain)
        assert digest(plain) == copy.left.digest(copy.commits), "it differs from the intact commits"
        _work_on(fire.storage)
        _assert_sound(fire.storage, plain)
        behind = digest(plain)
        again = path.with_name("again.db")
        _copy_as_it_is(path, again)
    with closing(_plain(again)) as plain:
        _assert_whole(plain)
        assert digest(plain) == behind, "later changes of the copy were lost by a crash"
    remove(again)


def _plain(path):
    return sqlite3.connect(path, isolation_level=None)


def _copy_as_it_is(path, to):
    for suffix in ("", "-wal"):
        Path(f"{to}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())


def _assert_states(storage, left, commits):
    """Assert that each job has the state in its writer's ledger, if that was committed by then."""
    expected, everything = left.states(commits), left.states(_MANY)
    found = zip(everything, storage.get(list(everything)), strict=True)
    states = {id: record.state for id, record in found if record is not None}
    assert states == expected, _difference(states, expected)


def _difference(states, expected):
    ids = [id for id in {**states, **expected} if states.get(id) != expected.get(id)]
    named = [f"{id}: {states.get(id)}, not {expected.get(id)}" for id in ids[:5]]
    return f"{len(ids)} jobs do not have the states of their last intact commit: {'; '.join(named)}"


def _assert_whole(plain):
    """Assert that SQLite finds no damage."""
    results = plain.execute("PRAGMA integrity_check").fetchall()
    assert results == [("ok",)], results[:3]


def _assert_sound(storage, plain):
    """Assert that SQLite finds no damage, and that no job is incomplete."""
    _assert_whole(plain)
    ids = [id for (id,) in plain.execute("SELECT id FROM firelock_jobs")]
    records = [record for record in storage.get(ids) if record is not None]
    assert len(records) == len(ids)
    _assert_counts(storage, records)
    _assert_belongings(plain, records)
    for record in records:
        history = storage.history(record.id).entries
        before = State.ENQUEUED if record.state is State.PROCESSING else record.state
        assert history[-1].state is before, (record, history)
        assert is_legal_history(history), (record, history)
        assert (record.session is not None) is (record.state is State.PROCESSING), record


def _assert_counts(storage, records):
    counts = storage.counts()
    by_state = Counter(record.state for record in records)
    by_queue = Counter((record.queue, record.state) for record in records)
    assert {state: number for state, number in counts.by_state.items() if number} == by_state, counts
    stored = {
        (queue, state): number
        for queue, states in counts.by_queue.items()
        for state, number in states.items()
        if number
    }
    assert stored == by_queue, counts


def _assert_belongings(plain, records):
    """Assert that tags, dependencies and failures belong to existing jobs."""
    tags = {(record.id, tag) for record in records for tag in record.tags}
    assert set(plain.execute("SELECT job_id, tag FROM firelock_job_tags")) == tags
    relations = Counter(
        (edge.parent_id, record.id, edge.on.value) for record in records for edge in record.parents
    )
    assert Counter(plain.execute("SELECT parent_id, child_id, awaited FROM firelock_edges")) == relations
    waiting = {record.id for record in records if record.state is State.AWAITING}
    undecided = plain.execute("SELECT child_id FROM firelock_edges WHERE is_decided = 0")
    assert {child for (child,) in undecided} == waiting
    failures = {job for (job,) in plain.execute("SELECT job_id FROM firelock_attempt_errors")}
    assert failures == {record.id for record in records if record.error is not None}


def _work_on(storage):
    """Run the waiting jobs as another process, and store more jobs."""
    now, holder = storage.clock(), ClaimHolder("next", "next")
    storage.begin_session(_NEXT)
    ready = storage.counts().by_state.get(State.ENQUEUED, 0)
    claim = storage.claim(ClaimRequest(None, _MANY, "next", now))
    assert len(claim.jobs) == ready, (len(claim.jobs), ready)
    answers = storage.apply(
        [
            succeeded(job, holder, at=now, started_at=now, result=None, result_absent="none", expires_at=None)
            for job in claim.jobs
        ]
    )
    assert {*answers} <= {Applied.APPLIED, Applied.RELEASE_NEEDED}, answers
    more = [
        NewJob(f"more-{number}", "work", '{"seconds":0.0}', "json", "default", 0, State.ENQUEUED, now)
        for number in range(20)
    ]
    assert all(storage.insert(more).is_new)
    storage.release(_MANY)
    storage.promote(_MANY)


# ---- all copies ------------------------------------------------------------------------------------------


@attrs.define
class _Figures:
    commits: int = 0  # commits in the logs of copies without damage in the file
    lost: int = 0  # commits after the damage
    jobs: int = 0  # on copies without damage in the file
    wrong: list[str] = attrs.field(factory=list)
    by_kind: Counter[str] = attrs.field(factory=Counter)
    in_file: Counter[str] = attrs.field(factory=Counter)

    def count(self, copy):
        """Add the copy to the figures."""
        self.by_kind[copy.log] += 1
        if not copy.is_in_file:
            self.commits += len(copy.left.ends)
            self.lost += len(copy.left.steps) - copy.commits
            self.jobs += len(copy.left.states(copy.commits))


def main(url, folder, copies, commits, seed):
    """Return the figures of this number of damaged copies, several of each original."""
    path, chance, figures = Path(url.removeprefix("sqlite:///")), random.Random(seed), _Figures()
    of_one = min(_COPIES_OF_ONE, -(-copies // len(KINDS)))
    for number in range(copies):
        if number % of_one == 0:
            kind = list(KINDS)[number // of_one % len(KINDS)]
            left = left_behind(kind, path, folder, commits, chance.getrandbits(32))
            assert (left.folded > 0) is (kind == "folded"), (kind, left.folded)
        figures.count(copy := _copied(left, path, number, chance))
        if copy.is_in_file:
            figures.in_file[_outcome(copy, path)] += 1
        _try(_use if copy.is_in_file else check, copy, path, figures)
    left_to_do = _lay_for_servers(path, folder, commits, chance)
    return {**attrs.asdict(figures), "left": left_to_do}


def _lay_for_servers(path, folder, commits, chance):
    """Write another damaged copy, whose writer's session has expired; return the jobs that have not ended."""
    left = left_behind("kept", path, folder, commits, chance.getrandbits(32))
    place = left.ends[len(left.ends) // 2] + 1
    log = left.log[:place] + bytes(4_096) + left.log[place + 4_096 :]
    left.lay(path, log=log, index=None)
    with closing(_plain(path)) as plain:
        plain.execute("UPDATE firelock_sessions SET expires_at = 1")
    states = left.states(left.before(place))
    return [id for id, state in states.items() if state not in FINAL_STATES]


def _try(action, copy, path, figures):
    try:
        action(copy, path)
    except Exception:  # noqa: BLE001 - any error is recorded
        figures.wrong.append(f"{copy}: {traceback.format_exc(limit=-3)}")


def _outcome(copy, path):
    """Return the outcome for a copy whose log is older than its file, for which SQLite guarantees nothing."""
    try:
        with Firelock(f"sqlite:///{path}") as fire, closing(_plain(path)) as plain:
            fire.jobs.counts()
            if plain.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "integrity_check finds it"
            if digest(plain) in {step.digest for step in copy.left.steps}:
                return "as after a commit"
            return "a mixture that integrity_check does not detect"
    except sqlite3.DatabaseError:
        return "integrity_check finds it"
    except StorageError as error:
        return f"refused: {error.__cause__}"


def _use(copy, path):
    """Call several methods, which must return or report the damage of the file."""
    with Firelock(f"sqlite:///{path}") as fire:
        storage, now = fire.storage, 1
        job = NewJob("more", "work", "{}", "json", "default", 0, State.ENQUEUED, now)
        verbs = [
            storage.counts,
            lambda: storage.get(list(copy.left.states(_MANY))),
            lambda: storage.begin_session(_NEXT),
            lambda: storage.claim(ClaimRequest(None, 10, "next", now)),
            lambda: storage.insert([job]),
            lambda: storage.promote(10),
            lambda: storage.release(10),
            storage.diagnose,
        ]
        for verb in verbs:
            with suppress(StorageError):
                verb()
