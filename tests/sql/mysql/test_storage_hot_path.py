"""The hot path on MariaDB: few round trips, and the same ends as the slow path."""

from __future__ import annotations

import attrs
import pytest

from firelock import State
from firelock.storage import Applied, StorageUnavailable
from firelock.testing.conformance.scene import Running, deletes, hands_back, succeeds
from tests.faults.proxy import FaultProxy
from tests.scenes import scene_at

MOST = 100


@pytest.fixture
def proxy(mariadb):
    """A counting proxy in front of the server."""
    with FaultProxy(mariadb.server.address) as proxy:
        yield proxy


@pytest.fixture
def scene(mariadb, proxy):
    """An empty storage that is connected through the proxy."""
    with scene_at(mariadb.url(port=proxy.port)) as scene:
        yield scene


@pytest.fixture
def holder(scene):
    """A session that claims jobs."""
    return scene.begin()


def ends(holder, claimed):
    """Return the successful ends of claimed jobs."""
    return [succeeds(Running(job, holder)) for job in claimed]


@pytest.mark.parametrize("number", [1, 500])
def test_enqueue_takes_one_round_trip(scene, proxy, number):
    """One round trip begins a transaction, stores any number of jobs, counts them and commits."""
    jobs = [scene.new_job() for _ in range(number)]
    before = proxy.traffic

    scene.storage.insert(jobs)

    assert (proxy.traffic - before).trips == 1


AWKWARD = ["'", '"', "\\", "%s", "%", ";", "", " ", "é\n", "\N{SKULL}", "@x", "NULL"]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("is_alike", [True, False], ids=["alike", "each its own"])
def test_any_string_is_stored_unchanged(scene, holder, text, is_alike):
    """Some values are sent once for all jobs, and others are sent for each job.

    No character ends the string early, and no string is stored as NULL.
    """
    batch = [
        scene.new_job(task=f"task{text}", arguments=f"{text}{place}", queue=f"mail{text}",
                      priority=0 if is_alike else place, created_at=1)
        for place in range(3)
    ]  # fmt: skip

    scene.storage.insert(batch)

    claimed = sorted(scene.claim(holder, queues=[f"mail{text}"]), key=lambda one: one.id)
    assert [(one.id, one.task, one.arguments, one.priority) for one in claimed] == [
        (one.id, one.task, one.arguments, one.priority) for one in batch
    ]
    assert scene.storage.counts().by_queue == {f"mail{text}": {State.PROCESSING: 3}}


@pytest.mark.parametrize("queues", [["default"], None], ids=["one queue", "every queue"])
def test_exchange_takes_two_round_trips(scene, holder, proxy, queues):
    """The first round trip settles a hundred jobs and finds the next hundred.

    The second one claims these jobs and commits.
    """
    scene.add_many(3 * MOST)
    claimed = ends(holder, scene.claim(holder, MOST))
    scene.exchange(holder, [claimed.pop()], 1, queues)  # the storage remembers which queues have jobs
    before = proxy.traffic

    exchange = scene.exchange(holder, claimed, MOST, queues)

    assert set(exchange.results) == {Applied.APPLIED}
    assert len(exchange.claim.jobs) == MOST
    assert (proxy.traffic - before).trips == 2


def test_hand_back_does_not_read_the_clock(scene, holder, proxy):
    """The time is not needed, because the jobs keep their positions in the queue.

    The jobs are only read and written.
    """
    scene.add_many(MOST)
    back = [hands_back(Running(job, holder)) for job in scene.claim(holder, MOST)]
    before = proxy.traffic

    results = scene.storage.apply(back)

    assert set(results) == {Applied.APPLIED}
    assert (proxy.traffic - before).trips == 2


@pytest.mark.parametrize("queues", [["mail"], ["mail", "other"], None], ids=str)
def test_claim_that_finds_nothing_takes_one_round_trip(scene, holder, proxy, queues):
    """An idle server does not send any unnecessary queries."""
    before = proxy.traffic

    assert scene.claim(holder, queues=queues) == []

    assert (proxy.traffic - before).trips == 1


@pytest.mark.parametrize("queues", [["a", "b"], ["b", "a"], None], ids=str)
def test_wrong_guess_of_queues_still_finds_all_jobs(scene, holder, queues):
    """Jobs are found whichever queues contain them, but only in the requested queues."""
    found = []
    for queue in "babc":
        scene.add(queue=queue)
        found += [one.queue for one in scene.claim(holder, queues=queues)]

    assert found == list("babc")[: 3 if queues else 4]


