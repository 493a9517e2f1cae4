"""The Django app: when Django is set up, the modules that hold tasks are imported."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from firelock.integrations.django.project import project_block


class FirelockConfig(AppConfig):  # type: ignore[misc]  # Django brings no types
    """`firelock.integrations.django` in INSTALLED_APPS."""

    name = "firelock.integrations.django"
    label = "firelock"
    verbose_name = "Firelock"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """The tasks of every installed app are registered.

        A block with mistakes is left to the system checks, which name all of them: nothing is imported then.
        """
        block, mistakes = project_block()
        if not mistakes:
            autodiscover_modules(*block.autodiscover)
