"""The storages for scenarios: a given URL, or a server that is started for the run."""

from __future__ import annotations

from contextlib import contextmanager

from tests.faults.servers import Place
from tests.redis.programs import Program, programs
from tests.redis.servers import RedisServer
from tests.sql.servers.mariadb import Mariadb
from tests.sql.servers.pgbouncer import Pgbouncer
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.programs import (
    Missing,
    MysqlProgram,
    PostgresqlProgram,
    mysqls,
    pgbouncer,
    postgresqls,
)

AnyProgram = Program | PostgresqlProgram | MysqlProgram

_SCHEMES = {
    "unix": "redis", "rediss": "redis", "valkey": "redis", "valkeys": "redis", "postgres": "postgresql",
    "mariadb": "mysql", "pgbouncer": "postgresql",
}  # fmt: skip
_DATABASE = "jobs"


def scheme_of(storage):
    """Return the scheme of a URL or a server's name, as scenarios declare it."""
    scheme = storage.partition(":")[0].partition("-")[0].partition("+")[0]
    return _SCHEMES.get(scheme, scheme)


def is_played_on(schemes, storage):
    """Return whether a scenario with these schemes can run on a storage (a URL or a server's name)."""
    return not schemes or scheme_of(storage) in schemes


def _programs():
    return (*programs(), *postgresqls(), *mysqls())


@contextmanager
def opened(storage, folder, slack=0.0):
    """Yield a place in the folder.

    Args:
        storage: a URL; or `redis`, `postgresql` or the beginning of a program's name such as `redis-8`, for a
            server that is started and stopped with the run; or `pgbouncer` for a PostgreSQL behind PgBouncer,
            which lends a connection for one transaction; or None for a SQLite file in the folder.
        folder: the folder for logs and ledgers.
        slack: seconds by which bounds are widened.
    """
    if storage is None:
        yield Place(folder, f"sqlite:///{folder.resolve()}/jobs.db", slack=slack)
    elif ":" in storage:
        alike = [one for one in _programs() if scheme_of(str(one)) == scheme_of(storage)]
        yield Place(folder, storage, program=next(iter(alike), None), slack=slack)
    elif storage == "pgbouncer":
        postgresql = postgresqls()[0]
        with sql_server(postgresql, is_pooled=True) as (_, url):
            yield Place(folder, url, program=postgresql, slack=slack, is_pooled=True)
    else:
        found = [program for program in _programs() if str(program).startswith(storage)]
        if not found:
            known = ", ".join(map(str, _programs()))
            raise SystemExit(
                f"No server {storage!r} on this machine; there are: {known or 'none'}. Or name a URL."
            )
        with place_on(found[0], folder, slack) as place:
            yield place


@contextmanager
def place_on(program, folder, slack=0.0):
    """Yield a place on a new server."""
    if isinstance(program, Program):
        with RedisServer(program) as redis:
            yield Place(folder, redis.url(), program=program, slack=slack)
    else:
        with sql_server(program) as (_, url):
            yield Place(folder, url, program=program, slack=slack)


@contextmanager
def sql_server(program, options=None, *, is_pooled=False):
    """Yield a running new server and the URL of an empty database on it, optionally behind PgBouncer."""
    server: Postgresql | Mariadb
    if isinstance(program, PostgresqlProgram):
        server = Postgresql(program, options)
    else:
        assert isinstance(program, MysqlProgram), program
        server = Mariadb(program, options)
    with server:
        server.create_database(_DATABASE)
        if not is_pooled:
            yield server, server.url(_DATABASE)
            return
        path = pgbouncer()
        assert isinstance(server, Postgresql), server
        if isinstance(path, Missing):
            raise SystemExit(path.reason)
        with Pgbouncer(path, server) as pooler:
            yield server, pooler.url(_DATABASE)
