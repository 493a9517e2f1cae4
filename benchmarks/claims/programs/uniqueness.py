"""RQ rejects a second job with the same id, Procrastinate a second waiting job with the same lock."""

from __future__ import annotations

import os

import procrastinate
import redis
import rq
from procrastinate import exceptions, testing
from rq.exceptions import DuplicateJobError

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["CLAIMS_REDIS"]))
queue.enqueue("builtins.print", job_id="report-7", unique=True)
try:
    queue.enqueue("builtins.print", job_id="report-7", unique=True)
except DuplicateJobError as error:
    print("RQ:", type(error).__name__)
else:
    raise AssertionError("RQ stored it twice")

connector = testing.InMemoryConnector()
with procrastinate.App(connector=connector).open() as app:
    task = app.task(print, name="print", queueing_lock="report-7")
    task.defer()
    try:
        task.defer()
    except exceptions.AlreadyEnqueued as error:
        print("Procrastinate:", type(error).__name__)
    else:
        raise AssertionError("Procrastinate stored it twice")
