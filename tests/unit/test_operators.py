"""`fire.jobs`, `fire.queues`, `fire.servers`: pages to look at, and one answer for each id acted on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firelock import Firelock, Retry
from firelock.errors import ConfigurationError, JobNotFound, ScheduleError, StorageError
from firelock.job import State
from firelock.operators import QueueView
from firelock.storage import Applied, NewSession, Renewal
from tests.unit.fakes import FailingStorage, Worker


@pytest.fixture
def fire():
    """An app over a storage that notes what is called."""
    with Firelock(FailingStorage()) as fire:
        yield fire


@pytest.fixture
def worker(fire):
    """Runs its jobs by hand."""
    return Worker(fire)


def add(a: int, b: int = 0) -> int:
    if a < 0:
        raise ValueError(f"no sum of {a}")
    return a + b


@pytest.fixture
def adding(fire):
    """A task that fails for negative numbers."""
    return fire.task(name="add", queue="sums", retry=Retry.never(), tags=["a:{a}"])(add)


# ---- looking ---------------------------------------------------------------------------------------------


def test_a_job_is_found_by_its_id(fire, adding):
    """By coroutine too."""
    job = adding.enqueue(1)

    assert job == fire.jobs.get(job.id) == asyncio.run(fire.jobs.aget(job.id))


@pytest.mark.parametrize("job_id", ["", "nobody", "x" * 10_000, "'; drop table job; --", 7, None])
def test_an_unknown_id_is_not_found(fire, job_id):
    """Whatever it looks like, it is an id that is not stored."""
    with pytest.raises(JobNotFound, match="is not stored: the id is wrong, or the job has been pruned"):
        fire.jobs.get(job_id)


def test_jobs_are_found_by_what_they_are(fire, adding, worker):
    """Each filter alone, and all together."""
    other = fire.task(name="other")(lambda: None).using(tags=["x"]).enqueue()
    bad, good = adding.enqueue(-1), adding.enqueue(1)
    worker.run()
    waiting = adding.enqueue(2)
    fingerprint = bad.refresh().error.fingerprint

    def found(**filters):
        return list(fire.jobs.find(**filters))

    assert [waiting, good, bad, other] == found()
    assert [bad] == found(state="failed") == found(fingerprint=fingerprint) == found(tag="a:-1")
    assert [other] == found(task="other") == found(queue="default") == found(tag="x")
    assert [good, bad, other] == found(server="host:a")
    assert [waiting] == found(id_prefix=waiting.id[:36])
    assert [waiting] == found(state="enqueued", task="add", queue="sums", tag="a:2")
    assert [] == found(state="enqueued", task="other")
    assert [waiting, good] == list(asyncio.run(fire.jobs.afind(task="add", limit=2)))


def test_jobs_are_found_by_the_recurring_job_that_made_them(fire, adding):
    """A trigger's job belongs to its definition."""
    adding.recur("nightly", "0 2 * * *", 1)
    made = fire.recurring.trigger("nightly")
    adding.enqueue(1)

    assert [made] == list(fire.jobs.find(recurring="nightly"))


