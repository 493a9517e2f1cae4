"""F21, F22, F25, F28, F39: what befalls a database server, or the connections to it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import pymysql

from firelock import Firelock, StorageUnavailable
from tests.faults.scenarios.base import Size, Stage, scenario, stage
from tests.faults.scenarios.feeding import await_progress, end, feeding, figures, outage
from tests.faults.servers import Place, eventually
from tests.faults.storages import sql_server
from tests.sql.mariadb import Mariadb
from tests.sql.postgresql import Postgresql
from tests.sql.processes import USER

__all__ = ["PATIENT", "SQL", "at", "lost_sessions"]

SQL = ["postgresql", "mysql"]


@contextmanager
def at(place: Place, storage: str, **timings: float) -> Iterator[Stage]:
    """Yield a stage at another storage than the place's."""
    with stage(place.at(storage), **timings) as on:
        yield on


def lost_sessions(on: Stage) -> int:
    """Return how often a server found its session lost."""
    return sum(server.log.read_text().count("this server was lost") for server in on.servers)


# ---- it goes away ----------------------------------------------------------------------------------------

PATIENT = {"session_timeout": 10.0, "heartbeat": 1.0}  # longer than a restart takes


@scenario("restart-database", "F21", full=Size(0, 50), short=Size(0, 3), schemes=SQL)
def restart_database(place: Place, size: Size) -> list[str]:
    """The server ends under load and comes back: in order, at once without a word, or killed; by turns.

    `rounds` times, with a session that outlives it.
    """
    chance = random.Random(21)
    back: list[float] = []
    with (
        sql_server(place.program, is_pooled=place.is_pooled) as (database, url),
        at(place, url, **PATIENT) as on,
        feeding(on) as feed,
    ):
        on.server()
        on.server()
        on.up()
        for number in range(size.rounds):
            await_progress(on, time.monotonic())
            time.sleep(chance.uniform(0.0, 0.3))
            _end_somehow(database, number)
            database.start()
            back.append(await_progress(on, time.monotonic()))
        feed.stop()
        report = end(on)
        lost = lost_sessions(on)
    assert report.is_clean, report.lines()
    assert (report.failed, report.repeats, lost) == (0, 0, 0), (report.lines(), lost)
    assert max(back) <= place.within(5.0), back
    return [
        f"{figures(report)}, restarts {size.rounds}, sessions lost {lost}",
        f"at work again {max(back):.2f} s after it answered at most, {outage(feed)}",
    ]


def _end_somehow(database: Postgresql | Mariadb, number: int) -> None:
    match number % 3:
        case 0:
            database.stop()
        case 1 if isinstance(database, Postgresql):
            os.kill(database.pid, signal.SIGQUIT)  # the immediate one; what follows waits for its end
            database.stop()
        case _:
            database.kill()


# ---- connections go away -----------------------------------------------------------------------------------


@scenario("kill-connections", "F22", full=Size(4_000, 2), short=Size(400, 2), schemes=SQL)
def kill_connections(place: Place, size: Size) -> list[str]:
    """An operator ends connections, `rounds` a second: nothing is lost or repeated, and work goes on.

    `jobs` jobs of 10 ms without it, and as many with it.
    """
    chance = random.Random(22)
    killed = 0
    with (
        sql_server(place.program, is_pooled=place.is_pooled) as (database, url),
        at(place, url) as on,
    ):
        on.server()
        on.server()
        on.up()
        spans = []
        for is_bad in (False, True):
            over = threading.Event()
            killer = _Killer(database, over, 1 / size.rounds, chance)
            began = time.monotonic()
            if is_bad:
                killer.start()
            refused = 0
            try:
                for _ in range(size.jobs // 100):
                    refused += not _is_enqueued(on, 100)
                eventually(lambda: _is_idle(on), 240, "all jobs have ended")
            finally:
                over.set()
            spans.append(time.monotonic() - began)
        killer.join()
        killed = killer.killed
        report = on.finish()
        lost = lost_sessions(on)
    assert report.is_clean, report.lines()
    assert (report.failed, report.repeats, lost) == (0, 0, 0), (report.lines(), lost)
    assert killed > 0
    return [
        f"{figures(report)}, connections killed {killed}, sessions lost {lost}, refused enqueues {refused}",
        f"at {spans[0] / spans[1] * 100:.0f} % of the rate without ({size.jobs / spans[0]:.0f}/s)",
    ]


def _is_enqueued(on: Stage, jobs: int) -> bool:
    try:
        on.enqueue(jobs, 0.01)
    except StorageUnavailable:  # the client's own connection was killed
        return False
    return True


def _is_idle(on: Stage) -> bool:
    with suppress(StorageUnavailable):
        return on.unfinished() == 0
    return False


class _Killer(threading.Thread):
    """Ends one of the storage's connections now and then."""

    def __init__(
        self, database: Postgresql | Mariadb, over: threading.Event, pause: float, chance: random.Random
    ) -> None:
        super().__init__(name="killer")
        self.killed = 0
        self._database = database
        self._over = over
        self._pause = pause
        self._chance = chance

    def run(self) -> None:
        """They end until it is over."""
        kill = self._in_postgresql if isinstance(self._database, Postgresql) else self._in_mysql
        with closing(self._database.connect()) as connection:
            while not self._over.wait(self._pause):
                self.killed += kill(connection)

    def _in_postgresql(self, connection: psycopg.Connection) -> bool:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY pid", [USER]
        ).fetchall()
        if not found:
            return False
        connection.execute("SELECT pg_terminate_backend(%s)", self._chance.choice(found))
        return True

    def _in_mysql(self, connection: pymysql.connections.Connection) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE user = %s ORDER BY id", [USER]
            )
            found = cursor.fetchall()
            if not found:
                return False
            with suppress(pymysql.OperationalError):  # it has gone by itself
                cursor.execute("KILL CONNECTION %s", self._chance.choice(found))
        return True


