"""The application that Huey runs: the same two tasks as ours."""

from __future__ import annotations

import os
from itertools import count

from huey import SqliteHuey  # type: ignore[import-not-found]

from benchmarks import timestamps

huey = SqliteHuey(
    filename=os.environ["HUEY_BENCH_FILE"], fsync=os.environ["HUEY_BENCH_FSYNC"] == "yes", results=False
)

_ends = count(1)
_last = int(os.environ["HUEY_BENCH_LAST"])


def do_nothing(_number: int) -> None:
    """Do nothing; record the first and the last end in this process, because Huey does not store times."""
    ended = next(_ends)
    if ended in {1, _last}:
        timestamps.write(ended)


noop = huey.task()(do_nothing)
stamp = huey.task()(timestamps.write)
