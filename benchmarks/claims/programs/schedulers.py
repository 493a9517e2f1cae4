"""Two APSchedulers with one job store both fire: each due time causes as many runs as there are processes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

RUNS = Path("runs.txt")


def tick() -> None:
    """Write a mark."""
    with RUNS.open("a") as file:
        file.write(f"{os.getpid()}\n")


def main() -> None:
    """Run two schedulers in separate processes for four seconds."""
    sys.modules["schedulers"] = sys.modules["__main__"]
    scheduler = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url="sqlite:///jobs.db")})
    scheduler.add_job("__main__:tick", "interval", seconds=1, id="tick", replace_existing=True)
    scheduler.start()
    child = os.fork()
    if child == 0:
        other = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url="sqlite:///jobs.db")})
        other.start()
        threading.Event().wait(4.5)
        os._exit(0)
    threading.Event().wait(4.5)
    os.waitpid(child, 0)
    runs = RUNS.read_text().split()
    assert len(set(runs)) == 2, runs
    print(f"{len(runs)} runs in four seconds by two processes of a job that is due once a second")


main()
