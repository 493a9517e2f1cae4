"""Databases as fixtures: a module's tests have one of their own, on servers that the whole run shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import psycopg
import pytest

from tests.processes import Process
from tests.sql.databases import MysqlDatabase, PostgresqlDatabase
from tests.sql.servers import programs
from tests.sql.servers.mariadb import Mariadb
from tests.sql.servers.pgbouncer import Pgbouncer
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.programs import (
    Missing,
    MysqlProgram,
    PostgresqlProgram,
    chosen_mysqls,
    one_postgresql,
)

_S = TypeVar("_S", bound=Process)
AnyDatabase = PostgresqlDatabase | MysqlDatabase


class Running:
    """The servers of a test run, one of each program, started when the first test asks for it.

    To start one takes seconds, to create a database a tenth of one, so they outlive a module. A test that
    stops or fills a server takes one of its own: `with Postgresql(program) as server`.
    """

    def __init__(self) -> None:
        self._servers: dict[str, Process] = {}
        self._numbers = count(1)

    def postgresql(self, program: PostgresqlProgram) -> Postgresql:
        """Return the server of this program; it runs."""
        return self._started(str(program), lambda: Postgresql(program))

    def pgbouncer(self, path: str, program: PostgresqlProgram) -> Pgbouncer:
        """Return the pooler before the server of this program; both run."""
        server = self.postgresql(program)
        return self._started(f"pgbouncer before {program}", lambda: Pgbouncer(path, server))

    def mariadb(self, program: MysqlProgram) -> Mariadb:
        """Return the server of this program; it runs."""
        return self._started(str(program), lambda: Mariadb(program))

    def _started(self, name: str, make: Callable[[], _S]) -> _S:
        if name not in self._servers:
            self._servers[name] = make()
        server: _S = self._servers[name]  # type: ignore[assignment]  # a name stands for one kind
        return server if server.is_running else server.start()

    @contextmanager
    def database_on(self, server: Postgresql | Mariadb) -> Iterator[str]:
        """Yield the name of a new database of the server, which is gone afterwards."""
        name = f"firelock_{next(self._numbers)}"
        server.create_database(name)
        try:
            yield name
        finally:
            if server.is_running:
                server.drop_database(name)

    @contextmanager
    def database_of(self, program: PostgresqlProgram | MysqlProgram) -> Iterator[Any]:
        """Yield a new database of this program's server."""
        is_postgresql = isinstance(program, PostgresqlProgram)
        server: Any = self.postgresql(program) if is_postgresql else self.mariadb(program)
        with self.database_on(server) as name:
            yield PostgresqlDatabase(server, name, server) if is_postgresql else MysqlDatabase(server, name)

    def close(self) -> None:
        """None of them runs any more: poolers end before what is behind them."""
        while self._servers:
            self._servers.popitem()[1].close()


_RUNNING = Running()


@pytest.fixture(scope="session")
def sql_servers() -> Iterator[Running]:
    """The servers of this run: the same ones for every folder that takes these fixtures up."""
    yield _RUNNING
    _RUNNING.close()


@pytest.fixture(scope="module", params=one_postgresql())
def postgresql_program(request: pytest.FixtureRequest) -> PostgresqlProgram:
    """Every PostgreSQL that tests of every promise run on."""
    return here(request.param)


@pytest.fixture(scope="module")
def postgresql(sql_servers: Running, postgresql_program: PostgresqlProgram) -> Iterator[PostgresqlDatabase]:
    """A database of PostgreSQL, the module's own."""
    with sql_servers.database_of(postgresql_program) as database:
        yield database


@pytest.fixture(scope="module", params=[*one_postgresql(), *chosen_mysqls()])
def server_database(sql_servers: Running, request: pytest.FixtureRequest) -> Iterator[AnyDatabase]:
    """A database of each server, the module's own."""
    with sql_servers.database_of(here(request.param)) as database:
        yield database


@pytest.fixture
def admin(postgresql: PostgresqlDatabase) -> Iterator[psycopg.Connection]:
    """The superuser's connection to the module's database of PostgreSQL."""
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module", params=one_postgresql())
def pgbouncer(sql_servers: Running, request: pytest.FixtureRequest) -> Iterator[PostgresqlDatabase]:
    """A database of PostgreSQL, reached through PgBouncer, which lends connections for a transaction each."""
    pooler = sql_servers.pgbouncer(here(programs.pgbouncer()), here(request.param))
    with sql_servers.database_on(pooler.server) as name:
        yield PostgresqlDatabase(pooler.server, name, pooler)


@pytest.fixture(scope="module", params=chosen_mysqls())
def mysql_program(request: pytest.FixtureRequest) -> MysqlProgram:
    """Every MariaDB and MySQL that tests of every promise run on."""
    return here(request.param)


@pytest.fixture(scope="module")
def mariadb(sql_servers: Running, mysql_program: MysqlProgram) -> Iterator[MysqlDatabase]:
    """A database of MariaDB or MySQL, the module's own."""
    with sql_servers.database_of(mysql_program) as database:
        yield database


_T = TypeVar("_T")


def here(program: _T | Missing) -> _T:
    """Return the program of a fixture's parameter; the test ends where it is missing."""
    if isinstance(program, Missing):
        program.tell()
    return program
