"""What happened, written by those it happened to: a file a process, a line an event, never read by Firelock.

A line is appended by one `write` to a file opened with O_APPEND, so a process may die at any instant and
leaves whole lines behind.
"""

from __future__ import annotations

import json
import os
import time

import attrs


@attrs.frozen
class Event:
    """One line: what, when (monotonic, one host's processes share it), by which process, and the rest."""

    what: str
    at: float
    pid: int
    job: str = ""
    attempt: int = 0
    fence: int = 0
    note: str = ""
    parent: int = 0  # the process that started this one: a child, where a job runs in a process of its own


class Ledger:
    """Appends this process's events to its own file in a folder."""

    def __init__(self, folder):
        self._folder = folder
        self._opened = (0, -1)  # by which process, and as which file

    def write(self, what, *, job="", attempt=0, fence=0, note="", at=None):
        """The event, of now unless an instant is given, is in the file before this returns."""
        pid = os.getpid()
        if self._opened[0] != pid:  # replaced as a whole, since several threads may come here at once
            path = self._folder / f"{pid}.jsonl"
            self._opened = pid, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = json.dumps(
            [what, time.monotonic() if at is None else at, pid, job, attempt, fence, note, os.getppid()]
        )
        os.write(self._opened[1], line.encode() + b"\n")


def read_ledger(folder):
    """Return every event of every process, in order of time."""
    return sorted(_events(folder), key=lambda event: event.at)


def _events(folder):
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            yield Event(*json.loads(line))


class Tail:
    """What is written from now on, read once: a whole ledger takes the longer the longer a scenario runs."""

    def __init__(self, folder):
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.jsonl")}
        self._started = set()

    def has_started(self, job_id):
        """Tell whether a run of the job has started since."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            events = (Event(*json.loads(line)) for line in whole.splitlines())
            self._started.update(event.job for event in events if event.what == "start")
        return job_id in self._started
