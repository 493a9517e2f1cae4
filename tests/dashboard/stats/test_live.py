"""Live updates: one reading per second for any number of listeners, and the events that they get."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta

import pytest

from firelock import Firelock
from firelock.errors import StorageUnavailable
from firelock.storage import DURATION_BUCKETS, Rollup
from firelock_dashboard import Dashboard
from firelock_dashboard.stats.live import Live
from tests.core.fakes import FailingStorage, until
from tests.dashboard.browser import Browser


@pytest.fixture
def storage():
    return FailingStorage()


@pytest.fixture
def fire(storage):
    """An app on a storage that fails when the test requires it."""
    fire = Firelock(storage)
    yield fire
    fire.close()


@pytest.fixture
def live(fire, tick):
    live = Live(fire, fire.jobs.counts, monotonic=tick)
    yield live
    live.close()


@pytest.fixture
def task(fire):
    return fire.task(name="send", queue="mail")(send)


def send(n: int) -> None:
    """A task's function."""


def read_once(live, tick, seconds=1.0):
    """Advance the clock and read the storage once; return the resulting events."""
    tick.at += seconds
    before = live._number  # noqa: SLF001
    live.read()
    return [(event.name, event.text) for event in live.after(before)]


def last_sample(events):
    return next(json.loads(text) for name, text in reversed(events) if name == "sample")


# ---- closing ---------------------------------------------------------------------------------------------


def test_close_waits_for_a_thread_that_is_starting(live, monkeypatch):
    """If the thread has been created but not started, `close` waits until the thread can be joined."""

    class ClosedMeanwhile(threading.Thread):
        def start(self):
            closings.append(pool.submit(live.close))
            # a `close` that does not wait for the start fails within this time
            wait(closings, timeout=0.1)
            super().start()

    closings = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # starts the pool's thread before `Thread` is patched
        monkeypatch.setattr(threading, "Thread", ClosedMeanwhile)
        live.join()
        monkeypatch.undo()
        closings[0].result(timeout=10)
    assert live.is_closed


# ---- samples ---------------------------------------------------------------------------------------------


def test_sample_contains_depths_and_rates_since_the_last_one(live, tick, task):
    """The first sample contains no rates.

    Later samples contain the numbers of jobs created and ended per second since the previous sample.
    """
    jobs = task.enqueue_many([(n,) for n in range(6)])
    first = last_sample(read_once(live, tick))
    for job in jobs[:4]:
        job.delete()

    second = last_sample(read_once(live, tick, 2.0))

    assert (6, 0, None) == (first["enqueued"], first["processing"], first["deleted"])
    assert (2, 2.0, 0.0) == (second["enqueued"], second["deleted"], second["created"])


def test_falling_total_has_a_rate_of_zero(live, tick, task):
    """A total falls, for example, if a requeue removes a job from it."""
    job = task.enqueue(1)
    job.delete()
    read_once(live, tick)
    job.requeue()

    assert 0.0 == last_sample(read_once(live, tick))["deleted"]


def test_pause_between_readings_is_a_gap(live, tick, task):
    """After a pause without readings, the rates are unknown instead of including the jobs of that pause."""
    read_once(live, tick)
    for job in task.enqueue_many([(n,) for n in range(50)]):
        job.delete()

    sample = last_sample(read_once(live, tick, 60.0))

    assert [None, None, None] == [sample["deleted"], sample["created"], sample["retried"]]


def test_retried_attempts_are_counted_from_rollups(live, tick, fire, storage):
    """No total includes retried attempts, so their rate comes from the rollups."""
    histogram = (0,) * len(DURATION_BUCKETS) + (1,)
    minute = fire.client.clock.now() // 60_000_000 * 60_000_000
    read_once(live, tick)
    read_once(live, tick)
    storage.record_metrics([Rollup(minute, "send", "mail", "retried", 6, 0, histogram)])

    assert 3.0 == last_sample(read_once(live, tick))["retried"]


def test_last_two_minutes_of_samples_are_kept(live, tick):
    """A page that is opened later shows at most the last 120 samples."""
    for _ in range(125):
        read_once(live, tick)

    assert 120 == len(live.samples())


# ---- changed topics --------------------------------------------------------------------------------------


