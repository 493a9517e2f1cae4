"""A client that is no Python: a program that enqueues and measures itself.

It is started with `jobs NUMBER SIZE` and prints two numbers, seconds of the clock and of the processor, for
so many jobs enqueued, SIZE a call, where 1 is the call for a single one. Started with `stamps` it prints a
line when it is ready, then enqueues a job for each number that it reads and prints the instant before, in
nanoseconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from benchmarks.entry import Figures
from benchmarks.servers import ROOT


class Program:
    """A client program, and what it prints."""

    def __init__(self, *command: str, **environment: str) -> None:
        self._command = command
        self._environment = environment
        self._stamping: subprocess.Popen[str] | None = None

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """Start it with a text stream on both sides."""
        return subprocess.Popen(
            [*self._command, *words],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def enqueue(self, jobs: int, size: int) -> Figures:
        """Have it enqueue so many jobs; return its own figures."""
        with self.start(["jobs", str(jobs), str(size)]) as process:
            said, _ = process.communicate()
        if process.returncode:
            message = f"{self._command[-1]} ended with {process.returncode}"
            raise RuntimeError(message)
        seconds, cpu = (float(word) for word in said.split())
        return {"jobs_per_s": jobs / seconds, "cpu_us_per_job": cpu / jobs * 1e6}

    def stamp(self, number: int) -> int:
        """Have it enqueue a job that writes its start down; return when it did."""
        if self._stamping is None:
            self._stamping = self.start(["stamps"])
            self.read_line()
        stdin = self._stamping.stdin
        assert stdin is not None
        stdin.write(f"{number}\n")
        stdin.flush()
        return int(self.read_line())

    def read_line(self) -> str:
        """Return the next line that it prints."""
        assert self._stamping is not None
        assert self._stamping.stdout is not None
        return self._stamping.stdout.readline()
