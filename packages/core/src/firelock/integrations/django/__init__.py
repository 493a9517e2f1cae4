"""Firelock in a Django project: this package in INSTALLED_APPS, and a block `FIRELOCK` in the settings.

The project's app is created from the block when it is first used, so the modules of any Django app can use
`from firelock.integrations.django import fire, task`.

Read `block` and `project` first, then `plugin` with `connections`, `transactions` and `on_commit`. `set_up`
forbids creating jobs while Django is being set up, `database_url` returns the storage in a database of
Django, and `console` chooses the handler that writes to the console. Django finds `apps`, `checks`, `models`,
`admin` (with `panel` and `links`) and `management/` by their names. `task_backend` is for Django's own
`TASKS`: `task_api` imports Django's API under one set of names, `task_options` contains the options of a
task, `task_results` converts a job to Django's result, and `task_runner` contains the function that a server
runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock.integrations.django.on_commit import enqueue_on_commit
    from firelock.integrations.django.panel import JobsPanel
    from firelock.integrations.django.plugin import DjangoPlugin
    from firelock.integrations.django.project import get_app
    from firelock.integrations.django.task_backend import TaskBackend

    fire = get_app()
    task = fire.task

_HOMES = {
    "DjangoPlugin": "plugin",
    "JobsPanel": "panel",
    "TaskBackend": "task_backend",
    "enqueue_on_commit": "on_commit",
    "get_app": "project",
}

__all__ = ["DjangoPlugin", "JobsPanel", "TaskBackend", "enqueue_on_commit", "fire", "get_app", "task"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used, because Django imports this package before it is set up."""
    if name in {"fire", "task"}:
        from firelock.integrations.django.project import (  # noqa: PLC0415 - needs Django's settings
            get_app_for_modules,
        )

        app = get_app_for_modules()
        names = {"fire": app, "task": app.task}
        if app.unusable is None:
            globals().update(names)
        return names[name]
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'firelock.integrations.django' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"firelock.integrations.django.{home}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
