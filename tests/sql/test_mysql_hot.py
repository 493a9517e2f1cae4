"""The hot path on MariaDB: few round trips, and the same ends as by the long way."""

from __future__ import annotations

from contextlib import closing

import attrs
import pytest

from firelock import Firelock, State
from firelock.storage import (
    Applied,
    ClaimRequest,
    ErrorInfo,
    NewJob,
    NewSession,
    StorageUnavailable,
    Transition,
)
from tests.faults.proxy import FaultProxy

NOW = 1_700_000_000_000_000
SESSION = NewSession(
    id="s", server_id="one", server="one:1", host="here", pid=1, started_at=NOW, timeout_seconds=600.0,
    workers=1, queues="mail", version="1",
)  # fmt: skip
MOST = 100


@pytest.fixture
def proxy(mariadb):
    """A proxy that counts, before the server."""
    with FaultProxy(mariadb.server.address) as proxy:
        yield proxy


@pytest.fixture
def storage(mariadb, proxy):
    """An empty storage behind the proxy, in touch with it, and a session."""
    with closing(Firelock(mariadb.url(port=proxy.port))) as fire:
        fire.storage.clear()
        fire.storage.begin_session(SESSION)
        yield fire.storage


@pytest.fixture
def stranger(mariadb):
    """The same storage in another process: it has claimed nothing."""
    with closing(Firelock(mariadb.url())) as fire:
        yield fire.storage


def job(id, **fields):
    """A job of that id."""
    return NewJob(
        id=id, task="send", arguments="[]", serializer="json", queue="mail", priority=0, created_at=NOW,
        state=State.ENQUEUED, **fields,
    )  # fmt: skip


def jobs(number):
    """So many jobs."""
    return [job(f"job-{place:03d}") for place in range(number)]


def success(claimed, at=NOW + 5):
    """The end of a claimed job whose task returned."""
    return Transition(
        claimed.id, frozenset({State.PROCESSING}), "s", claimed.fence, State.SUCCEEDED, at,
        attempt=claimed.attempt, claimed_at=claimed.claimed_at, started_at=at - 1, server="one:1",
        result='"done"', expires_at=at + 100,
    )  # fmt: skip


def failure(claimed):
    """The end of a claimed job whose task raised."""
    error = ErrorInfo("ValueError", "no", "print", "Traceback")
    return attrs.evolve(success(claimed), to=State.FAILED, reason="no", result=None, error=error)


def claim(storage, number=MOST):
    """So many jobs, claimed."""
    return storage.claim(ClaimRequest(["mail"], number, "s", NOW + 1)).jobs


@pytest.mark.parametrize("number", [1, 500])
def test_an_enqueue_is_one_round_trip(storage, proxy, number):
    """A transaction begins, stores the jobs, however many, counts them and commits."""
    before = proxy.traffic

    storage.insert(jobs(number))

    assert (proxy.traffic - before).trips == 1


AWKWARD = ["'", '"', "\\", "%s", "%", ";", "", " ", "é\n", "\N{SKULL}", "@x", "NULL"]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("is_alike", [True, False], ids=["alike", "each its own"])
def test_any_text_is_stored_as_it_is(storage, text, is_alike):
    """Whether it is told once for the whole batch or for each job: nothing in it ends it, or is nothing."""
    batch = [
        attrs.evolve(one, task=f"task{text}", arguments=f"{text}{place}", queue=f"mail{text}",
                     priority=0 if is_alike else place)
        for place, one in enumerate(jobs(3))
    ]  # fmt: skip

    storage.insert(batch)

    claimed = sorted(
        storage.claim(ClaimRequest([f"mail{text}"], MOST, "s", NOW + 1)).jobs, key=lambda one: one.id
    )
    assert [(one.id, one.task, one.arguments, one.priority) for one in claimed] == [
        (one.id, one.task, one.arguments, one.priority) for one in batch
    ]
    assert storage.counts().by_queue == {f"mail{text}": {State.PROCESSING: 3}}


@pytest.mark.parametrize("queues", [["mail"], None], ids=["one queue", "every queue"])
def test_an_exchange_is_two_round_trips(storage, proxy, queues):
    """A hundred jobs are settled and the next hundred found; these are taken, and all is committed."""
    storage.insert(jobs(3 * MOST))
    claimed = claim(storage)
    storage.exchange(
        [success(claimed.pop())], ClaimRequest(queues, 1, "s", NOW + 9)
    )  # which queues have work is learnt
    before = proxy.traffic

    exchange = storage.exchange([success(one) for one in claimed], ClaimRequest(queues, MOST, "s", NOW + 9))

    assert set(exchange.results) == {Applied.APPLIED}
    assert len(exchange.claim.jobs) == MOST
    assert (proxy.traffic - before).trips == 2


@pytest.mark.parametrize("queues", [["mail"], ["mail", "other"], None], ids=str)
def test_a_look_that_finds_nothing_is_one_round_trip(storage, proxy, queues):
    """An idle server asks no more than it has to."""
    before = proxy.traffic

    assert storage.claim(ClaimRequest(queues, MOST, "s", NOW + 1)).jobs == []

    assert (proxy.traffic - before).trips == 1


