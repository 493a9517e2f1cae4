"""`DjangoPlugin`: Firelock's hooks for a Django project."""

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
    """A plugin that lets jobs use Django as requests do: `Firelock(…, plugins=[DjangoPlugin()])`.

    An app that is created from the settings already has this plugin.

    Args:
        database: the alias of the database that stores the jobs. A job that is enqueued inside an `atomic()`
            block of this database joins the transaction. Without an alias, a job joins a transaction only if
            the call names the database: `task.using(within="default").enqueue(…)`.
    """

    def __init__(self, database: str | None = None) -> None:
        self.database = database
        forbid_jobs_until_ready()

    @hookimpl
    def job_transaction(self, storage: Storage, within: object | None) -> OpenTransaction | None:
        """Return the Django transaction that new jobs join: the named one, or the one in their database."""
        if within is None:
            return surrounding_transaction(self.database, storage)
        return named_transaction(within)

    @hookimpl
    def worker_process_started(self) -> None:
        """Set up Django in every process that runs jobs; `DJANGO_SETTINGS_MODULE` names the settings."""
        if not apps.ready:
            django.setup()
        leave_console_to_server()

    @hookimpl
    def job_context(self) -> FreshConnections:
        """Return a context that closes stale connections before and after a job."""
        return FreshConnections()
