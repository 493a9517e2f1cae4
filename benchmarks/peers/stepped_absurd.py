"""Absurd on PostgreSQL with steps: its worker and its client."""

from __future__ import annotations

import sys
from typing import Any

from absurd_sdk import Absurd  # type: ignore[import-not-found]
from absurdctl import BUNDLED_SCHEMA_SQL  # type: ignore[import-not-found]
from psycopg import connect

from benchmarks.peers import records

COMMAND = [sys.executable, "-m", "benchmarks.peers.stepped_absurd", "worker"]


def work(arguments: dict[str, int], context: Any) -> None:  # noqa: ANN401 - Absurd's context
    """Run a number of steps."""
    records.take_steps(arguments["number"], arguments["steps"], context.step)


if __name__ == "__main__":
    if sys.argv[1] != "worker":
        with connect(records.url(), autocommit=True) as connection:
            connection.execute(BUNDLED_SCHEMA_SQL)
    app = Absurd(records.url())
    app.register_task("work")(work)
    if sys.argv[1] == "worker":
        app.start_worker(concurrency=10)
    else:
        app.create_queue()
        for number in range(int(sys.argv[1])):
            app.spawn("work", {"number": number, "steps": int(sys.argv[2])})
