"""The app, and a variant that creates a job in `ready`."""

from __future__ import annotations

from django.apps import AppConfig


class EagerConfig(AppConfig):
    """The configuration for `eager` in INSTALLED_APPS."""

    name = "eager"
    default = True


class ReadyConfig(AppConfig):
    """The configuration for `eager.apps.ReadyConfig` in INSTALLED_APPS."""

    name = "eager"

    def ready(self):
        """Create a job in each process."""
        from eager.jobs import reindex

        reindex.enqueue(4711)
