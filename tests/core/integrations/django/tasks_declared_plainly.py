"""A task that is declared for one of Django's own backends."""

from __future__ import annotations

from firelock.integrations.django.task_api import NAMESPACE

if NAMESPACE == "django.tasks":
    from django.tasks import task
else:
    from django_tasks import task


@task
def double(number):
    return 2 * number
