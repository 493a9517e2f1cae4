"""Groups of processes that end with the process that has registered them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from firelock.server.process_groups import GroupGuard
from tests.core.fakes import unmeasured, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@pytest.fixture
def guard():
    """A guard without groups."""
    return GroupGuard()


@pytest.fixture
def start(guard):
    """A function that starts a program that leads a group; the program is killed at the end."""
    started = []

    def begin():
        process = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        guard.kill(process.pid)  # also ends the guard itself
        process.kill()
        process.wait()


def guards():
    """Return the ids of the guards that this process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and b"process_groups.py" in (folder / "cmdline").read_bytes():
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                found += [int(folder.name)] if int(parent) == os.getpid() else []
    return found


PROGRAM = """
import os, signal, sys
from firelock.server.process_groups import GroupGuard
guard = GroupGuard()
for group in sys.argv[2:]:
    guard.add(int(group))
{more}
os.register_at_fork(after_in_child=guard.let_go)
if sys.argv[1] == "fork" and not os.fork():
    signal.pause()
print("ready", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_groups_are_killed_when_their_process_is_killed(start, how):
    """A forked copy of the process that continues to run does not keep the groups alive."""
    kept, ended = start(), start()
    program = PROGRAM.format(more="")
    command = [sys.executable, "-c", program, how, str(ended.pid)]
    host = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=unmeasured()
    )

    assert host.stdout.readline() == b"ready\n"
    assert ended.poll() is None
    try:
        host.stdin.close()
        host.wait(30)
        assert ended.wait(30) == -signal.SIGKILL
        assert kept.poll() is None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(host.pid, signal.SIGKILL)  # the forked copy
        host.stdout.close()


def test_removed_group_outlives_the_process(start):
    """The id of a removed group may have been reused, so only its owner may kill it."""
    first, removed = start(), start()
    program = PROGRAM.format(more="guard._send(b'-%d\\n' % int(sys.argv[-1]))")
    command = [sys.executable, "-c", program, "alone", str(first.pid), str(removed.pid)]

    subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=unmeasured(), check=False
    )

    assert first.wait(30) == -signal.SIGKILL
    assert removed.poll() is None


def test_guard_runs_as_long_as_groups_exist(start, guard):
    """The guard stops when the last group ends."""
    first, second = start(), start()

    for process in (first, second):
        guard.add(process.pid)
    running = until(guards)  # a program that has just begun has no command line yet
    guard.kill(first.pid)
    left = until(guards)  # a program that has just begun has no command line yet
    guard.kill(second.pid)

    assert (1, running, []) == (len(running), left, guards())
    assert [first.wait(30), second.wait(30)] == [-signal.SIGKILL] * 2


def test_killed_guard_is_replaced(start, guard):
    """The next group starts another guard, which also guards the earlier groups."""
    first, second = start(), start()
    guard.add(first.pid)
    (killed,) = until(guards)  # a program that has just begun has no command line yet
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)

    guard.add(second.pid)
    (other,) = until(guards)  # a program that has just begun has no command line yet

    assert other != killed
    for process in (first, second):
        guard.kill(process.pid)


def test_guard_ignores_stop_signals(start, guard):
    """A service manager may signal all processes of a server, which then stops in its own order."""
    first, second = start(), start()
    guard.add(first.pid)
    (one,) = until(guards)  # a program that has just begun has no command line yet
    status = Path(f"/proc/{one}/status")

    def ignored():
        line = next(line for line in status.read_text().splitlines() if line.startswith("SigIgn"))
        return int(line.split()[1], 16)

    until(
        lambda: all(ignored() >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    )
    guard.add(second.pid)
    assert [one] == guards()
    for process in (first, second):
        guard.kill(process.pid)


def test_group_that_cannot_be_guarded_is_not_registered(start, guard, monkeypatch):
    """For example, the system may be unable to start the guard."""
    process = start()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(OSError, match="nowhere"):
            guard.add(process.pid)

    other = start()
    guard.add(other.pid)
    guard.kill(other.pid)

    assert [] == guards()
    assert process.poll() is None
