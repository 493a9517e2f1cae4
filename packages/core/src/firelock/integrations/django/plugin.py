"""`DjangoPlugin`: what Firelock's hooks do for a Django project."""

from __future__ import annotations

import django
from django.apps import apps

from firelock.integrations.django.connections import FreshConnections
from firelock.integrations.django.console import leave_console_to_server
from firelock.integrations.django.set_up import forbid_jobs_until_ready
from firelock.integrations.django.transactions import named_transaction, surrounding_transaction
from firelock.plugins.hookspecs import hookimpl
from firelock.storage import OpenTransaction, Storage


class DjangoPlugin:
    """Jobs of an app find Django as requests do: `Firelock(…, plugins=[DjangoPlugin()])`.

    The project's app, made from the settings, has it from the beginning.

    Args:
        database: the alias in whose database the jobs live: an enqueue inside its `atomic()` joins. Without
            one an enqueue joins where it says so: `task.using(within="default").enqueue(…)`.
    """

    def __init__(self, database: str | None = None) -> None:
        self.database = database
        forbid_jobs_until_ready()

    @hookimpl
    def job_transaction(self, storage: Storage, within: object | None) -> OpenTransaction | None:
        """Jobs become part of a transaction of Django's: the one that is named, or that of their database."""
        if within is None:
            return surrounding_transaction(self.database, storage)
        return named_transaction(within)

    @hookimpl
    def worker_process_started(self) -> None:
        """Models can be used in every process that runs jobs; `DJANGO_SETTINGS_MODULE` names the settings."""
        if not apps.ready:
            django.setup()
        leave_console_to_server()

    @hookimpl
    def job_context(self) -> FreshConnections:
        """Each job begins and ends without stale connections."""
        return FreshConnections()
