"""Databases as fixtures: each test module has its own, on servers that the whole run shares."""

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
    """The servers of a test run, one for each program, started for the first test that needs them.

    The start of a server takes seconds, and the creation of a database a tenth of a second. So the servers
    are shared by all modules. A test that stops or fills a server starts its own: `with Postgresql(program)
    as server`.
    """

    def __init__(self) -> None:
        self._servers: dict[str, Process] = {}
        self._numbers = count(1)

    def postgresql(self, program: PostgresqlProgram) -> Postgresql:
        """Return the running server of this program."""
        return self._started(str(program), lambda: Postgresql(program))

    def pgbouncer(self, path: str, program: PostgresqlProgram) -> Pgbouncer:
        """Return the running pooler in front of the running server of this program."""
        server = self.postgresql(program)
        return self._started(f"pgbouncer before {program}", lambda: Pgbouncer(path, server))

    def mariadb(self, program: MysqlProgram) -> Mariadb:
        """Return the running server of this program."""
        return self._started(str(program), lambda: Mariadb(program))

    def _started(self, name: str, make: Callable[[], _S]) -> _S:
        if name not in self._servers:
            self._servers[name] = make()
        server: _S = self._servers[name]  # type: ignore[assignment]  # a name is used for only one class
        return server if server.is_running else server.start()

    @contextmanager
    def database_on(self, server: Postgresql | Mariadb) -> Iterator[str]:
        """Yield the name of a new database on the server, and drop the database afterwards."""
        name = f"firelock_{next(self._numbers)}"
        server.create_database(name)
        try:
            yield name
        finally:
            if server.is_running:
                server.drop_database(name)

    @contextmanager
    def database_of(self, program: PostgresqlProgram | MysqlProgram) -> Iterator[Any]:
        """Yield a new database on this program's server."""
        is_postgresql = isinstance(program, PostgresqlProgram)
        server: Any = self.postgresql(program) if is_postgresql else self.mariadb(program)
        with self.database_on(server) as name:
            yield PostgresqlDatabase(server, name, server) if is_postgresql else MysqlDatabase(server, name)

    def close(self) -> None:
        """Stop all servers; poolers stop before the servers behind them."""
        while self._servers:
            self._servers.popitem()[1].close()


_RUNNING = Running()


@pytest.fixture(scope="session")
def sql_servers() -> Iterator[Running]:
    """The servers of this run, the same ones for every folder that imports these fixtures."""
    yield _RUNNING
    _RUNNING.close()


@pytest.fixture(scope="module", params=one_postgresql())
def postgresql_program(request: pytest.FixtureRequest) -> PostgresqlProgram:
    """The PostgreSQL programs that the tests for all databases run on."""
    return here(request.param)


@pytest.fixture(scope="module")
def postgresql(sql_servers: Running, postgresql_program: PostgresqlProgram) -> Iterator[PostgresqlDatabase]:
    """The module's own PostgreSQL database."""
    with sql_servers.database_of(postgresql_program) as database:
        yield database


@pytest.fixture(scope="module", params=[*one_postgresql(), *chosen_mysqls()])
def server_database(sql_servers: Running, request: pytest.FixtureRequest) -> Iterator[AnyDatabase]:
    """The module's own database, on each server in turn."""
    with sql_servers.database_of(here(request.param)) as database:
        yield database


@pytest.fixture
def admin(postgresql: PostgresqlDatabase) -> Iterator[psycopg.Connection]:
    """The superuser's connection to the module's PostgreSQL database."""
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module", params=one_postgresql())
def pgbouncer(sql_servers: Running, request: pytest.FixtureRequest) -> Iterator[PostgresqlDatabase]:
    """A PostgreSQL database behind PgBouncer, which lends each connection for one transaction."""
    pooler = sql_servers.pgbouncer(here(programs.pgbouncer()), here(request.param))
    with sql_servers.database_on(pooler.server) as name:
        yield PostgresqlDatabase(pooler.server, name, pooler)


@pytest.fixture(scope="module", params=chosen_mysqls())
def mysql_program(request: pytest.FixtureRequest) -> MysqlProgram:
    """The MariaDB and MySQL programs that the tests for all databases run on."""
    return here(request.param)


@pytest.fixture(scope="module")
def mariadb(sql_servers: Running, mysql_program: MysqlProgram) -> Iterator[MysqlDatabase]:
    """The module's own database on MariaDB or MySQL."""
    with sql_servers.database_of(mysql_program) as database:
        yield database


_T = TypeVar("_T")


def here(program: _T | Missing) -> _T:
    """Return the program of a fixture's parameter; end the test if the program is missing."""
    if isinstance(program, Missing):
        program.skip_or_fail()
    return program
