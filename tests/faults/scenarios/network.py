"""F13–F19, F51: failures between servers and a remote storage, produced by a proxy."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import attrs

from firelock import Firelock, StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.job import NewJob
from firelock.model.state import State
from tests.faults.checker import late_ends, quantiles
from tests.faults.proxy import FaultProxy, Slowness
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually
from tests.faults.storages import scheme_of
from tests.redis.requests import is_claim, is_enqueue, is_listening, is_settle

NETWORKED = ["redis", "postgresql", "mysql"]
_REDIS = ["redis"]
_SESSION = 2.0  # seconds: the timings of every scenario
_QUICK = {"session_timeout": 1.0, "heartbeat": 0.3, "sweep": 0.2, "poll": 0.1}


@contextmanager
def behind_proxy(place, options=""):
    """Yield a proxy in front of the place's storage, and the place with the proxy as its storage."""
    parts = urlsplit(place.storage)
    assert parts.hostname is not None, place.storage
    assert parts.port is not None, place.storage
    with FaultProxy((parts.hostname, parts.port)) as proxy:
        netloc = parts.netloc.removesuffix(f":{parts.port}") + f":{proxy.port}"
        query = "&".join(one for one in (parts.query, options) if one)
        url = urlunsplit(parts._replace(netloc=netloc, query=query))
        yield proxy, attrs.evolve(place, storage=url)


@contextmanager
def _played(place, options="", **timings):
    """Yield a stage with a direct client, the proxy, and the place behind the proxy."""
    with stage(place, **timings) as on, behind_proxy(on.place, options) as (proxy, far):
        yield on, proxy, far


def _limit_of(place):
    """Return the option that limits a call to a second, if the storage has one."""
    limits = {"redis": "timeout=1", "mysql": "read_timeout=1&write_timeout=1"}
    return limits.get(scheme_of(place.storage), "")


# ---- partitions --------------------------------------------------------------------------------------------


@scenario("short-partitions", "F13", full=Size(400, 200), short=Size(60, 3), schemes=NETWORKED)
def short_partitions(place, size):
    """A server is disconnected for half a session, repeatedly. Nothing is repeated, and no session is lost.

    This is repeated `rounds` times, each time with at least `jobs` jobs.
    """
    chance = random.Random(13)
    with _played(place) as (on, proxy, far):
        on.serve(place=far)
        for _ in range(size.rounds):
            on.keep_busy(size.jobs, lambda: chance.uniform(0.01, 0.1), by=size.jobs)
            eventually(lambda: _lives_for(on) > 1.2, 20, "the session was renewed just now")
            time.sleep(chance.uniform(0.0, 0.2))
            proxy.black_hole()
            time.sleep(_SESSION / 2)
            healed = time.monotonic()
            proxy.heal()
            eventually(lambda at=healed: on.starts_after(at), 20, "jobs start again")
        report = on.finish(repeats="none")
    return [*report.lines(), f"disconnected {size.rounds} times for {_SESSION / 2:.0f} s: sessions lost 0"]


def _lives_for(on):
    """Return the time until the first session would expire without a renewal."""
    sessions = on.fire.storage.list_sessions()
    first = min((one.expires_at for one in sessions if one.is_alive), default=0)
    return (first - on.fire.storage.clock()) / SECOND


