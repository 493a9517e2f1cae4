"""F29–F34: failures of Redis: crashes, failovers, moved slots, full memory, lost scripts, bad settings."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from contextlib import nullcontext

import attrs
import pytest

from firelock import Firelock, FirelockError, StorageUnavailable
from tests.faults.scenarios.base import BATCH, Size, at, feeding, scenario, stub
from tests.faults.scenarios.network import behind_proxy
from tests.faults.servers import eventually
from tests.redis.cluster import ClusterServers
from tests.redis.programs import Program
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer

_REDIS = ["redis"]


def _program(place):
    assert isinstance(place.program, Program), "no Redis or Valkey on this machine"
    return place.program


# ---- crashes ---------------------------------------------------------------------------------------------


_PERSISTENCE = {
    "always": {"appendonly": "yes", "appendfsync": "always"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "none": {},
}


@scenario("kill-redis", "F29", full=Size(0, 20), short=Size(0, 1), schemes=_REDIS)
def kill_redis(place, size):
    """`kill -9` ends the server under load.

    With an append-only file nothing is lost; other losses are counted. This is repeated `rounds` times for
    each kind of persistence: for each command, every second, and none.
    """
    return [line for kind in _PERSISTENCE for line in _kill_redis(place, kind, size.rounds)]


def _kill_redis(place, kind, rounds):
    chance = random.Random(29)
    back = []
    with (
        RedisServer(_program(place), _PERSISTENCE[kind]) as redis,
        at(place, redis.url(), kind) as on,
        feeding(on) as feed,
    ):
        on.serve(2)
        for _ in range(rounds):
            on.await_progress()
            time.sleep(chance.uniform(0.0, 0.3))
            with on.forgetting_all() if kind == "none" else nullcontext():
                redis.kill()
                redis.start()
                back.append(on.await_progress())
        feed.stop()
        report = on.finish(loses=kind == "none")
    assert report.repeats == 0 or kind == "none", report.lines()
    return [
        f"{kind}: {report.brief}, kills {rounds}",
        f"at work at most {max(back):.2f} s after Redis responded; refused enqueues {len(feed.refusals)}",
    ]


# ---- failover --------------------------------------------------------------------------------------------


@scenario("sentinel-failover", "F30", full=Size(0, 20), short=Size(0, 1), schemes=_REDIS)
def sentinel_failover(place, size):
    """The primary dies while its replicas are stopped. With `durability=replicated`, nothing is lost.

    Without it, acknowledged data that the replicas did not have is lost and counted. Each case is repeated
    `rounds` times. The servers have persistence, because a server that came back empty could become the
    primary and empty the others.
    """
    return [
        line for options in ("durability=replicated", "") for line in _fail_over(place, options, size.rounds)
    ]


def _fail_over(place, options, rounds):
    back = []
    with (
        SentinelGroup(_program(place), replicas=2, options=_PERSISTENCE["everysec"], down_after=1) as group,
        at(place, group.url(options), options or "plain") as on,
    ):
        on.serve(2)
        with feeding(on) as feed:
            for number in range(rounds):
                on.await_progress()
                primary, replicas = group.primary(), group.replicas()
                for replica in replicas:
                    replica.pause()
                primary.call("CLIENT", "KILL", "TYPE", "replica")  # no more data is sent to their buffers
                _await_stalled(on, feed, is_refused=bool(options))
                with on.forgetting_all():
                    primary.kill()
                    for replica in replicas:
                        replica.resume()
                    group.await_failover(primary)
                    back.append(on.await_progress())
                if number + 1 == rounds:
                    break
                primary.start()
                eventually(group.is_replicated, 60, "the old primary follows")
            feed.stop()
            report = on.finish(loses=not options)
    refusals = {text for text in feed.refusals if "replicas confirmed" in text}
    assert refusals or not options, feed.refusals[-3:]
    assert max(back) <= place.within(5.0), back
    return [
        f"{options or 'without'}: {report.brief}, failovers {rounds}",
        f"at work at most {max(back):.2f} s after the promotion, {feed.outage}",
    ]


def _await_stalled(on, feed, *, is_refused):
    """Wait until the replicas miss jobs, which were refused or acknowledged by the primary alone."""
    refused, acknowledged = len(feed.refusals), len(on.acknowledged)
    if is_refused:
        eventually(lambda: len(feed.refusals) > refused, 20, "an enqueue is refused")
    else:
        eventually(lambda: len(on.acknowledged) >= acknowledged + 5 * BATCH, 20, "jobs are acknowledged")


# ---- clusters --------------------------------------------------------------------------------------------


@scenario("move-slots", "F31", full=Size(0, 64), short=Size(0, 2), schemes=_REDIS)
def move_slots(place, size):
    """Slots of a cluster move under load, keys first. No client sees an error; nothing is lost or repeated.

    The scenario moves `rounds` slots of three nodes with sixteen partitions.
    """
    with (
        ClusterServers(_program(place)) as cluster,
        at(place, cluster.url("partitions=16")) as on,
    ):
        (server,) = on.serve()
        bases = on.fire.storage.database.partitions.bases
        with feeding(on) as feed:
            on.await_progress()
            for number in range(size.rounds):
                slot = cluster.slot_of(bases[number % len(bases)])
                source = cluster.owner_of(slot)
                target = next(node for node in cluster.primaries() if node is not source)
                cluster.move_slot(slot, target)
            on.await_progress()
            feed.stop()
            report = on.finish()
        log = server.log.read_text()
    assert "Traceback" not in log, log[-3_000:]
    return [
        f"{report.brief}, slots moved {size.rounds}",
        f"refused enqueues {len(feed.refusals)}{_first(feed.refusals)}",
        f"servers logged an outage {log.count('Storage unavailable')} times",
    ]


def _first(texts):
    return f" ({texts[0]})" if texts else ""


@scenario("kill-primaries", "F31", full=Size(0, 20), short=Size(0, 1), schemes=_REDIS)
def kill_primaries(place, size):
    """`kill -9` ends a cluster's node under load, and its replica takes over. No acknowledged data is lost.

    This is repeated `rounds` times, with `durability=replicated`.
    """
    back = []
    with (
        ClusterServers(_program(place), replicas=1, node_timeout=1) as cluster,
        at(place, cluster.url("partitions=16&durability=replicated&timeout=2")) as on,
    ):
        on.serve(2)
        with feeding(on) as feed:
            for number in range(size.rounds):
                on.await_progress()
                primaries = cluster.primaries()
                victim = primaries[number % len(primaries)]
                with on.forgetting_all():
                    victim.kill()
                    cluster.await_failover(victim)
                    back.append(on.await_progress())
                victim.start()
                cluster.await_agreement()
            feed.stop()
            report = on.finish()
    return [
        f"{report.brief}, primaries killed {size.rounds}",
        f"at work at most {max(back):.2f} s after the takeover, {feed.outage}",
    ]


# ---- full memory -----------------------------------------------------------------------------------------


@scenario("full-memory", "F32", full=Size(2_000, 5), short=Size(300, 1), schemes=_REDIS)
def full_memory(place, size):
    """The memory is full.

    Enqueue reports this, while jobs end, sessions continue, and queues pause and resume. This is repeated
    `rounds` times, while `jobs` jobs wait.
    """
    drained = []
    refused = 0
    with (
        RedisServer(_program(place), {"maxmemory-policy": "noeviction"}) as redis,
        at(place, redis.url()) as on,
    ):
        (server,) = on.serve()
        for _ in range(size.rounds):
            on.fire.queues.pause("default")
            on.enqueue(size.jobs, 0.005)
            redis.call("CONFIG", "SET", "maxmemory", "1")
            full = time.monotonic()
            refused += _assert_refused(on)
            time.sleep(max(0.0, full + 2.5 - time.monotonic()))  # longer than a session without renewal
            on.fire.queues.resume("default")
            eventually(lambda: on.unfinished() <= size.jobs // 2, 60, "half of the jobs have ended")
            on.fire.queues.pause("default")
            on.fire.queues.resume("default")
            on.await_end(60)
            drained.append(time.monotonic() - full)
            refused += _assert_refused(on)
            redis.call("CONFIG", "SET", "maxmemory", "0")
            on.await_progress()
        assert server.stop() == 0
        log = server.log.read_text()
        report = on.finish(repeats="none")
    return [
        f"jobs {report.jobs}, full {size.rounds} times: refused enqueues {refused}, each with a clear line",
        f"lost 0, stuck 0, repeats 0, sessions lost 0; all waiting jobs ended within {max(drained):.1f} s",
        f"log lines of the servers: {log.count('memory is full')}",
    ]


def _assert_refused(on):
    acknowledged = set(on.acknowledged)
    for many in (1, 10):
        with pytest.raises(StorageUnavailable, match="memory is full; raise maxmemory"):
            on.enqueue(many, 0.0)
    assert on.acknowledged == acknowledged
    return 2


# ---- flushed scripts -------------------------------------------------------------------------------------


@scenario("script-flush", "F33", full=Size(10_000, 500), short=Size(600, 20), schemes=_REDIS)
def script_flush(place, size):
    """SCRIPT FLUSH is sent repeatedly under load. No client sees an error.

    This is repeated `rounds` times while at least `jobs` jobs run.
    """
    with RedisServer(_program(place)) as redis, at(place, redis.url()) as on:
        (server,) = on.serve()
        on.enqueue(size.jobs, 0.002)
        with feeding(on) as feed:
            for _ in range(size.rounds):
                redis.call("SCRIPT", "FLUSH")
                time.sleep(0.02)
        report = on.finish(240, repeats="none")
        log = server.log.read_text()
    assert feed.refusals == [], feed.refusals[:3]
    assert not re.search("unavailable|Traceback|ERROR|NOSCRIPT", log), log[-2_000:]
    return [*report.lines(), f"scripts flushed {size.rounds} times: errors 0"]


# ---- unsuitable settings ---------------------------------------------------------------------------------


_UNKEPT = "durability: none: a restart loses every job"


@scenario("unsuitable-redis", "F34", full=Size(0, 1), short=Size(0, 1), schemes=_REDIS)
def unsuitable_redis(place, size):
    """A server that evicts keys or is too old is refused in one line; missing persistence is logged."""
    del size
    errors = []
    evicting = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer(_program(place), evicting) as redis:
        errors.append(_refusal(place, redis.url(), "maxmemory-policy is allkeys-lru"))
        with at(place, redis.url(options="eviction=allow"), "allowed") as on:
            _assert_at_work(on, "eviction: allkeys-lru")
    with (
        RedisServer(_program(place)) as redis,
        behind_proxy(attrs.evolve(place, storage=redis.url())) as (proxy, far),
    ):
        proxy.alter(_older)
        errors.append(_refusal(place, far.storage, "Firelock needs Redis 6.2 or Valkey 7.2"))
        with at(place, redis.url(), "unkept") as on:
            _assert_at_work(on, _UNKEPT)
    return [*(f"refused: {line}" for line in errors), f"logged at start: {_UNKEPT}"]


def _older(piece):
    """Return the server's reply with a version that is too old."""
    piece = re.sub(rb"(redis_version:)\d", rb"\g<1>5", piece)
    return re.sub(rb"(valkey_version:)\d\.\d", rb"\g<1>7.1", piece)


def _refusal(place, storage, words):
    """Return the error of an enqueue; assert that a server fails to start with the same words."""
    with Firelock(storage) as fire:
        task = fire.task(name="work", remote=True)(stub)
        try:
            task.enqueue(0.0)
        except FirelockError as error:
            message = str(error)
        else:
            raise AssertionError(f"{storage} was not refused")
    assert words in message, message
    assert "\n" not in message, message
    far = attrs.evolve(place, storage=storage)
    done = subprocess.run(
        [sys.executable, "-m", "firelock", "server", "tests.faults.apps.work:fire"],
        env=far.environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0, done
    assert words in done.stdout + done.stderr, done
    return re.sub(r"127\.0\.0\.1:\d+", "host", message)


def _assert_at_work(on, words):
    (server,) = on.serve()
    on.enqueue(5, 0.0)
    on.finish()
    assert words in server.log.read_text(), server.log.read_text()
    assert server.stop() == 0
