"""Celery, RQ, Huey and Procrastinate do not retry by default; Dramatiq does 20 times, with growing waits."""

from __future__ import annotations

import os

import celery
import dramatiq
import huey
import procrastinate
import redis
import rq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries
from procrastinate import testing


def fail() -> None:
    """Fail."""
    raise ValueError


task = celery.Celery("claims").task(fail)
assert not getattr(task, "autoretry_for", ())

connection = redis.Redis.from_url(os.environ["CLAIMS_REDIS"])
assert rq.Queue(connection=connection).enqueue("builtins.print").retries_left is None

assert huey.MemoryHuey().task()(fail).retries == 0

app = procrastinate.App(connector=testing.InMemoryConnector())
assert app.task(fail).retry_strategy is None

broker = StubBroker()
(retries,) = [one for one in broker.middleware if isinstance(one, Retries)]
assert retries.max_retries == 20
assert retries.min_backoff < retries.max_backoff
dramatiq.set_broker(broker)
print(f"Dramatiq: {retries.max_retries} retries, from {retries.min_backoff} ms on; the others: none")
