"""RQ and Huey store pickles; Celery, Dramatiq, Taskiq and Procrastinate store JSON."""

from __future__ import annotations

import json
import os
import pickle
from datetime import date

import celery
import dramatiq
import huey
import procrastinate
import redis
import rq
from procrastinate import testing
from taskiq import InMemoryBroker
from taskiq.serializers import JSONSerializer

connection = redis.Redis.from_url(os.environ["CLAIMS_REDIS"])
job = rq.Queue(connection=connection).enqueue("builtins.print", date(2026, 11, 24))
assert rq.job.Job.fetch(job.id, connection=connection).args == (date(2026, 11, 24),)  # JSON has no dates
assert pickle.loads(rq.serializers.DefaultSerializer.dumps(date(2026, 11, 24))) == date(2026, 11, 24)

memory = huey.MemoryHuey()
memory.task()(print)(date(2026, 11, 24))
assert isinstance(pickle.loads(memory.storage.dequeue()), object)

assert celery.Celery("claims").conf.task_serializer == "json"
assert isinstance(dramatiq.get_encoder(), dramatiq.JSONEncoder)
assert isinstance(InMemoryBroker().serializer, JSONSerializer)
connector = testing.InMemoryConnector()
with procrastinate.App(connector=connector).open() as app:
    try:
        app.task(print, name="print").defer(day=date(2026, 11, 24))
        stored = json.dumps(connector.jobs[1]["args"])
    except TypeError as error:
        stored = str(error)
assert "JSON" in stored, stored
print("RQ and Huey: pickle; Celery, Dramatiq and Taskiq: JSON; Procrastinate:", stored)
