"""Celery refuses a wrong number of arguments when a call is sent; RQ, Huey and Dramatiq store it."""

from __future__ import annotations

import os

import celery
import dramatiq
import huey
import redis
import rq
from dramatiq.brokers.stub import StubBroker


def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


app = celery.Celery("claims", broker="memory://")
try:
    app.task(add).delay(1)
except TypeError as error:
    print("Celery:", error)
else:
    raise AssertionError("Celery sent it")

connection = redis.Redis.from_url(os.environ["CLAIMS_REDIS"])
assert rq.Queue(connection=connection).enqueue("operator.add", 1).args == (1,)

memory = huey.MemoryHuey()
memory.task()(add)(1)
assert memory.pending_count() == 1

dramatiq.set_broker(StubBroker())
assert dramatiq.actor(add).send(1).args == (1,)
print("RQ, Huey and Dramatiq took it")
