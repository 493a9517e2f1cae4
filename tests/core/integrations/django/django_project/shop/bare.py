"""An app that the project creates without DjangoPlugin, to show the effects of its absence."""

from __future__ import annotations

from firelock import Firelock, Retry
from shop import tasks

fire = Firelock("memory://")
for task in (tasks.in_thread, tasks.in_coroutine, tasks.in_process):
    fire.task(name=task.name, executor=task.info.executor, retry=Retry.never())(task.info.function)
