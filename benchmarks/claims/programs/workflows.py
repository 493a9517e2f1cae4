"""A job after many others: Celery and Huey have chords, Dramatiq groups with a callback, RQ many parents."""

from __future__ import annotations

import os

import celery
import dramatiq
import huey
import redis
import rq

app = celery.Celery("claims", broker="memory://", backend="cache+memory://")
app.conf.task_always_eager = True


def double(number: int) -> int:
    """Return the doubled number."""
    return number * 2


def total(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


twice, summed = app.task(double), app.task(total)
assert celery.chord([twice.s(1), twice.s(2)])(summed.s()).get() == 6

memory = huey.MemoryHuey(immediate=True)
twice, summed = memory.task()(double), memory.task()(total)
assert memory.enqueue(huey.chord([twice.s(1), twice.s(2)], summed.s())).callback.get() == 6

assert callable(dramatiq.group.add_completion_callback)

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["CLAIMS_REDIS"]))
parents = [queue.enqueue("builtins.print") for _ in range(2)]
assert len(queue.enqueue("builtins.print", depends_on=parents).dependency_ids) == 2
print("chords gave 6; a job of RQ had two parents")
