"""The ledger: events, written by the processes they happened to, one file per process and one line per event.

Firelock never reads it. A line is appended by one `write` to a file opened with O_APPEND, so only whole lines
remain when a process dies.
"""

from __future__ import annotations

import json
import os
import time

import attrs


@attrs.frozen
class Event:
    """An event: its kind, its time (monotonic, comparable on one host), its process, and details."""

    what: str
    at: float
    pid: int
    job: str = ""
    attempt: int = 0
    fence: int = 0
    note: str = ""
    parent: int = 0  # the process that started this one; for a job process, its worker process


class Ledger:
    """Appends the events of this process to its own file in a folder."""

    def __init__(self, folder):
        self._folder = folder
        self._opened = (0, -1)  # the process that opened it, and the file descriptor

    def write(self, what, *, job="", attempt=0, fence=0, note="", at=None):
        """Write an event, by default with the current time; it is in the file when the call returns."""
        pid = os.getpid()
        if self._opened[0] != pid:  # one assignment, because several threads may run this code
            path = self._folder / f"{pid}.jsonl"
            self._opened = pid, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = json.dumps(
            [what, time.monotonic() if at is None else at, pid, job, attempt, fence, note, os.getppid()]
        )
        os.write(self._opened[1], line.encode() + b"\n")


def read_ledger(folder):
    """Return all events of all processes, ordered by time."""
    return sorted(_events(folder), key=lambda event: event.at)


def _events(folder):
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            yield Event(*json.loads(line))


class Tail:
    """The events from now on, each read once, because reading the whole ledger takes ever longer."""

    def __init__(self, folder):
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.jsonl")}
        self._started = set()

    def has_started(self, job_id):
        """Return whether a run of the job has started since."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            events = (Event(*json.loads(line)) for line in whole.splitlines())
            self._started.update(event.job for event in events if event.what == "start")
        return job_id in self._started
