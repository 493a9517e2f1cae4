"""Jobs whose effect is a row in the jobs' own database; one transaction writes the row and ends the job."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, QueuePool, make_url, text
from sqlalchemy.orm import Session

from firelock import Firelock, JobContext, Retry
from tests.faults.effects import database
from tests.faults.ledger import Ledger

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))

_EFFECT = "INSERT INTO effects (job, fence) VALUES (:job, :fence)"


@cache
def _engine() -> Engine:
    return database(os.environ["FIRELOCK_STORAGE"], QueuePool)


@contextmanager
def _transaction() -> Iterator[tuple[sqlite3.Connection | Session, sqlite3.Connection | Session]]:
    """Yield the object that runs statements and the object for `complete_within`.

    These are a driver's connection for a file, and an ORM session otherwise.
    """
    url = os.environ["FIRELOCK_STORAGE"]
    if not url.startswith("sqlite"):
        with Session(_engine()) as session, session.begin():
            yield session, session
        return
    path = make_url(url).database
    assert path is not None, url
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection, connection
        connection.execute("COMMIT")


@fire.task(name="effect", retry=Retry.fixed(0.05, attempts=3, jitter=0))
def effect(job: JobContext, seconds: float) -> None:
    """Write one row and end the job in one transaction, which may be interrupted; continue for a while."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)
    time.sleep(seconds)
    row = {"job": job.id, "fence": job.fence}
    with _transaction() as (runs, session):
        if isinstance(runs, Session):
            runs.execute(text(_EFFECT), row)
        else:
            runs.execute(_EFFECT, row)
        job.complete_within(session)
    ledger.write("committed", job=job.id, fence=job.fence)
    time.sleep(seconds)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)
