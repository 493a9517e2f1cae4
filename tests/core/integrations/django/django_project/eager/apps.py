"""The app, and one that creates a job when it is ready."""

from __future__ import annotations

from django.apps import AppConfig


class EagerConfig(AppConfig):
    """`eager` in INSTALLED_APPS."""

    name = "eager"
    default = True


class ReadyConfig(AppConfig):
    """`eager.apps.ReadyConfig` in INSTALLED_APPS."""

    name = "eager"

    def ready(self):
        """Create a job in each process."""
        from eager.jobs import reindex

        reindex.enqueue(4711)
