"""A storage with servers that run one load after another, in a process of its interpreter's checkout.

`python -m benchmarks.limits.loads STORAGE TASK SERVERS FOLDER` prints `{}` when it is ready. For each line,
which is a number of jobs, it stores the jobs, lets the servers run them, and prints the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import ours, places, stage
from benchmarks.entry import Figures, exit_on_signal
from benchmarks.limits import tasks
from benchmarks.places import Place
from benchmarks.servers import Server
from firelock import Firelock


def run_load(fire: Firelock, task: Any, jobs: int, place: Place, group: Sequence[Server]) -> Figures:  # noqa: ANN401 - a task
    """Return the jobs per second between the first and the last end, and the processor time per job."""
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
    """Run a load for each line of standard input."""
    storage, name, number, folder = sys.argv[1:]
    exit_on_signal()
    with (
        places.opened(storage, Path(folder)) as place,
        places.client(place.url) as fire,
        tasks.serving(place, number=int(number)) as group,
    ):
        task = tasks.declare(fire)[name]
        places.wait_for_servers(group[0], fire, int(number))
        stage.serve(lambda jobs: run_load(fire, task, int(jobs), place, group))


if __name__ == "__main__":
    main()
