"""Count the statements and round trips of jobs without limits, in this checkout and in another one.

`python -m benchmarks.limits.statements STORAGE FOLDER` counts in the checkout of its interpreter. It uses the
driver's trace on SQLite, the server's log on PostgreSQL (without the wake-ups, whose number is random), the
count of questions on MariaDB, and the count of commands on Redis, including those in scripts. A proxy counts
the round trips, on PostgreSQL including the wake-ups.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import counting, mariadb_server, places, postgresql_server, redis_server
from benchmarks.claimer import Claimer
from benchmarks.harness import run_to_end
from benchmarks.limits import tasks
from benchmarks.pairs import Row
from benchmarks.plan import Plan

Meters = Callable[[], Mapping[str, int]]
Counts = dict[str, dict[str, int]]


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the counts of each step, compared with those of the other checkout if one is given."""
    ours = _counted(sys.executable, plan, "ours")
    python = f"{plan.baseline}/.venv/bin/python"
    base = _counted(python, plan, "baseline") if plan.baseline else {}
    for step, counts in ours.items():
        row: Row = {"what": step, **counts}
        if base:
            row |= {f"baseline_{name}": value for name, value in base[step].items()}
            row["is_same"] = counts["statements"] == base[step]["statements"]
        yield row


def _counted(python: str, plan: Plan, folder: str) -> Counts:
    command = [python, "-m", "benchmarks.limits.statements", plan.storage, str(plan.folder / folder)]
    counts: Counts = json.loads(run_to_end(command, {}).splitlines()[-1])
    return counts


@contextmanager
def metered(storage: str, folder: Path) -> Iterator[tuple[str, Meters]]:
    """Run an empty storage; yield its URL and the counters of statements and round trips."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        match storage:
            case "sqlite":
                yield f"sqlite:///{folder / 'jobs.db'}", _trace_sqlite()
                return
            case "postgresql":
                logged = stack.enter_context(postgresql_server.running(folder, {"log_statement": "all"}))
                server: Any = logged
                log = folder / "postgresql" / "log"

                def count() -> int:
                    lines = log.read_bytes().splitlines()
                    executed = [
                        line for line in lines if b"LOG:  statement: " in line or b"LOG:  execute " in line
                    ]
                    return sum(b"pg_notify" not in line for line in executed)
            case "mariadb":
                server = mariadb = stack.enter_context(mariadb_server.running(folder))
                calls = [0]

                def count() -> int:
                    calls[0] += 1  # uses a separate client, whose statements are subtracted below
                    printed = mariadb.query("show global status like 'Questions'")
                    return int(printed.split()[-1]) - calls[0] * each

                each = 0
                each = -count() + count()
            case _:
                server = stored = stack.enter_context(redis_server.running(folder))

                def count() -> int:
                    return stored.meters()["commands"]

        wire = stack.enter_context(counting.counting(server.port))
        yield server.url_at(wire.port), lambda: {"statements": count(), "trips": wire.meters()["trips"]}


def _trace_sqlite() -> Meters:
    """Count all statements of connections that are opened from now on."""
    connect, executed = sqlite3.connect, [0]

    def note(_: str) -> None:
        executed[0] += 1

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - the driver's
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = traced  # type: ignore[assignment]
    return lambda: {"statements": executed[0]}


def count_here(storage: str, folder: Path) -> Counts:
    """Return the cost of each step: the minimum of three runs, after a first run that fills caches."""
    counts: Counts = {}
    with metered(storage, folder) as (url, meters), places.client(url) as fire:
        claimer = Claimer(fire)
        task = tasks.declare(fire)["keyless"]
        steps: dict[str, Callable[[], object]] = {
            "ten jobs enqueued one by one": lambda: [task.enqueue(0) for _ in range(10)],
            "500 enqueued in one call": lambda: task.enqueue_many([(0,)] * 500),
            "100 claimed": lambda: claimer.claim(100),
            "100 ended and 100 claimed, three times": lambda: [claimer.claim(100) for _ in range(3)],
            "100 ended and one claimed": lambda: claimer.claim(1),
            "one ended and one claimed, ten times": lambda: [claimer.claim(1) for _ in range(10)],
            "one failed and one claimed, ten times": lambda: [
                claimer.claim(1, fails=True) for _ in range(10)
            ],
            "one ended": lambda: claimer.claim(0),
        }
        for turn in range(4):
            for step, action in steps.items():
                before = meters()
                action()
                after = meters()
                cost = {name: after[name] - before[name] for name in before}
                if turn:
                    known = counts.get(step, cost)
                    counts[step] = {name: min(cost[name], known[name]) for name in cost}
    return counts


if __name__ == "__main__":
    sys.stdout.write(json.dumps(count_here(sys.argv[1], Path(sys.argv[2]))) + "\n")