@scenario("long-partitions", "F14", full=Size(4, 40), short=Size(3, 1), schemes=NETWORKED)
def long_partitions(place, size):
    """A server is disconnected for three session timeouts. Another takes its jobs; late ends are refused.

    `jobs` jobs of each kind run when it is disconnected: ordinary jobs, which continue, and jobs that must be
    cancelled when their server may have lost them. This is repeated `rounds` times.
    """
    lead = []
    back = []
    with _played(place, _limit_of(place), **_QUICK) as (on, proxy, far):
        cut_off = on.server(place=far, workers=2 * size.jobs)
        on.up()
        for number in range(1, size.rounds + 1):
            ordinary = on.enqueue(size.jobs, 0.02, task="held")
            careful = on.enqueue(size.jobs, 0.02, task="careful")
            on.await_starts([*ordinary, *careful])
            other = on.server(workers=2 * size.jobs)
            on.up(other)
            on.note("freeze", cut_off.pid, *cut_off.family())
            proxy.black_hole()
            began = time.monotonic()
            on.await_starts([*ordinary, *careful], times=2)
            eventually(
                lambda ids=careful: min(_leads(on.events(), ids)) > float("-inf"),
                place.within(1.0), "the first runs of the cancellable jobs are cancelled",
            )  # fmt: skip
            lead += _leads(on.events(), careful)
            on.release(until=lambda runs=number * size.jobs: len(late_ends(on.events())) >= runs)
            time.sleep(max(0.0, began + 3 * _QUICK["session_timeout"] - time.monotonic()))
            healed = time.monotonic()
            proxy.heal()
            eventually(lambda at=healed: on.starts_after(at, cut_off.family()), 30, "it is back")
            back.append(time.monotonic() - healed)
            assert other.stop() == 0
            on.servers.remove(other)
        report = on.finish()
        late = len(late_ends(on.events()))
        refused = cut_off.log.read_text().count("was refused")
    assert late >= size.jobs * size.rounds, late
    assert refused >= late, (refused, late)
    assert min(lead) > -place.slack, sorted(lead)  # a busy machine may start the cancelling thread late
    return [
        *report.lines(),
        f"disconnected {size.rounds} times for 3 s, session timeout 1 s; late ends {late}, all refused",
        f"jobs were cancelled at least {min(lead):.2f} s before their next start",
        f"at work within {max(back):.2f} s",
    ]


def _leads(events, ids):
    """Return how long before its second start each job's first run was cancelled."""
    leads = []
    for job_id in ids:
        one = [event for event in events if event.job == job_id]
        first, second, *_ = (event for event in one if event.what == "start")
        ends = [event.at for event in one if event.what == "cancelled" and event.fence == first.fence]
        leads.append(second.at - ends[0] if ends else float("-inf"))
    return leads


@scenario("half-open", "F18", full=Size(100, 60), short=Size(40, 3), schemes=["redis", "mysql"])
def half_open(place, size):
    """Connections silently stop passing data. Calls end in time, and work continues after the reset.

    This takes `rounds` seconds, with a time limit of one second per call.
    """
    waits = []
    with _played(place, _limit_of(place)) as (on, proxy, far), Firelock(far.storage) as fire:
        (server,) = on.serve(place=far)
        fire.jobs.counts()
        on.enqueue(size.jobs, 0.05)
        eventually(lambda: any(event.what == "end" for event in on.events()), 20, "jobs end")
        on.note("freeze", server.pid, *server.family())
        proxy.black_hole()
        began = time.monotonic()
        while time.monotonic() < began + size.rounds:
            waits.append(_refused_after(fire))
        eventually(lambda: "retrying" in server.log.read_text(), 10, "the server has noticed the failure")
        assert server.process.poll() is None
        proxy.reset()
        healed = time.monotonic()
        proxy.heal()
        report = on.finish()
        took = time.monotonic() - healed
    assert max(waits) < place.within(2.5), sorted(
        waits
    )  # the limits for sending and possibly connecting, plus a half
    return [
        *report.lines(),
        f"half open for {size.rounds} s; calls {len(waits)}, each refused within {max(waits):.2f} s",
        f"all had ended {took:.1f} s after the reset",
    ]


def _refused_after(fire):
    """Return how long a call took to raise StorageUnavailable."""
    began = time.monotonic()
    try:
        fire.jobs.counts()
    except StorageUnavailable:
        return time.monotonic() - began
    raise AssertionError("a call succeeded without a connection")


# ---- lost replies ------------------------------------------------------------------------------------------


