"""Copies of a SQLite file whose write-ahead log is damaged, and what our storage makes of them.

The last copy is laid where the URL says, for servers to go on with.
"""

from __future__ import annotations

import random
import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import attrs

from firelock import Firelock
from firelock.lifecycle import succeeded
from firelock.storage import Applied, ClaimRequest, NewSession, StorageError
from firelock.values import FINAL_STATES, Holder, NewJob, State
from tests.faults.checker import is_legal_history
from tests.faults.written import KINDS, Left, digest, left_behind, remove

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


def _gone(_content, _chance):
    return None


def _whole(content, _chance):
    return content


_Damage = Callable[[bytes, random.Random], bytes | None]
# What may befall a log, and how often; then the index, which says where in the log each page is.
_LOG = {
    "cut": (_cut, 6),
    "flipped bits": (_flipped, 6),
    "scrawled over": (_scrawled, 4),
    "zeros within": (_holed, 3),
    "zeros to the end": (_blank_at_the_end, 3),
    "a bad head": (_bad_head, 1),
    "grown": (_grown, 1),
    "gone": (_gone, 1),
    "whole": (_whole, 1),
}
_INDEX = {
    "whole": (_whole, 2),
    "gone": (_gone, 1),
    "flipped bits": (_flipped, 1),
    "scrawled over": (_scrawled, 1),
    "zeros to the end": (_blank_at_the_end, 1),
    "cut": (_cut, 1),
}


def _drawn(kinds, chance):
    return chance.choices(list(kinds), [weight for _, weight in kinds.values()])[0]


def _alike(one, other):
    """Return up to where two contents are the same."""
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
    """A damaged copy of what a writer left."""

    left: Left
    number: int
    log: str
    index: str
    place: int  # up to where its log is what it was

    @property
    def is_in_file(self):
        """Tell whether the damage is where the log's pages are in the file as well."""
        return self.place < self.left.folded

    @property
    def commits(self):
        """How many commits are whole: those before the damage."""
        return self.left.before(self.place)

    def __str__(self):
        return (
            f"copy {self.number}, {self.left.kind}: log {self.log} from byte {self.place}"
            f" of {self.left.ends[-1]}, index {self.index}"
        )


def _copied(left, path, number, chance):
    """Return the copy that was laid there."""
    log_kind, index_kind = _drawn(_LOG, chance), _drawn(_INDEX, chance)
    log = _LOG[log_kind][0](left.log, chance)
    left.lay(path, log=log, index=_INDEX[index_kind][0](left.index, chance))
    return Copy(left, number, log_kind, index_kind, _alike(left.log, log or b""))


def check(copy, path):
    """Our storage opens the copy: it has the commits before the damage and no other, and works on.

    Raises:
        AssertionError: which of it is not so.
    """
    with Firelock(f"sqlite:///{path}") as fire, closing(_plain(path)) as plain:
        _assert_states(fire.storage, copy.left, copy.commits)
        _assert_sound(fire.storage, plain)
        assert digest(plain) == copy.left.digest(copy.commits), "it is not what was committed by then"
        _work_on(fire.storage)
        _assert_sound(fire.storage, plain)
        behind = digest(plain)
        again = path.with_name("again.db")
        _copy_as_it_is(path, again)
    with closing(_plain(again)) as plain:
        _assert_whole(plain)
        assert digest(plain) == behind, "what was done on the copy is not there after a crash"
    remove(again)


def _plain(path):
    return sqlite3.connect(path, isolation_level=None)


