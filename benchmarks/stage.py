"""A process of a checkout that runs loads; it reads a line per load, and prints a line with its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks import servers
from benchmarks.entry import Figures
from benchmarks.servers import ROOT


class Stage:
    """The connection to a stage's process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._read()

    def run(self, *arguments: object) -> Figures:
        """Return the figures of a load."""
        stdin = _stream(self._process.stdin)
        stdin.write(" ".join(map(str, arguments)) + "\n")
        stdin.flush()
        return self._read()

    def _read(self) -> Figures:
        if not (line := _stream(self._process.stdout).readline()):
            raise RuntimeError(self._log.read_text(errors="replace")[-4000:])
        figures: Figures = json.loads(line)
        return figures


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@contextmanager
def running(python: str, module: str, arguments: Sequence[object], folder: Path) -> Iterator[Stage]:
    """Run a module with these arguments and its folder as a stage within the block."""
    log = folder.with_suffix(".log")
    command = [python, "-m", module, *map(str, arguments), str(folder)]
    pipe = subprocess.PIPE
    with log.open("w") as complaints:
        process: Any = servers.start(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=complaints, text=True)
        try:
            yield Stage(process, log)
        finally:
            servers.end(process)
            _stream(process.stdin).close()
            _stream(process.stdout).close()


def serve(run: Callable[..., Figures]) -> None:
    """Print that this process is ready, then run a load for each line of standard input."""
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(*line.split())), flush=True)
