"""A contender's server as a child process: started, watched from the outside, stopped.

Only the standard library is imported here, since peers use it from a virtual environment of their own. What a
server uses of the machine is read from /proc, so these measures need Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.entry import Figures

ROOT = Path(__file__).parent.parent
TICK = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 600.0
GRACE_SECONDS = 40.0
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """A server ended by itself, never got its work done, or did not stop; its log is in the message."""


class Server:
    """A running server with all the processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def failed(self, what: str) -> ServerFailed:
        """Return the error to raise, with the end of the server's log."""
        return ServerFailed(f"{what}\n{self._log.read_text(errors='replace')[-4000:]}")

    def assert_running(self, what: str) -> None:
        """Raise ServerFailed where the server has ended by itself before something."""
        if (code := self._process.poll()) is not None:
            raise self.failed(f"the server ended with {code} before {what}")

    def wait_until(self, condition: Callable[[], bool], *, what: str) -> None:
        """Return once the condition holds; looked at every 50 ms.

        Raises:
            ServerFailed: the server has ended, or the condition does not hold within ten minutes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            self.assert_running(what)
            if time.monotonic() > deadline:
                raise self.failed(f"{PATIENCE_SECONDS:.0f} s passed before {what}")
            time.sleep(POLL_SECONDS)

    def pids(self) -> list[int]:
        """Return the ids of the server's processes, the first started first."""
        parents = read_parents()
        found = [self._process.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu_seconds(self) -> float:
        """Return what the server's processes have used of the processors, those already ended included."""
        return sum(read_cpu_seconds(pid) for pid in self.pids())

    def stop(self) -> None:
        """End the server in its own orderly way.

        Raises:
            ServerFailed: it did not end within its grace time, and was killed.
        """
        if not end(self._process):
            raise self.failed("the server did not stop when told to")


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - those of Popen
    """Start a program in a group of its own that is killed when this thread ends, in whatever way."""
    return subprocess.Popen(
        command,
        process_group=0,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into C that takes no lock
        **options,
    )


def end(process: subprocess.Popen[Any], *, grace: float = GRACE_SECONDS) -> bool:
    """Tell a program to end, and kill it and all it has started when it does not in time: False then."""
    if process.poll() is not None:
        return True
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def die_with_parent() -> None:
    """Ask Linux, in a child before it becomes another program, to kill it when its parent is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def running(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Run a server for as long as the block lasts, with the checkout importable."""
    environment = {**os.environ, **environment}
    paths = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT)])
    with log.open("wb") as output:
        process = start(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
        server = Server(process, log)
        try:
            yield server
        finally:
            server.stop()


def watch_drain(
    server: Server, ended: Callable[[], int], *, jobs: int, storage: Callable[[], float] | None = None
) -> Figures:
    """Return the server's processor time a job, once all the jobs have ended.

    Taken from the first look that finds some of them ended, so that starting the server counts for none.
    Nothing is returned where all had ended by then: there were too few. `storage` tells what a storage with
    processes of its own has used; it is in the sum, and a figure of its own.
    """
    first: list[tuple[int, float, float]] = []

    def look(number: int) -> tuple[int, float, float]:
        return number, server.cpu_seconds(), storage() if storage else 0.0

    def drained() -> bool:
        number = ended()
        if number and not first and number < jobs:
            first.append(look(number))
        return number >= jobs

    server.wait_until(drained, what=f"{jobs} jobs had ended")
    _, at_server, at_storage = look(jobs)
    if not first:
        return {}
    number, server_before, storage_before = first[0]
    of_storage = (at_storage - storage_before) / (jobs - number) * 1e6
    figures = {"cpu_us_per_job": (at_server - server_before) / (jobs - number) * 1e6 + of_storage}
    return {**figures, "storage_us_per_job": of_storage} if storage else figures


def read_parents() -> dict[int, int]:
    """Return each process's parent."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(read_stat(int(folder.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    return parents


def read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; the name before it may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def read_cpu_seconds(pid: int) -> float:
    """Return what a process and its ended children have used; nothing for one that is gone."""
    try:
        return sum(int(ticks) for ticks in read_stat(pid)[11:15]) / TICK
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def bare_memory_mib(statement: str) -> float:
    """Return the resident memory of a Python that has run one statement and nothing else, in MiB."""
    reads = f"{statement}; print(open('/proc/self/smaps_rollup').read())"
    printed = subprocess.run([sys.executable, "-c", reads], check=True, capture_output=True, text=True).stdout
    (resident,) = (line.split()[1] for line in printed.splitlines() if line.startswith("Rss:"))
    return int(resident) / 1024


def read_memory_mib(pid: int) -> tuple[float, float]:
    """Return resident memory of a process, and its share of it where pages are shared, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return sizes["Rss"], sizes["Pss"]