def _copy_as_it_is(path, to):
    for suffix in ("", "-wal"):
        Path(f"{to}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())


def _assert_states(storage, left, commits):
    """Each job is there, in the state that its writer was told, if that was committed by then."""
    expected, everything = left.states(commits), left.states(_MANY)
    found = zip(everything, storage.get(list(everything)), strict=True)
    states = {id: record.state for id, record in found if record is not None}
    assert states == expected, _difference(states, expected)


def _difference(states, expected):
    ids = [id for id in {**states, **expected} if states.get(id) != expected.get(id)]
    named = [f"{id}: {states.get(id)}, not {expected.get(id)}" for id in ids[:5]]
    return f"{len(ids)} jobs are not as they were by then: {'; '.join(named)}"


def _assert_whole(plain):
    """SQLite finds no damage."""
    told = plain.execute("PRAGMA integrity_check").fetchall()
    assert told == [("ok",)], told[:3]


def _assert_sound(storage, plain):
    """SQLite finds no damage, and no job is there by halves."""
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
    """Tags, ties and failures are those of the jobs that are there."""
    tags = {(record.id, tag) for record in records for tag in record.tags}
    assert set(plain.execute("SELECT job_id, tag FROM firelock_job_tags")) == tags
    ties = Counter(
        (edge.parent_id, record.id, edge.on.value) for record in records for edge in record.parents
    )
    assert Counter(plain.execute("SELECT parent_id, child_id, awaited FROM firelock_edges")) == ties
    waiting = {record.id for record in records if record.state is State.AWAITING}
    undecided = plain.execute("SELECT child_id FROM firelock_edges WHERE is_decided = 0")
    assert {child for (child,) in undecided} == waiting
    failures = {job for (job,) in plain.execute("SELECT job_id FROM firelock_attempt_errors")}
    assert failures == {record.id for record in records if record.error is not None}


def _work_on(storage):
    """Another process takes what waits, and stores more."""
    now, holder = storage.clock(), Holder("next", "next")
    storage.begin_session(NewSession("next", "next", "next", "host", 1, now, 3_600))
    ready = storage.counts().by_state.get(State.ENQUEUED, 0)
    claim = storage.claim(ClaimRequest(None, _MANY, "next", now))
    assert len(claim.jobs) == ready, (len(claim.jobs), ready)
    answers = storage.apply(
        [
            succeeded(job, holder, at=now, started_at=now, result=None, result_absent="none", expires_at=None)
            for job in claim.jobs
        ]
    )
    assert {*answers} <= {Applied.APPLIED, Applied.RELEASING}, answers
    more = [
        NewJob(f"more-{number}", "work", '{"seconds":0.0}', "json", "default", 0, State.ENQUEUED, now)
        for number in range(20)
    ]
    assert all(storage.insert(more).is_new)
    storage.release(_MANY)
    storage.promote(_MANY)


# ---- all of them -----------------------------------------------------------------------------------------


@attrs.define
class _Figures:
    commits: int = 0  # that the logs of sound copies had
    lost: int = 0  # of these, behind the damage
    jobs: int = 0  # on sound copies
    wrong: list[str] = attrs.field(factory=list)
    by_kind: Counter[str] = attrs.field(factory=Counter)
    in_file: Counter[str] = attrs.field(factory=Counter)

    def count(self, copy):
        """The copy is among them."""
        self.by_kind[copy.log] += 1
        if not copy.is_in_file:
            self.commits += len(copy.left.ends)
            self.lost += len(copy.left.steps) - copy.commits
            self.jobs += len(copy.left.states(copy.commits))


def main(url, folder, copies, commits, seed):
    """Return the figures of so many damaged copies, a few of each original."""
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
    """One damaged copy more is there, its writer's session is over; return the jobs that have not ended."""
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
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        figures.wrong.append(f"{copy}: {traceback.format_exc(limit=-3)}")


def _outcome(copy, path):
    """Return what became of a copy of which SQLite promises nothing: its log is older than its file."""
    try:
        with Firelock(f"sqlite:///{path}") as fire, closing(_plain(path)) as plain:
            fire.jobs.counts()
            if plain.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "integrity_check finds it"
            if digest(plain) in {step.digest for step in copy.left.steps}:
                return "as after a commit"
            return "a mixture that integrity_check does not find"
    except sqlite3.DatabaseError:
        return "integrity_check finds it"
    except StorageError as error:
        return f"refused: {error.__cause__}"


def _use(copy, path):
    """Verbs of all kinds find what they find, or say what is wrong with the file."""
    with Firelock(f"sqlite:///{path}") as fire:
        storage, now = fire.storage, 1
        session = NewSession("next", "next", "next", "host", 1, now, 3_600)
        job = NewJob("more", "work", "{}", "json", "default", 0, State.ENQUEUED, now)
        verbs = [
            storage.counts,
            lambda: storage.get(list(copy.left.states(_MANY))),
            lambda: storage.begin_session(session),
            lambda: storage.claim(ClaimRequest(None, 10, "next", now)),
            lambda: storage.insert([job]),
            lambda: storage.promote(10),
            lambda: storage.release(10),
            storage.diagnose,
        ]
        for verb in verbs:
            with suppress(StorageError):
                verb()
