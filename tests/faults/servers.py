"""Starting, finding and killing real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from firelock.settings import Settings
from tests.faults.ledger import Ledger

if TYPE_CHECKING:
    from tests.faults.storages import AnyProgram

# Bytecode is written, because compiling at each start would take most of the time.
_NOT_PASSED_ON = ("FIRELOCK_", "PYTHONDONTWRITEBYTECODE")

# The timings of every scenario: session 2 s, renewed every 0.6 s, sweep every 0.5 s, poll every 0.2 s.
TIMINGS = {
    "FIRELOCK_SESSION_TIMEOUT": "2",
    "FIRELOCK_HEARTBEAT": "0.6",
    "FIRELOCK_SWEEP": "0.5",
    "FIRELOCK_POLL": "0.2",
    "FIRELOCK_GRACE": "5",
}


@attrs.frozen
class Place:
    """The environment of a scenario: its own folder and a storage."""

    folder: Path
    storage: str
    timings: Mapping[str, str] = TIMINGS
    program: AnyProgram | None = None  # for servers that a scenario starts, and perhaps the storage
    variables: Mapping[str, str] = attrs.field(factory=dict)  # additional environment variables
    is_pooled: bool = False  # PgBouncer is in front of the storage and of servers that a scenario starts
    slack: float = 0.0  # seconds added to each bound on a machine with other load

    @property
    def settings(self):
        """The settings of the servers under test."""
        return Settings.from_environment(environment=self.timings)

    @property
    def recovery_bound(self):
        """The time until a lost server's jobs run again: session timeout + sweep + poll + half a second."""
        settings = self.settings
        return settings.session_timeout + settings.sweep + settings.poll + 0.5

    def within(self, bound):
        """Return a bound in seconds, widened by the slack."""
        return bound + self.slack

    @property
    def ledger_folder(self):
        """The folder in which the processes write the ledger."""
        return self.folder / "ledger"

    def ledger(self):
        """Return this process's own ledger."""
        self.ledger_folder.mkdir(exist_ok=True)
        return Ledger(self.ledger_folder)

    def environment(self):
        """Return the environment of a server or client under test."""
        root = Path(__file__).parents[2]
        return {
            **{name: text for name, text in os.environ.items() if not name.startswith(_NOT_PASSED_ON)},
            **self.timings,
            "FIRELOCK_STORAGE": self.storage,
            "FAULTS_LEDGER": str(self.ledger_folder),
            "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **self.variables,
        }


class Server:
    """A `firelock server` of the app under test; its log is a file in the place's folder."""

    def __init__(
        self,
        place,
        name,
        *,
        workers=4,
        processes=1,
        app="tests.faults.apps.work:fire",
    ):
        self.processes = processes
        place.ledger_folder.mkdir(exist_ok=True)
        self.log = place.folder / f"{name}.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "firelock", "server", app, "--name", name,
                 "--workers", str(workers), "--processes", str(processes)],
                env=place.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=place.folder, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self):
        """The process id of the supervisor."""
        return self.process.pid

    def children(self):
        """Return the process ids of the worker processes from the kernel."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def family(self):
        """Return the process ids of all direct and indirect child processes of the supervisor."""
        return _started_by(self.pid)

    def kill(self):
        """Kill all processes of the server together; return their process ids."""
        pids = [self.pid, *self.family()]
        for pid in pids:
            kill(pid)
        self.process.wait()
        return pids

    def signal(self, number):
        """Send the supervisor a signal."""
        kill(self.pid, number)

    def freeze(self, *, frozen):
        """Stop all processes of the server, or resume them; return their process ids."""
        pids = [self.pid, *self.family()]
        for pid in pids:
            kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
        return pids

    def stop(self, timeout=30):
        """Stop the server and return its exit code; kill it if it does not stop."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def kill(pid, number=signal.SIGKILL):
    """Send the process a signal, unless it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _started_by(pid):
    own = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            own += map(int, path.read_text().split())
    return [*own, *(one for child in own for one in _started_by(child))]


def is_running(pid):
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(is_so, within, what):
    """Wait for a condition and return the seconds; fail at the deadline."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > within:
            raise AssertionError(f"{what}: not within {within:g} s")
        time.sleep(0.02)
    return time.monotonic() - began