def test_jobs_are_found_by_their_time(fire, adding):
    """From `since` to before `until`, both aware."""
    job = adding.enqueue(1)
    at = job.created_at

    assert [job] == list(fire.jobs.find(since=at, until=at + timedelta(microseconds=1)))
    assert [] == list(fire.jobs.find(until=at))
    with pytest.raises(ScheduleError, match="no time zone"):
        fire.jobs.find(since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_pages_follow_each_other(fire, adding):
    """A cursor opens the next page, in either direction; the last page has none."""
    jobs = adding.enqueue_many([(number,) for number in range(5)])

    first = fire.jobs.find(limit=2, oldest_first=True)
    second = fire.jobs.find(limit=2, oldest_first=True, cursor=first.cursor)
    third = fire.jobs.find(limit=2, oldest_first=True, cursor=second.cursor)

    assert [jobs[:2], jobs[2:4], jobs[4:]] == [first.jobs, second.jobs, third.jobs]
    assert (2, None) == (len(first), third.cursor)


@pytest.mark.parametrize("limit", [0, 501, -1, True, 1.5, "5", None])
def test_a_page_has_1_to_500_jobs(fire, limit):
    """The message shows the limit that was given."""
    with pytest.raises(ConfigurationError, match=r"limit=.* is refused; a page holds 1 to 500 jobs"):
        fire.jobs.find(limit=limit)


def test_an_unknown_state_is_refused(fire):
    """The message names the seven."""
    with pytest.raises(
        ConfigurationError, match="state='running' is unknown; use one of awaiting, scheduled, enq"
    ):
        fire.jobs.find(state="running")


def test_a_bad_cursor_is_refused(fire):
    """It belongs to another filter, or to nobody."""
    with pytest.raises(StorageError):
        fire.jobs.find(cursor="nonsense")


def test_jobs_are_counted(fire, adding, worker):
    """By state and queue, by coroutine too."""
    adding.enqueue_many([(1,), (-1,), (2,)])
    worker.run()
    adding.enqueue(3)

    counts = fire.jobs.counts()

    assert {State.SUCCEEDED: 2, State.FAILED: 1, State.ENQUEUED: 1} == dict(counts.by_state)
    assert {"sums"} == set(counts.by_queue)
    assert counts == asyncio.run(fire.jobs.acounts())


# ---- acting on many --------------------------------------------------------------------------------------


def test_many_are_requeued_with_an_answer_each(fire, adding, worker):
    """What its state does not allow is refused, what is not stored is missing; the others are enqueued."""
    done = adding.enqueue(1)
    worker.run()
    waiting = adding.enqueue(2)

    results = fire.jobs.requeue([done.id, waiting.id, "nobody"], reason="deployed a fix")

    assert [Applied.APPLIED, Applied.REFUSED, Applied.MISSING] == results
    assert (State.ENQUEUED, "deployed a fix") == (done.refresh().state, done.refresh().reason)


def test_many_are_deleted_with_an_answer_each(fire, adding):
    """A deleted one is refused; children are decided at once."""
    gone, parent = adding.enqueue(1), adding.enqueue(2)
    gone.delete()
    child = parent.then(adding, 3)

    results = fire.jobs.delete([gone.id, parent.id], reason="tenant left")

    assert [Applied.REFUSED, Applied.RELEASING] == results
    assert ("tenant left", State.DELETED) == (parent.refresh().reason, child.refresh().state)


def test_many_are_acted_on_500_at_a_time(fire, adding):
    """However many ids, no call of the storage is large; coroutines do the same."""
    jobs = adding.enqueue_many([(number,) for number in range(1_100)])

    results = asyncio.run(fire.jobs.adelete([job.id for job in jobs]))
    again = asyncio.run(fire.jobs.arequeue([job.id for job in jobs]))

    assert ({Applied.APPLIED}, 1_100, {Applied.APPLIED}) == (set(results), len(again), set(again))
    assert [500, 500, 100] * 2 == [len(transitions) for (transitions,) in fire.storage.called["apply"]]


def test_none_are_many(fire):
    """An empty list asks nothing of the storage."""
    assert ([], []) == (fire.jobs.requeue([]), fire.jobs.delete([]))
    assert [] == fire.storage.called["apply"]


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_ids_are_a_list_of_texts(fire, adding, verb):
    """A single id would be taken apart; a handle is not its id."""
    job = adding.enqueue(1)
    act = getattr(fire.jobs, verb)

    for ids in (job.id, b"x"):
        with pytest.raises(ConfigurationError, match=r"ids=.* is one text; pass a list of ids"):
            act(ids)
    for ids in ([job], [7], [None]):
        with pytest.raises(ConfigurationError, match=r"is no id; pass texts, such as job\.id"):
            act(ids)
    with pytest.raises(ConfigurationError, match=r"ids=7 is no list of ids"):
        act(7)

    assert State.ENQUEUED is job.refresh().state


# ---- queues ----------------------------------------------------------------------------------------------


def test_queues_show_what_they_hold(fire, adding, worker):
    """Every queue that has jobs or settings, in order of name."""
    adding.enqueue_many([(1,), (2,), (3,)])
    adding.schedule(300, 4)
    worker.claim(1)
    before = datetime.now(UTC) - timedelta(minutes=1)
    fire.queues.pause("bulk", note="until Monday", by="ada")

    paused_at = fire.queues.list()[0].paused_at
    assert paused_at > before
    assert [
        QueueView("bulk", 0, 0, 0, True, "until Monday", "ada", paused_at),
        QueueView("sums", 2, 1, 1, False, None),
    ] == fire.queues.list()
    assert fire.queues.list() == asyncio.run(fire.queues.alist())


def test_a_paused_queue_is_not_claimed(fire, adding, worker):
    """Until it is resumed; its jobs stay where they are."""
    adding.enqueue(1)

    fire.queues.pause("sums")
    while_paused = worker.run()
    fire.queues.resume("sums")
    after = worker.run()

    assert (0, 1) == (len(while_paused), len(after))
    assert [QueueView("sums", 0, 0, 0, False, None)] == fire.queues.list()


def test_coroutines_pause_and_resume(fire):
    """With a note as well."""

    async def use():
        await fire.queues.apause("bulk", note="x")
        paused = await fire.queues.alist()
        await fire.queues.aresume("bulk")
        return paused + await fire.queues.alist()

    assert [(True, "x"), (False, None)] == [(view.is_paused, view.note) for view in asyncio.run(use())]


def test_more_queues_than_a_page(fire):
    """Settings are read page by page."""
    for number in range(501):
        fire.queues.pause(f"queue-{number:03}")

    assert 501 == len(fire.queues.list())


@pytest.mark.parametrize("name", ["", "A", "a b", "x" * 65, None, 7])
def test_a_queue_has_a_name(fire, name):
    """A name that no job can have is refused, and nothing is written."""
    for verb in (fire.queues.pause, fire.queues.resume):
        with pytest.raises(ConfigurationError, match=r"Queue name .* is refused"):
            verb(name)

    assert [] == fire.queues.list()


# ---- servers ---------------------------------------------------------------------------------------------


def session(id, server_id="server-a", **fields):
    """A session of a server, with these fields changed."""
    given = {"workers": 4, "queues": "critical", "started_at": 0, "timeout_seconds": 30.0, **fields}
    return NewSession(id, server_id, f"host:{server_id}", "host", 7, **given)


def test_a_server_is_the_sum_of_its_sessions(fire):
    """Workers and busy ones of those that live; dead ones are shown, not counted."""
    for name in ("one", "two", "three"):
        fire.storage.begin_session(session(name))
    fire.storage.begin_session(session("other", "server-b"))
    fire.storage.renew([Renewal("one", 3), Renewal("two", 2), Renewal("three", 4)])
    fire.storage.end_session("three", (), reason="server stopped")
    fire.storage.end_session("other", (), reason="server stopped")

    servers = {server.id: server for server in fire.servers.list()}

    one, other = servers["server-a"], servers["server-b"]
    assert ("host:server-a", "host", "critical", 8, 5, True, 3) == (
        one.name, one.host, one.queues, one.workers, one.busy, one.is_alive, len(one.sessions)
    )  # fmt: skip
    assert datetime(1970, 1, 1, tzinfo=UTC) == one.started_at
    assert (0, 0, False) == (other.workers, other.busy, other.is_alive)
    assert list(servers.values()) == asyncio.run(fire.servers.alist())


@pytest.mark.parametrize("order", ["quiet", "resume", "stop"])
def test_a_server_is_told(fire, order):
    """The order waits for the server's next heartbeat."""
    fire.servers.tell("server-a", order)

    assert f'"{order}"' == fire.storage.get_record("server_order", "server-a").value


def test_an_unknown_order_is_refused(fire):
    """The message names the three there are."""
    with pytest.raises(ConfigurationError, match="Order 'restart' is unknown; use quiet, resume or stop"):
        fire.servers.tell("server-a", "restart")

    assert fire.storage.get_record("server_order", "server-a") is None
