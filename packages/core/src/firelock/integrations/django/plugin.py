"""`DjangoPlugin`: what Firelock's hooks do for a Django project."""

from __future__ import annotations

import django
from django.apps import apps

from firelock.hookspecs import hookimpl
from firelock.integrations.django.connections import FreshConnections


class DjangoPlugin:
    """Jobs of an app find Django as requests do: `Firelock(…, plugins=[DjangoPlugin()])`.

    The project's app, made from the settings, has it from the beginning.
    """

    @hookimpl
    def worker_process_started(self) -> None:
        """Models can be used in every process that runs jobs; `DJANGO_SETTINGS_MODULE` names the settings."""
        if not apps.ready:
            django.setup()

    @hookimpl
    def job_context(self) -> FreshConnections:
        """Each job begins and ends without stale connections."""
        return FreshConnections()