def test_many_queues_are_each_read_once(scene, holder, proxy):
    """If there are very many queues, they are read separately, and none of them is read twice."""
    scene.storage.insert([scene.new_job(queue=f"q{place:02}") for place in range(40)])
    first = ends(holder, scene.claim(holder, 1, None))
    before = proxy.traffic

    scene.exchange(holder, first, 1, None)

    assert (proxy.traffic - before).trips <= 1 + 40 + 1 + 1  # the rest, each queue, its job, and the end
    assert (proxy.traffic - before).sent < 18_000  # one query per queue, not two


@pytest.mark.parametrize("queues", [["default"], None], ids=str)
def test_exchange_claims_only_the_requested_jobs(scene, holder, queues):
    """An exchange with a limit of 0 does not claim any jobs.

    If a queue was paused in the meantime, no job is claimed from it.
    """
    scene.add_many(5)
    # the storage remembers the queue
    first, second = (ends(holder, scene.claim(holder, 1, of)) for of in (["default"], None))

    nothing = scene.exchange(holder, first, 0, queues)
    scene.storage.put_record("queue", "default", '{"paused": true}')
    paused = scene.exchange(holder, second, 5, queues)

    assert (nothing.claim.jobs, paused.claim.jobs) == ([], [])
    assert scene.by_state() == {State.SUCCEEDED: 2, State.ENQUEUED: 3}


def test_end_without_a_read_equals_one_after_a_read(scene, holder):
    """Only the process that has claimed a job can settle it without reading it first.

    The stored outcomes are equal.
    """
    scene.add_many(2, created_at=1)
    first, second = ends(holder, scene.claim(holder))
    second = attrs.evolve(second, at=first.at, started_at=first.started_at)

    scene.storage.apply([first])
    scene.handles.open().apply([second])

    one, other = scene.storage.get([first.job_id, second.job_id])
    assert attrs.evolve(one, id=other.id) == other
    assert scene.history(one.id) == scene.history(other.id)
    assert scene.by_state() == {State.SUCCEEDED: 2}


# ---- lost connections ------------------------------------------------------------------------------------


def test_enqueue_with_a_lost_reply_raises_an_error(scene, proxy):
    """The jobs were stored, but it is unknown whether they were new."""
    jobs = [scene.new_job(), scene.new_job()]
    proxy.lose_reply()

    with pytest.raises(StorageUnavailable, match="the jobs may have been stored"):
        scene.storage.insert(jobs)

    assert scene.by_state() == {State.ENQUEUED: 2}
    assert scene.storage.insert(jobs).is_new == [False, False]


def test_enqueue_that_was_not_received_is_repeated(scene, proxy):
    """The jobs were not stored, so the call is repeated, and the caller gets no error."""
    jobs = [scene.new_job(), scene.new_job()]
    proxy.lose_request()

    assert scene.storage.insert(jobs).is_new == [True, True]

    assert scene.by_state() == {State.ENQUEUED: 2}
    assert proxy.lost == 1


@pytest.mark.parametrize("lose", [FaultProxy.lose_request, FaultProxy.lose_reply], ids=["request", "answer"])
def test_interrupted_exchange_is_repeated(scene, holder, proxy, lose):
    """The outcomes that the first round trip stored were rolled back when the connection was lost."""
    scene.add_many(4)
    first = ends(holder, scene.claim(holder, 2))
    lose(proxy)

    exchange = scene.exchange(holder, first, 2)

    assert exchange.results == [Applied.APPLIED] * 2
    assert [one.attempt for one in exchange.claim.jobs] == [1, 1]
    assert scene.by_state() == {State.SUCCEEDED: 2, State.PROCESSING: 2}
    assert proxy.lost == 1


def test_change_with_a_lost_commit_is_not_repeated(scene, proxy):
    """The change might have been committed, so repeating it silently would be wrong."""
    job = scene.add()
    # the job is read and then deleted; the connection is encrypted, so replies are counted
    turns = iter([False, True])
    proxy.lose_reply(lambda _: next(turns, False))

    with pytest.raises(StorageUnavailable):
        scene.storage.apply([deletes(job)])

    assert scene.by_state() == {State.DELETED: 1}