def test_only_changed_topics_are_announced(live, tick, fire, task):
    """A topic has changed if its reading differs from the previous one."""
    first = read_once(live, tick)
    still = read_once(live, tick, 5.0)
    task.enqueue(1)
    moved = read_once(live, tick, 5.0)
    fire.queues.pause("mail", note="provider is down")
    read_once(live, tick, 5.0)
    paused = [text for name, text in read_once(live, tick, 5.0) if name == "moved"]

    assert [["sample"], ["sample"]] == [[name for name, _ in events] for events in (first, still)]
    assert ("moved", "jobs queues") in moved
    assert ["queues"] == paused


def test_ended_attempts_are_a_separate_topic(live, tick, storage, fire):
    """Servers report ended attempts some seconds after the jobs. The numbers of attempts change only then."""
    minute = fire.client.clock.now() // 60_000_000 * 60_000_000
    histogram = (0,) * len(DURATION_BUCKETS) + (1,)
    read_once(live, tick)
    read_once(live, tick)
    storage.record_metrics([Rollup(minute, "send", "mail", "failed", 6, 0, histogram)])

    assert ("moved", "ended") in read_once(live, tick) + read_once(live, tick)


def test_caches_expire_before_listeners_are_notified(fire, tick, task):
    """Otherwise, a listener that reads immediately would get outdated data."""
    order = []

    def note(moved):
        order.append((list(moved), [one.text for one in live.after(0) if one.name == "moved"]))

    live = Live(fire, fire.jobs.counts, monotonic=tick, on_moved=note)
    read_once(live, tick)
    task.enqueue(1)
    read_once(live, tick)
    live.close()

    assert [(["jobs", "queues"], [])] == order


def test_topic_is_announced_at_most_every_two_seconds(live, tick, task):
    """A constantly changing topic is announced every two seconds, and its last change is never omitted."""
    read_once(live, tick)
    announced = []
    for number in range(5):
        if number < 4:
            task.enqueue(number)
        announced.append(any(name == "moved" for name, _ in read_once(live, tick)))

    assert [True, False, True, False, True] == announced


def test_definitions_and_servers_are_separate_topics(live, tick, fire, task):
    """A change of a recurring definition is announced within five readings."""
    read_once(live, tick)
    fire.recurring.add_or_update(task.call(1), "nightly", "0 3 * * *")

    announced = [text for _ in range(5) for name, text in read_once(live, tick) if name == "moved"]

    assert ["recurring"] == announced


# ---- storage outages ---------------------------------------------------------------------------------------


def test_outage_and_its_end_are_announced(live, tick, storage):
    """`down` contains the error.

    After the outage, all topics count as changed, and the rates are computed from new readings.
    """
    read_once(live, tick)
    storage.fail_always("counts", StorageUnavailable("connection refused\nby the peer"))
    down = read_once(live, tick)
    storage.recover()
    back = read_once(live, tick)

    assert [("down", json.dumps("connection refused\nby the peer"))] == down
    assert ["up", "sample", "moved"] == [name for name, _ in back]
    assert "jobs queues servers recurring operations ended" == back[-1][1]
    assert last_sample(back)["deleted"] is None
    assert live.storage_error is None


def test_unreachable_storage_is_polled_less_often(live, tick, storage):
    """The pause between readings doubles up to 30 seconds. A successful reading resets it."""
    storage.fail_always("counts", StorageUnavailable("no route"))
    pauses = [(read_once(live, tick), live._pause)[1] for _ in range(7)]  # noqa: SLF001
    storage.recover()
    read_once(live, tick)

    assert [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] == pauses
    assert 0.5 <= live._pause <= 1.5  # noqa: SLF001


# ---- the thread ------------------------------------------------------------------------------------------


def test_all_listeners_share_one_thread(our_threads, live, tick):
    """The first listener starts the thread. The thread ends some seconds after the last listener has left."""
    before = our_threads("firelock-live")
    live.join()
    live.join()
    running = our_threads("firelock-live")
    live.leave()
    live.leave()
    tick.at += 6
    live._ending.set()  # ends its pause # noqa: SLF001

    until(lambda: not our_threads("firelock-live"))
    assert ([], 1) == (before, len(running))


def test_polling_page_keeps_the_thread_running_for_a_while(live, tick):
    """Pages without a stream get samples as well. When they stop requesting samples, the thread ends."""
    live.samples()
    until(live.samples)
    thread = live._thread  # noqa: SLF001

    assert thread.is_alive()
    live.close()
    assert not thread.is_alive()


# ---- the stream ------------------------------------------------------------------------------------------