@scenario("lost-replies-to-enqueue", "F15", full=Size(10_000, 2), short=Size(200, 2), schemes=NETWORKED)
def lost_replies_to_enqueue(place, size):
    """Replies to enqueues are lost. Jobs that are sent again with the same id are stored and run only once.

    There are `jobs` jobs. The reply to one insert in `rounds` is lost, including replies to repeated inserts.
    """
    chance = random.Random(15)
    is_redis = scheme_of(place.storage) == "redis"
    lost = 0
    with _played(place) as (on, proxy, far), Firelock(far.storage) as fire:
        on.serve()
        fire.jobs.counts()
        matches, share = (is_enqueue, 1) if is_redis else (_is_any, 1 / _REQUESTS)
        proxy.lose_reply(lambda one: matches(one) and chance.random() < share / size.rounds, times=None)
        for _ in range(size.jobs):
            job = NewJob(
                fire.storage.new_ids(1)[0], "work", '{"seconds":0}', "json", "default", 0, State.ENQUEUED,
                on.fire.storage.clock(),
            )  # fmt: skip
            while not _is_inserted(fire, job):
                lost += 1
            on.acknowledged.add(job.id)
        proxy.heal()
        report = on.finish(repeats="none")
        stored = sum(on.fire.jobs.counts().by_state.values())
    # A lost reply to the start of a database transaction causes a silent retry.
    assert proxy.lost >= lost > 0, (lost, proxy.lost)
    assert lost == proxy.lost or not is_redis, (lost, proxy.lost)
    assert stored == size.jobs, stored
    return [
        *report.lines(),
        f"replies lost {proxy.lost}, reported {lost}; jobs stored {stored}, each run once",
    ]


def _is_inserted(fire, job):
    try:
        fire.storage.insert([job])
    except StorageUnavailable:
        return False
    return True


@scenario("lost-replies-to-claim", "F16", full=Size(20_000, 2_000), short=Size(300, 20), schemes=NETWORKED)
def lost_replies_to_claim(place, size):
    """Replies to claims are lost. The jobs are detected as unknown and handed back, and none runs twice.

    At least `rounds` replies are lost, with at least `jobs` jobs.
    """
    return _lose_replies(place, size, is_claim, random.Random(16))


@scenario("lost-replies-to-settle", "F17", full=Size(20_000, 2_000), short=Size(300, 20), schemes=NETWORKED)
def lost_replies_to_settle(place, size):
    """Replies to ends are lost. The ends are sent again and recognized as repeats, and no job runs twice.

    At least `rounds` replies are lost, with at least `jobs` jobs.
    """
    return _lose_replies(place, size, is_settle, random.Random(17))


# Statements of a database are prepared in advance, so a request does not show its kind. Therefore any reply
# may be lost: to the start of a transaction, its statements or its end, but fewer of them.
_LOST_SHARE = {"redis": 0.3}
_LOST_SHARE_OF_A_DATABASE = 0.03


_REQUESTS = 5  # per insert in a database: start, statement, end, and a new connection's requests


def _is_any(request):
    return bool(request)


_LOSERS = 3  # servers whose replies are lost


def _lose_replies(place, size, matches, chance):
    scheme = scheme_of(place.storage)
    share = _LOST_SHARE.get(scheme, _LOST_SHARE_OF_A_DATABASE)
    matching = matches if scheme == "redis" else _is_any

    def is_lost(request):
        return matching(request) and chance.random() < share

    with _played(place) as (on, proxy, far):
        for _ in range(_LOSERS):
            on.server(place=far)
        on.up()
        on.enqueue(size.jobs, 0.002)
        began = time.monotonic()
        proxy.lose_reply(is_lost, times=None)
        while proxy.lost < size.rounds:
            on.keep_busy(200, 0.002)
            time.sleep(0.02)
        took = time.monotonic() - began
        proxy.heal()
        healed = time.monotonic()
        on.await_end(120)
        rest = time.monotonic() - healed
        report = on.finish(repeats="none")
        attempts = sum(record.attempt for record in on.records()) / report.jobs
    return [
        *report.lines(),
        f"replies lost {proxy.lost} in {took:.0f} s; sessions lost 0; attempts per job {attempts:.2f}",
        f"the rest took {rest:.1f} s",
    ]


