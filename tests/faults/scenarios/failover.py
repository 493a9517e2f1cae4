"""F23: a PostgreSQL server is lost, and its standby takes over."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

from typing_extensions import override

from tests.faults.scenarios.base import NotHere, Size, at, feeding, scenario
from tests.faults.servers import eventually
from tests.ports import HOST
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import PASSWORD, USER, run_to_its_end
from tests.sql.servers.programs import PostgresqlProgram

_STANDBY = "standby"
_PRIMARY = {
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1",
}


class _Standby(Postgresql):
    """A standby that replicates a running server."""

    def __init__(self, primary, options):
        super().__init__(primary.program, options)
        self._primary = primary

    @override
    def _command(self):
        data = self.folder / "data"
        if not data.exists():
            place = (
                f"host={HOST} port={self._primary.port} user={USER} password={PASSWORD} "
                f"application_name={_STANDBY}"
            )
            backup = self.program.folder / "pg_basebackup"
            run_to_its_end([backup, "-D", data, "-d", place, "-R", "-X", "stream", "-c", "fast"], self.folder)
        return super()._command()

    def promote(self):
        """Make it the primary."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")


@contextmanager
def _pair(program):
    with Postgresql(program, _PRIMARY) as primary:
        primary.create_database("jobs")
        with primary.connect() as connection:
            connection.execute("ALTER ROLE firelock REPLICATION")
        with _Standby(primary, _PRIMARY) as standby:
            eventually(lambda: _is_followed(primary), 30, "the standby follows")
            yield primary, standby


def _sender(primary):
    """Return the process that sends the primary's changes."""
    with primary.connect() as connection:
        row = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
    assert row is not None, "no standby follows it"
    return int(row[0])


def _is_followed(primary):
    with primary.connect() as connection:
        return connection.execute("SELECT FROM pg_stat_replication").fetchone() is not None


@scenario("standby-takes-over", "F23", full=Size(0, 3), short=Size(0, 1), schemes=["postgresql"])
def standby_takes_over(place, size):
    """The primary is killed while its standby is stopped. With a synchronous standby, nothing is lost.

    With an asynchronous standby, the changes that it did not have are lost and counted. Each case is repeated
    `rounds` times. The URL contains both hosts and requests a host that accepts writes.
    """
    if (
        not isinstance(place.program, PostgresqlProgram)
        or not (place.program.folder / "pg_basebackup").exists()
    ):
        raise NotHere("pg_basebackup is not installed")
    return [
        line
        for is_synchronous in (True, False)
        for number in range(size.rounds)
        for line in _fail_over(place, place.program, is_synchronous, number)
    ]


def _fail_over(place, program, is_synchronous, number):
    kind = "synchronous" if is_synchronous else "asynchronous"
    with _pair(program) as (primary, standby):
        hosts = f"host={HOST}:{primary.port}&host={HOST}:{standby.port}"
        url = f"postgresql://{USER}:{PASSWORD}@/jobs?{hosts}&target_session_attrs=read-write"
        if is_synchronous:
            with primary.connect() as connection:
                connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{_STANDBY}'")
                connection.execute("SELECT pg_reload_conf()")
        with at(place, url, f"{kind}-{number}") as on:
            on.serve(2)
            with feeding(on) as feed:
                on.await_progress()
                eventually(lambda: len(on.acknowledged) >= 300, 30, "jobs are acknowledged")
                sender = _sender(primary)
                os.kill(sender, signal.SIGSTOP)
                _miss_some(on, is_synchronous=is_synchronous)
                with on.forgetting_all():
                    os.kill(sender, signal.SIGKILL)  # it could not notice the end of the other processes
                    primary.kill()
                    standby.promote()
                    back = on.await_progress(60)
                feed.stop()
            report = on.finish(loses=not is_synchronous)
    assert back <= place.within(5.0), back
    return [
        f"{kind}: {report.brief}",
        f"at work {back:.2f} s after the promotion, {feed.outage}",
    ]


def _miss_some(on, *, is_synchronous):
    """Wait until the standby misses jobs: the primary alone acknowledges them, or no call returns."""
    acknowledged = len(on.acknowledged)
    if is_synchronous:
        time.sleep(1.0)
    else:
        eventually(lambda: len(on.acknowledged) >= acknowledged + 50, 20, "jobs are acknowledged")
