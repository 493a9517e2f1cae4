"""Procrastinate can enqueue on your own connection; Celery, RQ, Dramatiq and Huey have no such option."""

from __future__ import annotations

import inspect

import celery
import dramatiq
import huey
import rq
from procrastinate import tasks

assert "connection" in tasks.ConfigureTaskOptions.__annotations__
sending = [
    celery.Task.apply_async,
    rq.Queue.enqueue_call,
    dramatiq.Actor.send_with_options,
    huey.api.TaskWrapper.schedule,
]
for send in sending:
    names = set(inspect.signature(send).parameters)
    assert not names & {"session", "within", "transaction"}, names
print("Procrastinate: connection=; the others: none of session, within, transaction")
