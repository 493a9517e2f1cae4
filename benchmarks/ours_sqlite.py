"""Firelock on SQLite, through its public door: the floor's scenarios, and those that only a server has.

The client runs in this process, the server as the command line starts it. What the public API cannot say to
the microsecond, the first and the last end of a job, is read from the database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

from benchmarks import growth, latency, servers, stamps, wal
from benchmarks.entry import Figures, Load, run, timed
from benchmarks.servers import Server
from benchmarks.startup import COMMAND, startup

WORKERS = 10
CHUNK = 500
SETTLING_SECONDS = 5.0
TRACE = Path(__file__).parent / "trace"


@contextmanager
def opened(database: Path) -> Iterator[ModuleType]:
    """Import the application with an empty database that is fully made, and close it after the block."""
    os.environ["FIRELOCK_STORAGE"] = f"sqlite:///{database}"
    from benchmarks import ours_app  # the application reads its storage's place when it is imported

    ours_app.fire.jobs.counts()
    yield ours_app
    ours_app.fire.close()


@contextmanager
def serving(load: Load, **environment: str) -> Iterator[Server]:
    """Run a server of one process and ten workers beside the block."""
    command = [COMMAND, "server", "benchmarks.ours_app:fire", "--workers", str(WORKERS), "--processes", "1"]
    with servers.running(command, environment=environment, log=load.directory / "server.log") as server:
        yield server


def count_succeeded(app: ModuleType) -> int:
    """Return how many jobs have succeeded."""
    count: int = app.fire.jobs.counts().by_state.get("succeeded", 0)
    return count


def enqueue_bulk_of(app: ModuleType, *, jobs: int, size: int) -> None:
    """Enqueue so many jobs, `size` a call; a call of more than 500 is stored in chunks of 500."""
    for begin in range(0, jobs, size):
        app.noop.enqueue_many([(number,) for number in range(begin, min(begin + size, jobs))])


def enqueue_singly(app: ModuleType, *, jobs: int) -> None:
    """Enqueue so many jobs, one a call."""
    for number in range(jobs):
        app.noop.enqueue(number)


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure `enqueue_many` of 100 jobs a call."""
    with opened(load.database) as app:
        return timed(lambda: enqueue_bulk_of(app, jobs=load.jobs, size=100), jobs=load.jobs)


def enqueue_bulk(load: Load) -> Figures:
    """Measure one `enqueue_many` of all the jobs, which stores them in chunks of 500."""
    with opened(load.database) as app:
        return timed(lambda: enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs), jobs=load.jobs)


def enqueue_one(load: Load) -> Figures:
    """Measure `enqueue`, which commits each job."""
    with opened(load.database) as app:
        return timed(lambda: enqueue_singly(app, jobs=load.singles), jobs=load.singles)


def read_window(database: Path, *, jobs: int) -> tuple[int, int]:
    """Return the first and the last end among the `jobs` jobs that ended last, in micros."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        table = growth.find_table(growth.read_tables(connection), "id", "state", "ended_at")
        query = f"select ended_at from {table.name} where state = 'succeeded' order by id desc limit ?"
        ends = [ended_at for (ended_at,) in connection.execute(query, (jobs,))]
    return min(ends), max(ends)


def drained(app: ModuleType, load: Load, database: Path, *, jobs: int) -> Figures:
    """Measure a server that starts with `jobs` jobs ready, from the first end of one to the last."""
    target = count_succeeded(app) + jobs
    before = target - jobs
    with serving(load) as server:
        cpu = servers.watch_drain(server, lambda: count_succeeded(app) - before, jobs=jobs)
    if (succeeded := count_succeeded(app)) != target:
        message = f"{target} jobs should have succeeded by now, {succeeded} have"
        raise RuntimeError(message)
    first, last = read_window(database, jobs=jobs)
    return {"jobs_per_s": (jobs - 1) / (last - first) * 1e6, **cpu}


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before the server started."""
    with opened(load.database) as app:
        enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)
        return drained(app, load, load.database, jobs=load.jobs)


