"""A client in another language: a program that enqueues jobs and measures itself.

With the arguments `jobs NUMBER SIZE`, the program enqueues jobs, SIZE per call, and prints two numbers:
elapsed and processor seconds. SIZE 1 means the call for a single job. With `timestamps`, it prints a line
when it is ready. Then it enqueues a job for each number that it reads, and prints the time before the call,
in nanoseconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from benchmarks.entry import Figures
from benchmarks.servers import ROOT


class Program:
    """A client program and its output."""

    def __init__(self, *command: str, **environment: str) -> None:
        self._command = command
        self._environment = environment
        self._stamping: subprocess.Popen[str] | None = None

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """Start the program with text streams for input and output."""
        return subprocess.Popen(
            [*self._command, *words],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def enqueue(self, jobs: int, size: int) -> Figures:
        """Make the program enqueue jobs; return its own figures."""
        with self.start(["jobs", str(jobs), str(size)]) as process:
            printed, _ = process.communicate()
        if process.returncode:
            message = f"{self._command[-1]} ended with {process.returncode}"
            raise RuntimeError(message)
        seconds, cpu = (float(word) for word in printed.split())
        return {"jobs_per_s": jobs / seconds, "cpu_us_per_job": cpu / jobs * 1e6}

    def stamp(self, number: int) -> int:
        """Make the program enqueue a job that records its start; return the time of the enqueue."""
        if self._stamping is None:
            self._stamping = self.start(["timestamps"])
            self.read_line()
        stdin = self._stamping.stdin
        assert stdin is not None
        stdin.write(f"{number}\n")
        stdin.flush()
        return int(self.read_line())

    def read_line(self) -> str:
        """Return the next line of the program's output."""
        assert self._stamping is not None
        assert self._stamping.stdout is not None
        return self._stamping.stdout.readline()
