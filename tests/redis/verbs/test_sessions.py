"""Sessions in Redis: an end reaches every partition in bounded script calls, even after an interruption."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.model.clock import SECOND
from firelock.model.lifecycle import Moved
from firelock.storage import ClaimRequest, NewSession, Renewal, State, StorageUnavailable
from firelock.testing.conformance.scene import DAY
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.connections.url import parse_url
from firelock_redis.storage import RedisStorage
from tests.redis.databases import keys_of
from tests.scenes import scene_at

PARTITIONS = 4
OPTIONS = f"partitions={PARTITIONS}"
AT_ONCE = 400  # jobs that one script call of an end takes


class Interrupted(RedisDatabase):
    """A database in which the end of a session cannot reach the partitions from `first_away` on.

    A session can also be renewed directly after a sweep has found it expired.
    """

    first_away = PARTITIONS
    renewed_late: str | None = None

    def run(self, name, partition, *arguments):
        """Run the script unless the partition is unreachable; see `RedisDatabase.run`."""
        if name == "sessions.take" and partition >= self.first_away:
            raise StorageUnavailable("that node is away")
        reply = super().run(name, partition, *arguments)
        if name == "leases.orphans" and self.renewed_late is not None:
            assert [True] == RedisStorage(self).renew([Renewal(self.renewed_late)])
        return reply


@pytest.fixture
def database(server):
    """An empty database with several partitions."""
    server.empty()
    return Interrupted(parse_url(server.socket_url(OPTIONS)))


@pytest.fixture
def storage(database):
    """The storage in the database."""
    with closing(RedisStorage(database)) as storage:
        yield storage


@pytest.fixture
def scene(server, request):
    """An empty storage, with several partitions unless the test sets options."""
    server.empty()
    with scene_at(server.socket_url(getattr(request, "param", OPTIONS))) as scene:
        yield scene


alone = pytest.mark.parametrize("scene", [""], indirect=True)
alone_and_parted = pytest.mark.parametrize("scene", ["", OPTIONS], ids=["alone", "parted"], indirect=True)


def session(name="a", timeout_seconds=3_600.0):
    """Return a new session."""
    return NewSession(name, "server", "host:1", "host", 1, 5, timeout_seconds)


def a_job_in_each_partition(scene, number=PARTITIONS):
    """Store a job in each partition; return their ids."""
    jobs = [scene.new_job(id=f"{place:030x}-{place:02x}") for place in range(number)]
    scene.storage.insert(jobs)
    return [job.id for job in jobs]


def partition(id):
    """Return the partition in the id."""
    return id[-2:]


def alive_in(database, name="a"):
    """Return the value of the session's life in each partition."""
    return [
        database.connections.call("HGET", f"{base}:s:{name}", "alive") for base in database.partitions.bases
    ]


def all_claimed(scene):
    """Return every job of the default queue in the order of the claims."""
    heir, jobs = scene.begin("heir"), []
    while some := scene.claim(heir, 500):
        jobs += some
    return jobs


# ---- begin and end in every partition ----------------------------------------------------------------------


def test_late_begin_does_not_revive_an_ended_session(database, storage):
    """The session does not become alive if its begin arrives in a partition after its end."""
    storage.begin_session(session())
    storage.end_session("a", None, reason="killed")

    database.run("sessions.admit", 2, "a", '"host:1"')
    storage.begin_session(session())

    assert ["0"] * PARTITIONS == alive_in(database)


