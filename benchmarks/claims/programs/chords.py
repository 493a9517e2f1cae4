"""A failed header of a Celery chord fails the body, which does not run even if the header later succeeds."""

from __future__ import annotations

import os

import celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ChordError
from celery.result import AsyncResult

URL = os.environ["CLAIMS_REDIS"]
TIMEOUT = 10  # seconds; the body of a chord without a failure comes within one

app = celery.Celery("claims", broker=URL, backend=URL)
broken = {"stock"}
sent: dict[str, dict[str, object]] = {}  # by table: the message of the header task


@app.task(bind=True)
def count(self: celery.Task, table: str) -> int:
    """Return a number, unless the table is broken."""
    sent[table] = {
        "task_id": self.request.id, "chord": self.request.chord, "group_id": self.request.group,
    }  # fmt: skip
    if table in broken:
        raise ConnectionError(table)
    return len(table)


@app.task
def summary(counts: list[int]) -> int:
    """Return the sum."""
    return sum(counts)


def chord(*tables: str) -> AsyncResult:
    """Start a chord and return its result."""
    return celery.chord([count.s(table) for table in tables])(summary.s())


with start_worker(app, pool="solo", perform_ping_check=False):
    assert chord("orders", "users").get(timeout=TIMEOUT) == 11

    body = chord("orders", "stock", "users").id
    try:
        app.AsyncResult(body).get(timeout=TIMEOUT)  # the chord's own handle raises the header's error
        raise AssertionError("the body ran")
    except ChordError as error:
        print("the body:", error)

    broken.clear()
    for known in (body, sent["stock"]["task_id"]):
        app.AsyncResult(known).forget()  # so that the result below is a new one
    again = count.apply_async(("stock",), **sent["stock"])
    assert again.get(timeout=TIMEOUT) == 5
    try:
        app.AsyncResult(body).get(timeout=TIMEOUT)
        raise AssertionError("the body ran")
    except celery.exceptions.TimeoutError:
        print("its header gave 5 then, and the body did not run")
