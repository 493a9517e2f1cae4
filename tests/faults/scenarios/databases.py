"""F21, F22, F25, F28, F39: failures of a database server and of the connections to it."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, closing, nullcontext, suppress

import psycopg
import pymysql

from firelock import Firelock, StorageUnavailable
from tests.faults.scenarios.base import Size, at, every, feeding, scenario
from tests.faults.servers import eventually
from tests.faults.storages import sql_server
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import USER

SQL = ["postgresql", "mysql"]


# ---- restarts --------------------------------------------------------------------------------------------

PATIENT = {"session_timeout": 10.0, "heartbeat": 1.0}  # longer than a restart takes


@scenario("restart-database", "F21", full=Size(0, 50), short=Size(0, 3), schemes=SQL)
def restart_database(place, size):
    """In turn, the server is stopped normally, stopped immediately or killed under load, and then restarted.

    This is repeated `rounds` times, with a session that outlives each restart.
    """
    chance = random.Random(21)
    back = []
    with (
        sql_server(place.program, is_pooled=place.is_pooled) as (database, url),
        at(place, url, **PATIENT) as on,
        feeding(on) as feed,
    ):
        on.serve(2)
        for number in range(size.rounds):
            on.await_progress()
            time.sleep(chance.uniform(0.0, 0.3))
            _end_somehow(database, number)
            database.start()
            back.append(on.await_progress())
        feed.stop()
        report = on.finish(repeats="none")
    assert max(back) <= place.within(5.0), back
    return [
        f"{report.brief}, restarts {size.rounds}, sessions lost 0",
        f"at work at most {max(back):.2f} s after the database responded, {feed.outage}",
    ]


def _end_somehow(database, number):
    match number % 3:
        case 0:
            database.stop()
        case 1 if isinstance(database, Postgresql):
            os.kill(database.pid, signal.SIGQUIT)  # the immediate stop; the next call waits for the end
            database.stop()
        case _:
            database.kill()


# ---- killed connections ------------------------------------------------------------------------------------


@scenario("kill-connections", "F22", full=Size(4_000, 2), short=Size(400, 2), schemes=SQL)
def kill_connections(place, size):
    """An operator ends `rounds` connections per second. Nothing is lost or repeated, and work continues.

    The scenario runs `jobs` jobs of 10 ms without this, and as many with it.
    """
    chance = random.Random(22)
    kills, durations, refused = [], [], 0
    with (
        sql_server(place.program, is_pooled=place.is_pooled) as (database, url),
        at(place, url) as on,
        closing(database.connect()) as connection,
    ):
        on.serve(2)
        for is_bad in (False, True):
            began, refused = time.monotonic(), 0
            killing = every(1 / size.rounds, lambda: kills.append(_kill_one(connection, chance)))
            with killing if is_bad else nullcontext():
                for _ in range(size.jobs // 100):
                    refused += not _is_enqueued(on, 100)
                eventually(lambda: _is_idle(on), 240, "all jobs have ended")
            durations.append(time.monotonic() - began)
        report = on.finish(repeats="none")
    killed = sum(kills)
    assert killed > 0
    return [
        f"{report.brief}, connections killed {killed}, sessions lost 0, refused enqueues {refused}",
        (
            f"at {durations[0] / durations[1] * 100:.0f} % of the rate without kills "
            f"({size.jobs / durations[0]:.0f}/s)"
        ),
    ]


def _is_enqueued(on, jobs):
    try:
        on.enqueue(jobs, 0.01)
    except StorageUnavailable:  # the client's own connection was killed
        return False
    return True


def _is_idle(on):
    with suppress(StorageUnavailable):
        return on.unfinished() == 0
    return False


def _kill_one(connection, chance):
    """Return whether one of the storage's connections was ended."""
    if isinstance(connection, psycopg.Connection):
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY pid", [USER]
        ).fetchall()
        if found:
            connection.execute("SELECT pg_terminate_backend(%s)", chance.choice(found))
        return bool(found)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s ORDER BY id", [USER])
        found = cursor.fetchall()
        if found:
            with suppress(pymysql.OperationalError):  # it has ended by itself
                cursor.execute("KILL CONNECTION %s", chance.choice(found))
    return bool(found)


# ---- no free connections -----------------------------------------------------------------------------------


@scenario("no-connections-left", "F25", full=Size(600, 10), short=Size(100, 3), schemes=SQL)
def no_connections_left(place, size):
    """Other programs use every free connection. Connected processes continue; others get a clear error.

    The scenario uses `jobs` jobs and takes `rounds` seconds.
    """
    name = "max_connections" if place.storage.startswith("postgresql") else "max-connections"
    with sql_server(place.program, {name: "40"}) as (database, url), at(place, url) as on:
        on.serve(2)
        on.enqueue(100, 0.01)
        on.await_end(60)
        with ExitStack() as connections:
            taken = _take_all(database, connections)
            began = time.monotonic()
            on.enqueue(size.jobs, 0.01)
            refusal = _refusal(url)
            on.await_end(120)
            duration = time.monotonic() - began
            time.sleep(max(0.0, began + size.rounds - time.monotonic()))
        eventually(lambda: _is_let_in(url), 10, "a new client can connect")
        report = on.finish(repeats="none")
    assert "pool_size" in refusal, refusal
    return [
        f"{report.brief}, sessions lost 0; {taken} connections of other programs for {size.rounds} s",
        f"{size.jobs / duration:.0f} jobs/s meanwhile; error of a new client: {refusal}",
    ]


def _take_all(database, connections):
    """Return how many connections were available; they stay open until the stack is closed."""
    taken = 0
    while True:
        try:
            if isinstance(database, Postgresql):
                made = psycopg.connect(database.url("jobs"))
                connections.callback(made.close)
            else:
                connections.callback(_connect_to(database).close)
        except (psycopg.OperationalError, pymysql.OperationalError):
            return taken
        taken += 1


def _connect_to(database):
    return pymysql.connect(
        host="127.0.0.1", port=database.port, user=USER, password="secret", database="jobs"
    )


def _refusal(url):
    with Firelock(url) as fire:
        try:
            fire.jobs.counts()
        except StorageUnavailable as error:
            return str(error)
    raise AssertionError("a connection was still available")


def _is_let_in(url):
    with Firelock(url) as fire, suppress(StorageUnavailable):
        fire.jobs.counts()
        return True
    return False


@scenario("small-pools", "F39", full=Size(1_000, 2), short=Size(150, 1), schemes=SQL)
def small_pools(place, size):
    """A server with twenty workers has a pool of one connection, then of two. No worker waits forever.

    There are `jobs` jobs for each pool of up to `rounds` connections.
    """
    rates = []
    for pool in range(1, size.rounds + 1):
        storage = f"{place.storage}?pool_size={pool}"
        with at(place, storage) as on:
            (server,) = on.serve(workers=20)
            began = time.monotonic()
            on.enqueue(size.jobs, 0.02)
            on.finish(repeats="none")
            rates.append(f"pool of {pool}: {size.jobs / (time.monotonic() - began):.0f} jobs/s")
            assert server.stop() == 0
            log = server.log.read_text()
        assert "is in use" not in log, log[-2_000:]
    return [*rates, "lost 0, repeats 0, sessions lost 0, refused connections 0"]
