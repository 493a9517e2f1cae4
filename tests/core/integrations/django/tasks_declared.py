"""Django tasks as they are declared in a project's app; imported after the setting TASKS is configured."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import django

from firelock import Snooze, Turns, Unique, current_job
from firelock.integrations.django.task_api import NAMESPACE

if NAMESPACE == "django.tasks":
    from django.tasks import task
else:
    from django_tasks import task

# Django's decorator accepts backend options from version 6.1. The backport's decorator accepts them too.
TAKES_OPTIONS = django.VERSION[:2] != (6, 0)
seen = []  # arguments of the calls of backoff functions


def given(**options):
    """Return options for the decorator, or no options if they can be set only in the settings."""
    return options if TAKES_OPTIONS else {}


@task
def add(first, second=2):
    return first + second


@task
async def aadd(first, second=2):
    return first + second


@task
def anything(*args, **kwargs):
    return [list(args), kwargs]


@task(takes_context=True)
def context_of(context, *names):
    result = context.task_result
    return [context.attempt, result.id, str(result.status), len(result.worker_ids), list(names)]


@task(takes_context=True)
async def acontext_of(context, *names):
    return [context.attempt, context.task_result.id, list(names)]


@task(queue_name="mail", priority=7)
def send(to: Path, *, copies=1):
    return to


@task
def fail(word="no"):
    raise LookupError(word)


@task
async def afail(word="no"):
    raise LookupError(word)


@task
def unprintable():
    return object()


@task
def long_text(length):
    return "x" * length


@task
def snooze_once():
    return "awake" if current_job().queue == "mail" else Snooze(30)


def recording_backoff(error, task_result):
    seen.append((str(error), str(task_result.status), task_result.attempts, len(task_result.errors)))
    return 60


def giving_up(error, task_result):
    return None if "hopeless" in str(error) else timedelta(minutes=1)


def broken_backoff(error, task_result):
    raise RuntimeError("no idea")


@task(**given(max_attempts=3, backoff=recording_backoff))
def flaky(word):
    raise LookupError(word)


@task(**given(max_attempts=3, backoff=recording_backoff))
async def aflaky(word):
    raise LookupError(word)


@task(**given(max_attempts=3))
def patient():
    raise LookupError("soon")


@task(**given(backoff=giving_up))
def reasonable(word):
    raise LookupError(word)


@task(**given(max_attempts=2, backoff=broken_backoff))
def badly_backed():
    raise LookupError("no")


@task(takes_context=True, **given(max_attempts=3, backoff=recording_backoff))
def sleepy(context, word="awake"):
    current_job().sleep("a day", timedelta(days=1))
    return [word, context.attempt]


@task(takes_context=True)
async def asleepy(context, word="awake"):
    await current_job().asleep("a day", timedelta(days=1))
    return [word, context.attempt]


@task
def careless(word="awake"):
    with suppress(BaseException):
        current_job().sleep("a day", timedelta(days=1))
    return [word, 1]


@task(takes_context=True, **given(max_attempts=2, backoff=10))
def second_time(context):
    result = context.task_result
    if context.attempt == 1:
        raise LookupError("first")
    return [context.attempt, [error.exception_class.__name__ for error in result.errors], result.attempts]


@task(**given(timeout=timedelta(minutes=5)))
def bounded():
    return current_job().attempt


@task(takes_context=True, **given(tags=["order:{order_id}"], keep=timedelta(hours=2)))
def tagged(context, order_id):
    return context.task_result.kwargs


@task(
    **given(limits=[Turns("order:{order_id}")], unique=Unique("{order_id}"), start_before=timedelta(hours=1))
)
def limited(order_id):
    return order_id


@task(**given(timeout=0.1))
def wait():
    while True:
        current_job().raise_if_cancelled()


@task(**given(timeout=0.1))
async def await_for_ever():
    await asyncio.get_running_loop().create_future()


def plain():
    """A function that is not a task. A stored job must not make it run as one."""
    sys.modules[__name__].seen.append("run")