class Listening:
    """A listener that the test controls: it keeps the messages it was sent and disconnects on request."""

    def __init__(self):
        self.sent = []
        self._hangs_up, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._received = asyncio.Condition()

    def hang_up(self):
        self._loop.call_soon_threadsafe(self._hangs_up.set)

    async def receive(self):
        await self._hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        async with self._received:
            self.sent.append(message)
            self._received.notify_all()

    @property
    def text(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:]).decode()

    async def wait_until_received(self, words):
        async with self._received:
            await self._received.wait_for(lambda: words in self.text)


def listen_to(dashboard, then=None):
    """Open the stream and call `then` at its first sample; return the listener after the stream has ended."""

    async def listen():
        one = Listening()
        scope = Browser(dashboard)._scope("GET", "/live", {})  # noqa: SLF001
        response = asyncio.create_task(dashboard(scope, one.receive, one.send))
        if then is not None:
            await asyncio.wait_for(one.wait_until_received("event: sample\ndata: {"), 10)
            await asyncio.to_thread(then, one)
        await asyncio.wait_for(response, 10)
        assert set() == asyncio.all_tasks() - {asyncio.current_task()}
        return one

    one = asyncio.run(listen())
    assert 0 == dashboard.live._listeners  # noqa: SLF001
    dashboard.close()
    return one


def test_stream_sends_samples_until_the_visitor_leaves(our_threads, fire):
    """The headers prevent proxies from buffering the stream.

    After the visitor has left, no asyncio task, listener or thread remains.
    """
    one = listen_to(Dashboard(fire), Listening.hang_up)
    headers = dict(one.sent[0]["headers"])

    assert b"text/event-stream; charset=utf-8" == headers[b"content-type"]
    assert (b"no-store", b"no") == (headers[b"cache-control"], headers[b"x-accel-buffering"])
    assert b"content-length" not in headers
    assert one.text.startswith("retry: 2000\n\n")
    assert not our_threads("firelock-live")


def test_closing_the_dashboard_ends_its_streams(our_threads, fire):
    """An open stream ends in the same way as a complete response."""
    dashboard = Dashboard(fire)

    one = listen_to(dashboard, lambda _: dashboard.close())

    assert {"type": "http.response.body", "body": b"", "more_body": False} == one.sent[-1]
    assert not our_threads("firelock-live")


class Server:
    """A server that handles signals with its own method, as uvicorn does."""

    should_exit = False

    def handle_exit(self, number, frame):
        self.should_exit = True


def test_stopping_server_ends_its_streams(fire):
    """The streams must end by themselves, because uvicorn waits for them before it exits."""
    server = Server()
    previous = signal.signal(signal.SIGTERM, server.handle_exit)

    try:
        listen_to(Dashboard(fire), lambda _: server.handle_exit(signal.SIGTERM, None))
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_socket_error_removes_the_listener(fire, monkeypatch):
    """A server may report a disconnected client as an error of `send`.

    The dashboard does not treat this as an error of its own.
    """

    async def send(self, message):
        if b"event" in message.get("body", b""):
            raise OSError("gone")

    monkeypatch.setattr(Listening, "send", send)

    listen_to(Dashboard(fire))


def test_stream_ends_when_its_permission_is_revoked(fire):
    """A stream can stay open for any length of time, so its visitor's permission is checked repeatedly."""
    levels = iter(["read", "read", "none"])
    dashboard = Dashboard(fire, auth=lambda request: next(levels))
    dashboard.live.checks_every = 0.0

    one = listen_to(dashboard)

    assert (200, False) == (one.sent[0]["status"], one.sent[-1]["more_body"])
    assert [] == list(levels)


def test_end_of_the_lifespan_stops_all_threads(our_threads, fire):
    """If the dashboard is served as a separate application, its threads stop when the server stops."""
    dashboard = Dashboard(fire)
    dashboard.live.samples()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    answers = []

    async def receive():
        return {"type": next(messages)}

    async def send(message):
        answers.append(message["type"])

    asyncio.run(dashboard({"type": "lifespan"}, receive, send))

    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == answers
    assert not our_threads("firelock-live")


def test_samples_use_the_storage_clock(live, tick, storage):
    """The history uses the storage's clock as well."""
    storage.clock_offset = timedelta(days=1) // timedelta(microseconds=1)

    at = datetime.fromtimestamp(last_sample(read_once(live, tick))["at"], UTC)

    assert timedelta(hours=23) < at - datetime.now(UTC) < timedelta(hours=25)