# ---- connections are not to be had -------------------------------------------------------------------------


@scenario("no-connections-left", "F25", full=Size(600, 10), short=Size(100, 3), schemes=SQL)
def no_connections_left(place: Place, size: Size) -> list[str]:
    """Strangers take every connection that the server has: who is connected works on, others get a clear no.

    `jobs` jobs, for `rounds` seconds.
    """
    name = "max_connections" if place.storage.startswith("postgresql") else "max-connections"
    with sql_server(place.program, {name: "40"}) as (database, url), at(place, url) as on:
        on.server()
        on.server()
        on.up()
        on.enqueue(100, 0.01)
        eventually(lambda: on.unfinished() == 0, 60, "the first jobs have ended")
        with ExitStack() as strangers:
            taken = _take_all(database, strangers)
            began = time.monotonic()
            on.enqueue(size.jobs, 0.01)
            refusal = _refusal(url)
            eventually(lambda: on.unfinished() == 0, 120, "all jobs have ended")
            span = time.monotonic() - began
            time.sleep(max(0.0, began + size.rounds - time.monotonic()))
        eventually(lambda: _is_let_in(url), 10, "a new client is let in")
        report = on.finish()
        lost = lost_sessions(on)
    assert report.is_clean, report.lines()
    assert (report.failed, report.repeats, lost) == (0, 0, 0), (report.lines(), lost)
    assert "pool_size" in refusal, refusal
    return [
        f"{figures(report)}, sessions lost {lost}; {taken} connections of strangers for {size.rounds} s",
        f"{size.jobs / span:.0f} jobs/s meanwhile; a new client is told: {refusal}",
    ]


def _take_all(database: Postgresql | Mariadb, strangers: ExitStack) -> int:
    """Return how many connections were to be had; they are open until the strangers leave."""
    taken = 0
    while True:
        try:
            if isinstance(database, Postgresql):
                made = psycopg.connect(database.url("jobs"))
                strangers.callback(made.close)
            else:
                strangers.callback(_connect_to(database).close)
        except (psycopg.OperationalError, pymysql.OperationalError):
            return taken
        taken += 1


def _connect_to(database: Mariadb) -> pymysql.connections.Connection:
    return pymysql.connect(
        host="127.0.0.1", port=database.port, user=USER, password="secret", database="jobs"
    )


def _refusal(url: str) -> str:
    with Firelock(url) as fire:
        try:
            fire.jobs.counts()
        except StorageUnavailable as error:
            return str(error)
    raise AssertionError("there was a connection left")


def _is_let_in(url: str) -> bool:
    with Firelock(url) as fire, suppress(StorageUnavailable):
        fire.jobs.counts()
        return True
    return False


@scenario("small-pools", "F39", full=Size(1_000, 2), short=Size(150, 1), schemes=SQL)
def small_pools(place: Place, size: Size) -> list[str]:
    """A server with twenty workers has pools of one connection, then of two: nobody waits for ever.

    `jobs` jobs for each pool up to `rounds` connections.
    """
    rates: list[str] = []
    for pool in range(1, size.rounds + 1):
        storage = f"{place.storage}?pool_size={pool}"
        with at(place, storage) as on:
            server = on.server(workers=20)
            on.up()
            began = time.monotonic()
            on.enqueue(size.jobs, 0.02)
            report = on.finish()
            rates.append(f"pool of {pool}: {size.jobs / (time.monotonic() - began):.0f} jobs/s")
            lost = lost_sessions(on)
            assert server.stop() == 0
            log = server.log.read_text()
        assert report.is_clean, report.lines()
        assert (report.failed, report.repeats, lost) == (0, 0, 0), (report.lines(), lost)
        assert "is in use" not in log, log[-2_000:]
    return [*rates, "lost 0, repeats 0, sessions lost 0, nobody was refused a connection"]