def test_marks_of_dead_sessions_expire(database, storage):
    """The mark in other partitions expires a day after the first partition has deleted its own mark."""
    storage.begin_session(session())

    storage.end_session("a", None, reason="killed")

    lives = [database.connections.call("TTL", f"{base}:s:a") for base in database.partitions.bases]
    assert -1 == lives[0]
    assert all(DAY // SECOND < seconds <= 2 * DAY // SECOND for seconds in lives[1:])


# ---- interrupted ends --------------------------------------------------------------------------------------


def test_unfinished_end_is_finished_by_a_sweep(database, scene, server, storage):
    """If ending a session is interrupted, the session is dead.

    A later sweep returns the remaining jobs with the same reason.
    """
    ids = a_job_in_each_partition(scene)
    holder = scene.begin()
    scene.claim(holder, len(ids))
    database.clock_offset = scene.storage.clock_offset
    database.first_away = 2
    with pytest.raises(StorageUnavailable):
        storage.end_session(holder.session, [ids[3]], reason="killed by signal 9")

    too_early = scene.storage.orphans(10)
    held = [scene.state(id) for id in ids]
    (closing,) = scene.storage.list_sessions()
    scene.advance(11)
    (taken,) = scene.storage.orphans(10)
    (ended,) = scene.storage.list_sessions()

    assert [(False, True), (False, False)] == [(one.is_alive, one.is_closing) for one in (closing, ended)]
    assert ([], [State.ENQUEUED] * 2 + [State.PROCESSING] * 2) == (too_early, held)
    assert (holder.server, [ids[3]], [ids[2]]) == (taken.server, taken.crashed, taken.returned)
    assert ["killed by signal 9", Moved.NOT_STARTED] == [
        scene.record(ids[3]).reason,
        scene.record(ids[2]).reason,
    ]
    assert ([], [1, 0]) == (
        scene.storage.orphans(10),
        [scene.record(ids[3]).crashes, scene.record(ids[2]).crashes],
    )
    assert "ending" not in keys_of(server)
    mark = server.client().hkeys(f"{database.partitions.bases[0]}:s:{holder.session}")
    assert {"running", "reason"}.isdisjoint(mark)


def test_repeated_end_continues_an_interrupted_one(database, storage):
    """A second call ends the session completely, even if it blames other jobs. A third call does nothing."""
    storage.begin_session(session())
    database.first_away = 1
    with pytest.raises(StorageUnavailable):
        storage.end_session("a", ["x"], reason="killed")
    database.first_away = PARTITIONS

    again = storage.end_session("a", None, reason="other")
    third = storage.end_session("a", None, reason="other")

    assert (("host:1", [], []), "") == ((again.server, again.crashed, again.returned), third.server)
    assert ["0"] * PARTITIONS == alive_in(database)


def test_sweep_ends_other_sessions_if_one_fails(database, storage):
    """A sweep ends as many sessions as possible, and fails if it cannot end any.

    In either case, all of the sessions are dead.
    """
    for name in "ab":
        storage.begin_session(session(name))
    database.clock_offset = 4_000 * SECOND
    database.first_away = 3

    with pytest.raises(StorageUnavailable):
        storage.orphans(10)
    database.first_away = PARTITIONS
    database.clock_offset += 11 * SECOND
    swept = [taken.session for taken in storage.orphans(10)]

    assert ["a", "b"] == sorted(swept)
    assert [False, False] == [record.is_alive for record in storage.list_sessions()]


def test_session_renewed_during_a_sweep_is_not_ended(database, storage):
    """A session stays alive if it is renewed after the sweep has read it and before the sweep ends it."""
    storage.begin_session(session("a"))
    storage.begin_session(session("b"))
    database.clock_offset = 4_000 * SECOND
    database.renewed_late = "a"

    swept = [taken.session for taken in storage.orphans(10)]

    assert (["b"], ["1"] * PARTITIONS) == (swept, alive_in(database, "a"))


def test_stray_session_is_ended_in_other_partitions(scene, server):
    """If only the first partition has lost a session, the next pruning ends it in the other partitions."""
    ids = a_job_in_each_partition(scene)
    holder = scene.begin()
    scene.claim(holder, len(ids))
    with closing(RedisDatabase(parse_url(server.socket_url(OPTIONS)))) as database:
        database.connections.call("DEL", f"{database.partitions.bases[0]}:s:{holder.session}")

        scene.storage.prune(10)

        assert [None, "0", "0", "0"] == alive_in(database, holder.session)
    assert [State.ENQUEUED] * 4 == [scene.state(id) for id in ids]
    assert Moved.SESSION_LOST == scene.record(ids[2]).reason


def test_living_sessions_are_not_ended_as_strays(database, storage):
    """Pruning skips sessions that are alive in every partition, and sessions that another call is ending."""
    storage.begin_session(session("living"))
    storage.begin_session(session("ending"))
    database.first_away = 1
    with pytest.raises(StorageUnavailable):
        storage.end_session("ending", None, reason="killed")
    database.first_away = PARTITIONS

    storage.prune(10)

    assert ["1"] * PARTITIONS == alive_in(database, "living")
    assert ["0", "1", "1", "1"] == alive_in(database, "ending")


# ---- large numbers -----------------------------------------------------------------------------------------


@alone_and_parted
def test_session_with_many_jobs_is_ended_in_several_script_calls(scene, server):
    """One call returns more jobs than a script call can take, and nothing remains to be done."""
    number = 2 * AT_ONCE + 50
    ids = scene.add_many(number)
    holder = scene.begin()
    while scene.claim(holder, 500):
        pass
    running = ids[::3]

    taken = scene.storage.end_session(holder.session, running, reason="killed")

    assert (sorted(running), number) == (sorted(taken.crashed), len(taken.crashed) + len(taken.returned))
    assert number == scene.storage.counts().by_state[State.ENQUEUED]
    assert not {key for key in keys_of(server) if key.startswith(("ending", "held:", "running"))}
    order = [job.id for job in all_claimed(scene)]
    # each partition keeps the order of arrival
    assert sorted(ids, key=partition) == sorted(order, key=partition)


@alone_and_parted
def test_all_sessions_are_listed_across_pages(scene):
    """The list contains more sessions than one call returns, oldest first."""
    names = [f"{number:04}" for number in range(1_020)]
    for name in names:
        scene.begin(name)

    listed = scene.storage.list_sessions()

    assert [f"session-{name}" for name in names] == [record.session.id for record in listed]


@alone
def test_special_characters_of_a_session_are_read_back_unchanged(scene):
    """Ids, names and reasons may contain quotes, tabs and line ends."""
    special = 'a"\\\t\né'
    scene.storage.begin_session(NewSession("a", special, special, special, 1, 5, 60.0, 1, special, special))
    job = scene.new_job(id=special)
    scene.storage.insert([job])
    scene.storage.claim(ClaimRequest(["default"], 1, "a", 5))

    taken = scene.storage.end_session("a", [special], reason=special)

    assert (special, [special], special) == (taken.server, taken.crashed, scene.record(special).reason)
    assert special == scene.storage.list_sessions()[0].session.server
