"""A contender's server as a child process, which is started, observed from outside and stopped.

This module imports only the standard library, because peers use it in separate virtual environments. The
server's use of resources is read from /proc, so these measurements need Linux.
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
LONGEST_SECONDS = 600.0
GRACE_SECONDS = 40.0
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """A server ended by itself, did not finish its work, or did not stop; the message contains its log."""


class Server:
    """A running server with all its child processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def failed(self, what: str) -> ServerFailed:
        """Return the error to raise, with the end of the server's log."""
        return ServerFailed(f"{what}\n{self._log.read_text(errors='replace')[-4000:]}")

    def assert_running(self, what: str) -> None:
        """Raise ServerFailed if the server has ended by itself before this event."""
        if (code := self._process.poll()) is not None:
            raise self.failed(f"the server ended with {code} before {what}")

    def wait_until(self, condition: Callable[[], bool], *, what: str) -> None:
        """Wait until the condition holds, which is checked every 50 ms.

        Raises:
            ServerFailed: If the server has ended, or the condition does not hold within ten minutes.
        """
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            self.assert_running(what)
            if time.monotonic() > deadline:
                raise self.failed(f"{LONGEST_SECONDS:.0f} s passed before {what}")
            time.sleep(POLL_SECONDS)

    def pids(self) -> list[int]:
        """Return the ids of the server's processes, in the order of their starts."""
        parents = read_parents()
        found = [self._process.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's processes, including ended ones."""
        return sum(read_cpu_seconds(pid) for pid in self.pids())

    def stop(self) -> None:
        """Stop the server gracefully.

        Raises:
            ServerFailed: If it did not end within its grace time, and was killed.
        """
        if not end(self._process):
            raise self.failed("the server did not stop after SIGTERM")


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - as for Popen
    """Start a program in its own process group, which is killed when this thread ends for any reason."""
    return subprocess.Popen(
        command,
        process_group=0,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into C, without a lock
        **options,
    )


def end(process: subprocess.Popen[Any], *, grace: float = GRACE_SECONDS) -> bool:
    """Request a program to end; if it does not, kill it and its child processes and return False."""
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
    """In a child process before it executes a program, make Linux kill it when its parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def running(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Run a server within the block; it can import the checkout."""
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
    """Wait until all jobs have ended; return the server's processor time per job.

    The measurement begins at the first check that finds ended jobs, so it does not include the server's
    start. If all jobs had ended by then, they were too few, and nothing is returned. `storage` returns the
    processor time of the storage's own processes, which is included in the sum and is a separate figure.
    """
    first: list[tuple[int, float, float]] = []

    def reading(number: int) -> tuple[int, float, float]:
        return number, server.cpu_seconds(), storage() if storage else 0.0

    def drained() -> bool:
        number = ended()
        if number and not first and number < jobs:
            first.append(reading(number))
        return number >= jobs

    server.wait_until(drained, what=f"{jobs} jobs had ended")
    _, at_server, at_storage = reading(jobs)
    if not first:
        return {}
    number, server_before, storage_before = first[0]
    of_storage = (at_storage - storage_before) / (jobs - number) * 1e6
    figures = {"cpu_us_per_job": (at_server - server_before) / (jobs - number) * 1e6 + of_storage}
    return {**figures, "storage_us_per_job": of_storage} if storage else figures


def read_parents() -> dict[int, int]:
    """Return the parent of each process."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(read_stat(int(folder.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has ended in the meantime
    return parents


def read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; the name before it can contain spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def read_cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its ended children; 0 if the process has ended."""
    try:
        return sum(int(ticks) for ticks in read_stat(pid)[11:15]) / TICK
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def bare_memory_mib(statement: str) -> float:
    """Return the resident memory of a Python process that has only run one statement, in MiB."""
    reads = f"{statement}; print(open('/proc/self/smaps_rollup').read())"
    printed = subprocess.run([sys.executable, "-c", reads], check=True, capture_output=True, text=True).stdout
    (resident,) = (line.split()[1] for line in printed.splitlines() if line.startswith("Rss:"))
    return int(resident) / 1024


def read_memory_mib(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional memory of a process, in MiB; shared pages are divided."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return sizes["Rss"], sizes["Pss"]
