"""F23: a PostgreSQL is lost, and its standby takes over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from tests.faults.scenarios.base import NotHere, Size, Stage, scenario
from tests.faults.scenarios.databases import at
from tests.faults.scenarios.feeding import await_progress, end, feeding, figures, forgetting_all, outage
from tests.faults.servers import Place, eventually
from tests.ports import HOST
from tests.sql.postgresql import Postgresql
from tests.sql.processes import PASSWORD, USER, run_to_its_end
from tests.sql.programs import PostgresqlProgram

_STANDBY = "standby"
_PRIMARY: Mapping[str, str] = {
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1",
}


class _Standby(Postgresql):
    """A copy of a running server, which follows it."""

    def __init__(self, primary: Postgresql, options: Mapping[str, str]) -> None:
        super().__init__(primary.program, options)
        self._primary = primary

    @override
    def _command(self) -> Sequence[str | Path]:
        data = self.folder / "data"
        if not data.exists():
            place = (
                f"host={HOST} port={self._primary.port} user={USER} password={PASSWORD} "
                f"application_name={_STANDBY}"
            )
            backup = self.program.folder / "pg_basebackup"
            run_to_its_end([backup, "-D", data, "-d", place, "-R", "-X", "stream", "-c", "fast"], self.folder)
        return super()._command()

    def promote(self) -> None:
        """It is the primary."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote(true, 30)")


@contextmanager
def _pair(program: PostgresqlProgram) -> Iterator[tuple[Postgresql, _Standby]]:
    with Postgresql(program, _PRIMARY) as primary:
        primary.create_database("jobs")
        with primary.connect() as connection:
            connection.execute("ALTER ROLE firelock REPLICATION")
        with _Standby(primary, _PRIMARY) as standby:
            eventually(lambda: _is_followed(primary), 30, "the standby follows")
            yield primary, standby


def _sender(primary: Postgresql) -> int:
    """Return the process that sends what the primary writes."""
    with primary.connect() as connection:
        row = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
    assert row is not None, "nobody follows it"
    return int(row[0])


def _is_followed(primary: Postgresql) -> bool:
    with primary.connect() as connection:
        return connection.execute("SELECT FROM pg_stat_replication").fetchone() is not None


@scenario("standby-takes-over", "F23", full=Size(0, 3), short=Size(0, 1), schemes=["postgresql"])
def standby_takes_over(place: Place, size: Size) -> list[str]:
    """The primary is killed while its standby stands still: with a synchronous one nothing is lost.

    With an asynchronous one what it had not got is lost, and told. `rounds` times each; the URL names both
    hosts, and asks for the one that takes writes.
    """
    if (
        not isinstance(place.program, PostgresqlProgram)
        or not (place.program.folder / "pg_basebackup").exists()
    ):
        message = "pg_basebackup is not here"
        raise NotHere(message)
    return [
        line
        for is_synchronous in (True, False)
        for number in range(size.rounds)
        for line in _fail_over(place, place.program, is_synchronous, number)
    ]


def _fail_over(place: Place, program: PostgresqlProgram, is_synchronous: bool, number: int) -> list[str]:
    folder = place.folder / f"{'synchronous' if is_synchronous else 'asynchronous'}-{number}"
    folder.mkdir()
    with _pair(program) as (primary, standby):
        hosts = f"host={HOST}:{primary.port}&host={HOST}:{standby.port}"
        url = f"postgresql://{USER}:{PASSWORD}@/jobs?{hosts}&target_session_attrs=read-write"
        if is_synchronous:
            with primary.connect() as connection:
                connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{_STANDBY}'")
                connection.execute("SELECT pg_reload_conf()")
        with at(place.below(folder), url) as on:
            on.server()
            on.server()
            on.up()
            with feeding(on) as feed:
                await_progress(on, time.monotonic())
                eventually(lambda: len(on.acknowledged) >= 300, 30, "jobs are acknowledged")
                sender = _sender(primary)
                os.kill(sender, signal.SIGSTOP)
                _miss_some(on, is_synchronous=is_synchronous)
                with forgetting_all(on):
                    os.kill(sender, signal.SIGKILL)  # it could not notice the end of the others
                    primary.kill()
                    standby.promote()
                    back = await_progress(on, time.monotonic(), 60)
                feed.stop()
            report = end(on)
    assert (report.stuck, report.unexplained, report.failed) == (0, 0, 0), report.lines()
    assert report.lost == 0 or not is_synchronous, report.lines()
    assert back <= place.within(5.0), back
    kind = "synchronous" if is_synchronous else "asynchronous"
    return [
        f"{kind}: {figures(report)}",
        f"at work again {back:.2f} s after the promotion, {outage(feed)}",
    ]


def _miss_some(on: Stage, *, is_synchronous: bool) -> None:
    """The standby misses jobs: they are acknowledged by the primary alone, or nobody gets an answer."""
    acknowledged = len(on.acknowledged)
    if is_synchronous:
        time.sleep(1.0)
    else:
        eventually(lambda: len(on.acknowledged) >= acknowledged + 50, 20, "jobs are acknowledged")
