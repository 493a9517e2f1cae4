"""A storage with servers that run one load after another, in a process of the checkout whose Python this is.

`python -m benchmarks.limits.stage STORAGE TASK SERVERS FOLDER` says `{}` once it is ready; for each line
with a number of jobs it stores them, lets the servers run them, and prints the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from benchmarks import ours, servers
from benchmarks.entry import Figures, exit_when_told
from benchmarks.limits import places, tasks
from benchmarks.limits.places import Place
from benchmarks.servers import ROOT, Server
from firelock import Firelock


class Stage:
    """The other end of a stage's process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._read()

    def run(self, jobs: int) -> Figures:
        """Return the figures of so many jobs."""
        stdin = _stream(self._process.stdin)
        stdin.write(f"{jobs}\n")
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
def standing(python: str, storage: str, task: str, folder: Path, *, number: int = 1) -> Iterator[Stage]:
    """Run a stage with so many servers, all of the Firelock of a Python, for as long as the block lasts."""
    log = folder.with_suffix(".log")
    words = [python, "-m", "benchmarks.limits.stage", storage, task, str(number), str(folder)]
    pipe = subprocess.PIPE
    with log.open("w") as complaints:
        process: Any = servers.start(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=complaints, text=True)
        try:
            yield Stage(process, log)
        finally:
            servers.end(process)
            _stream(process.stdin).close()
            _stream(process.stdout).close()


def run_load(fire: Firelock, task: Any, jobs: int, place: Place, group: Sequence[Server]) -> Figures:  # noqa: ANN401 - a task
    """Return jobs a second, from the first end to the last, and processor time a job, storage and servers."""
    done = ours.count_succeeded(fire)
    fire.queues.pause("default")
    task.enqueue_many(tasks.calls(task.name, jobs))

    def used() -> float:
        return place.cpu_seconds() + sum(server.cpu_seconds() for server in group)

    before, since = used(), datetime.now(UTC)
    fire.queues.resume("default")
    places.wait_for(group[0], fire, done + jobs)
    cpu = used() - before
    window = ours.read_window(fire, since=since).total_seconds()
    return {"jobs_per_s": (jobs - 1) / window, "cpu_us_per_job": cpu / jobs * 1e6}


def main() -> None:
    """Serve the lines of standard input."""
    storage, name, number, folder = sys.argv[1:]
    exit_when_told()
    with (
        places.opened(storage, Path(folder)) as place,
        places.client(place.url) as fire,
        places.serving(place, number=int(number)) as group,
    ):
        task = tasks.declare(fire)[name]
        places.wait_for_servers(group[0], fire, int(number))
        print("{}", flush=True)
        for line in sys.stdin:
            print(json.dumps(run_load(fire, task, int(line), place, group)), flush=True)


if __name__ == "__main__":
    main()