@pytest.mark.parametrize("queues", [["a", "b"], ["b", "a"], None], ids=str)
def test_a_guess_of_the_queues_that_was_wrong_costs_nothing_but_time(storage, queues):
    """Work is found in whichever queue it appears, but for those that were not asked for."""
    found = []
    for number, queue in enumerate(["b", "a", "b", "c"]):
        storage.insert([attrs.evolve(job(f"{queue}{number}"), queue=queue)])
        found += [one.id for one in storage.claim(ClaimRequest(queues, MOST, "s", NOW + 1)).jobs]

    assert found == ["b0", "a1", "b2", "c3"][: 3 if queues else 4]


def test_more_queues_than_are_guessed_cost_no_questions_for_nothing(storage, proxy):
    """Each of very many is asked for by itself; none of them twice."""
    storage.insert([attrs.evolve(one, queue=f"q{place:02}") for place, one in enumerate(jobs(40))])
    first = storage.claim(ClaimRequest(None, 1, "s", NOW + 1)).jobs
    before = proxy.traffic

    storage.exchange([success(first[0])], ClaimRequest(None, 1, "s", NOW + 2))

    assert (proxy.traffic - before).trips <= 1 + 40 + 1 + 1  # all else, each queue, its job, the end
    assert (proxy.traffic - before).sent < 18_000  # a question each, not two


@pytest.mark.parametrize("queues", [["mail"], None], ids=str)
def test_nothing_is_taken_that_was_not_asked_for(storage, queues):
    """No job beside ends where none is wanted, and none of a queue that was paused since its last claim."""
    storage.insert(jobs(5))
    first, second = (
        claim(storage, 1),
        storage.claim(ClaimRequest(None, 1, "s", NOW + 2)).jobs,
    )  # its queue is known now

    nothing = storage.exchange([success(first[0])], ClaimRequest(queues, 0, "s", NOW + 3))
    storage.put_record("queue", "mail", '{"paused": true}')
    paused = storage.exchange([success(second[0])], ClaimRequest(queues, 5, "s", NOW + 4))

    assert (nothing.claim.jobs, paused.claim.jobs) == ([], [])
    assert storage.counts().by_state == {State.SUCCEEDED: 2, State.ENQUEUED: 3}


def test_an_end_from_memory_is_the_one_that_reading_would_have_written(storage, stranger):
    """One process settles what it claimed, another one what it has to read first; nobody can tell."""
    storage.insert([job("a"), job("b")])
    first, second = claim(storage)

    storage.apply([success(first)])
    stranger.apply([success(second)])

    one, other = storage.get(["a", "b"])
    assert attrs.evolve(one, id="b") == other
    assert storage.history("a").entries == storage.history("b").entries
    assert one.state is State.SUCCEEDED
    assert storage.counts().by_state == {State.SUCCEEDED: 2}


def test_plain_ends_and_others_may_come_in_one_batch(storage):
    """Results stand in the order of the transitions, whichever way each one went."""
    storage.insert(jobs(4))
    first, second, third, fourth = claim(storage)

    results = storage.apply([failure(second), success(fourth), success(first), failure(third)])

    assert results == [Applied.APPLIED] * 4
    assert storage.counts().by_state == {State.SUCCEEDED: 2, State.FAILED: 2}


# ---- lost connections ------------------------------------------------------------------------------------


def test_an_enqueue_whose_answer_is_lost_is_told(storage, proxy):
    """It has been stored; whether it was new then, nobody can tell."""
    proxy.lose_reply()

    with pytest.raises(StorageUnavailable, match="the jobs may have been stored"):
        storage.insert([job("a"), job("b")])

    assert storage.counts().by_state == {State.ENQUEUED: 2}
    assert storage.insert([job("a"), job("b")]).is_new == [False, False]


def test_an_enqueue_that_is_lost_on_its_way_is_done_again(storage, proxy):
    """It was not stored: nobody has to know."""
    proxy.lose_request()

    assert storage.insert([job("a"), job("b")]).is_new == [True, True]

    assert storage.counts().by_state == {State.ENQUEUED: 2}
    assert proxy.lost == 1


@pytest.mark.parametrize("lose", [FaultProxy.lose_request, FaultProxy.lose_reply], ids=["request", "answer"])
def test_an_exchange_that_is_cut_off_before_its_end_is_done_again(storage, proxy, lose):
    """What was settled in its first round trip was undone with the connection."""
    storage.insert(jobs(4))
    first = claim(storage, 2)
    lose(proxy)

    exchange = storage.exchange([success(one) for one in first], ClaimRequest(["mail"], 2, "s", NOW + 9))

    assert exchange.results == [Applied.APPLIED] * 2
    assert [one.attempt for one in exchange.claim.jobs] == [1, 1]
    assert storage.counts().by_state == {State.SUCCEEDED: 2, State.PROCESSING: 2}
    assert proxy.lost == 1


def test_a_change_whose_commit_is_lost_is_left_to_the_caller(storage, proxy):
    """It may have happened or not, and is not done twice behind anybody's back."""
    storage.insert([job("a")])
    turns = iter([False, True])  # it is read, and then deleted; the line is encrypted, so turns are counted
    proxy.lose_reply(lambda _: next(turns, False))

    with pytest.raises(StorageUnavailable):
        storage.apply(
            [Transition("a", frozenset({State.ENQUEUED}), None, None, State.DELETED, NOW, "by hand")]
        )

    assert storage.counts().by_state == {State.DELETED: 1}