def commits(load: Load) -> Figures:
    """Count the commits a job in the write-ahead log; the server's own, from its start on, are among them."""
    jobs = load.jobs + load.singles
    with opened(load.database) as app, wal.kept(load.database):
        begun = wal.count_commits(load.database)
        enqueue_singly(app, jobs=load.singles)
        single = wal.count_commits(load.database)
        enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)
        bulk = wal.count_commits(load.database)
        with serving(load) as server:
            server.wait_until(lambda: count_succeeded(app) >= jobs, what=f"{jobs} jobs had ended")
            processed = wal.count_commits(load.database)
    return {
        "enqueue_one": (single - begun) / load.singles,
        "enqueue_bulk": (bulk - single) / load.jobs,
        "process": (processed - bulk) / jobs,
    }


def start_to_start(load: Load) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task on an idle server."""
    path = load.directory / "stamps"
    with opened(load.database) as app, serving(load, **{stamps.VARIABLE: str(path)}) as server:
        return latency.measure(server, app.stamp.enqueue, path, samples=load.samples)


def verbs(app: ModuleType, load: Load) -> Figures:
    """Measure the three verbs on whatever is stored already."""
    bulk = timed(lambda: enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs), jobs=load.jobs)
    processed = drained(app, load, load.database, jobs=load.jobs)
    single = timed(lambda: enqueue_singly(app, jobs=load.singles), jobs=load.singles)
    drained(app, load, load.database, jobs=load.singles)
    return {
        "bulk_jobs_per_s": bulk["jobs_per_s"],
        "process_jobs_per_s": processed["jobs_per_s"],
        "one_jobs_per_s": single["jobs_per_s"],
    }


def grown(load: Load) -> Figures:
    """Compare the three verbs beside many finished jobs with the same in a database with few."""
    with opened(load.database) as app:
        enqueue_bulk_of(app, jobs=growth.SOURCES, size=CHUNK)
        drained(app, load, load.database, jobs=growth.SOURCES)
        empty = verbs(app, load)
        growth.multiply(load.database, stored=load.stored)
        if (succeeded := count_succeeded(app)) != load.stored:
            message = f"{load.stored} jobs are stored as succeeded, the counts say {succeeded}"
            raise RuntimeError(message)
        with wal.kept(load.database):
            pass  # both measurements begin with an empty log
        lists = {"slowest_list_ms": slowest_list_ms(app)}
        return growth.shares(empty, verbs(app, load)) | lists


def slowest_list_ms(app: ModuleType) -> float:
    """Return the longest that a first look at any list takes: pages of 50, counts, queues."""
    jobs = app.fire.jobs
    lists: tuple[Callable[[], object], ...] = (
        lambda: jobs.find(limit=50),
        lambda: jobs.find(state="succeeded", limit=50),
        lambda: jobs.find(state="succeeded", limit=50, oldest_first=True),
        lambda: jobs.find(task="benchmarks.ours_app.noop", limit=50),
        lambda: jobs.find(queue="default", limit=50),
        jobs.counts,
        app.fire.queues.list,
    )
    return max(1000 / timed(one, jobs=1)["jobs_per_s"] for one in lists)


def rest(load: Load) -> Figures:
    """Measure what a server without work costs: memory, processor, storage calls."""
    with opened(load.database) as app:
        enqueue_singly(app, jobs=1)
        with serving(load) as server:
            server.wait_until(lambda: count_succeeded(app) == 1, what="the first job had ended")
            figures = watch_rest(server, seconds=load.seconds)
        trace = load.directory / "trace"
        with serving(load, FIRELOCK_BENCH_TRACE=str(trace), PYTHONPATH=str(TRACE)):
            time.sleep(SETTLING_SECONDS)
            before = trace.read_bytes().count(b"\n")
            time.sleep(load.seconds)
            after = trace.read_bytes().count(b"\n")
    return {**figures, "calls_per_s": (after - before) / load.seconds}


def watch_rest(server: Server, *, seconds: int) -> Figures:
    """Return memory and processor use of a server, once it has settled, over some seconds."""
    time.sleep(SETTLING_SECONDS)
    cpu = server.cpu_seconds()
    time.sleep(seconds)
    memory = [servers.read_memory_mib(pid) for pid in server.pids()]
    return {
        "cpu_percent": (server.cpu_seconds() - cpu) / seconds * 100,
        "processes": len(memory),
        "rss_mib": sum(resident for resident, _ in memory),
        "pss_mib": sum(shared for _, shared in memory),
        "largest_rss_mib": max(resident for resident, _ in memory),
    }


SCENARIOS = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "commits": commits,
    "latency": start_to_start,
    "growth": grown,
    "rest": rest,
    "startup": startup,
}

if __name__ == "__main__":
    run(SCENARIOS)