@scenario("lost-reply-to-one-claim", "F16", full=Size(20, 100), short=Size(10, 2), schemes=_REDIS)
def lost_reply_to_one_claim(place, size):
    """The reply to one claim is lost. Its jobs run within a heartbeat or a second.

    `jobs` jobs are claimed each time, `rounds` times.
    """
    waits = []
    with _played(place) as (on, proxy, far):
        on.serve(place=far, workers=size.jobs)
        for _ in range(size.rounds):
            before = proxy.lost
            on.fire.queues.pause("default")
            ids = on.enqueue(size.jobs, 0.0)
            proxy.lose_reply(is_claim, times=1)
            on.fire.queues.resume("default")
            eventually(lambda lost=before: proxy.lost > lost, 10, "a reply is lost")
            began = time.monotonic()
            on.await_starts(ids)
            waits.append(time.monotonic() - began)
        report = on.finish(repeats="none")
    bound = max(1.0, place.settings.heartbeat) + place.settings.poll + 0.5
    assert max(waits) <= place.within(bound), sorted(waits)
    p50, _, most = quantiles(waits)
    return [*report.lines(), f"jobs ran after p50 {p50:.2f} s, max {most:.2f} s; bound {bound:.1f} s"]


# ---- bad lines ---------------------------------------------------------------------------------------------

# Connecting to a database takes seven turns, and renewing a session three. On the first line, this takes the
# whole session timeout of other scenarios.
_FAR = {"session_timeout": 15.0, "heartbeat": 3.0}
_LINES = {
    "500 ms ± 300 ms": Slowness(delay=0.25, jitter=0.15),
    "10 kB a second": Slowness(rate=10_000),
    "single bytes": Slowness(piece=1),
}


@scenario("slow-connections", "F19", full=Size(1_000, 10), short=Size(30, 1), schemes=NETWORKED)
def slow_connections(place, size):
    """The line is slow or thin, or passes single bytes. No session is lost, and nothing is repeated.

    The scenario runs `jobs` jobs of 10 ms on each line. With a database, the session timeout is 15 s.
    """
    rates = []
    timings = {} if scheme_of(place.storage) == "redis" else _FAR
    with _played(place, **timings) as (on, proxy, far):
        on.serve(place=far)
        for name, slowness in {"a good one": Slowness(), **_LINES}.items():
            proxy.slow(slowness)
            began = time.monotonic()
            on.enqueue(size.jobs, 0.01)
            eventually(lambda: on.unfinished() == 0, 240, f"all jobs have ended on a line of {name}")
            rates.append(f"{name} {size.jobs / (time.monotonic() - began):.0f}/s")
        proxy.heal()
        report = on.finish(repeats="none")
    return [*report.lines(), f"sessions lost 0; {', '.join(rates)}"]


# ---- notifications -----------------------------------------------------------------------------------------

_MESSAGE = b"$7\r\nmessage\r\n"


@scenario("lost-notifications", "F51", full=Size(200, 1), short=Size(6, 1), schemes=_REDIS)
def lost_notifications(place, size):
    """Notifications arrive once, twice or not at all, or subscribing fails. Only the waiting time changes.

    The scenario runs `jobs` jobs for each case, one by one.
    """
    poll = 0.5
    lines = []
    with _played(place, poll=poll) as (on, proxy, far):
        on.serve(place=far)
        cases = {
            "as they come": lambda: None,
            "twice": lambda: proxy.alter(lambda piece: piece * 2 if _MESSAGE in piece[:20] else piece),
            "never": lambda: proxy.alter(lambda piece: b"" if _MESSAGE in piece[:20] else piece),
            "not to be had": lambda: _deny(proxy),
        }
        for name, begin in cases.items():
            proxy.heal()
            begin()
            waits = [_wait_of(on) for _ in range(size.jobs)]
            p50, _, most = quantiles(waits)
            bound = poll + 0.3 if name in {"never", "not to be had"} else poll
            assert p50 <= bound, (name, sorted(waits))
            assert most <= place.within(bound), (name, sorted(waits))
            lines.append(f"{name}: p50 {p50 * 1e3:.0f} ms, max {most * 1e3:.0f} ms")
        report = on.finish(repeats="none")
        assert not on.log_count("Traceback")
    return [*report.lines(), f"from enqueue to start, poll {poll} s: {'; '.join(lines)}"]


def _deny(proxy):
    proxy.lose_request(is_listening, times=None)
    proxy.reset()


def _wait_of(on):
    """Return how long a job waited for its start on an idle server."""
    (job_id,) = on.enqueue(1, 0.0)
    began = time.monotonic()
    eventually(lambda: on.record(job_id).is_final, 10, "the job has ended")
    return next(event.at for event in on.events() if event.what == "start" and event.job == job_id) - began
