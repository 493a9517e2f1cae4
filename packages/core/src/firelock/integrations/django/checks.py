"""System checks: what `manage.py check` reports about the block FIRELOCK and related settings."""

from __future__ import annotations

import sys

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections

from firelock.app import Firelock
from firelock.errors import FirelockError
from firelock.integrations.django.block import Block, BlockMistake
from firelock.integrations.django.database_url import alias_of_url
from firelock.integrations.django.plugin import DjangoPlugin
from firelock.integrations.django.project import (
    find_mistakes,
    find_storage_mistake,
    get_app,
    is_testing,
    mistake_of_error,
    project_block,
)
from firelock.storage import Feature


def check_project(app_configs: object = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - API
    """Return the mistakes in the block; if there are none, recommendations for the project."""
    block, mistakes = project_block()
    if mistakes := [*mistakes, *find_mistakes(block)]:
        mistakes += filter(None, [find_storage_mistake(block)])
        return [_error_of(each) for each in mistakes]
    try:
        app = get_app()
    except FirelockError as error:
        return [_error_of(mistake_of_error(error))]
    if is_testing():
        return []
    return [*_about_app(app, block), *_about_databases(app), *_about_shared_tasks()]


def _error_of(mistake: BlockMistake) -> Error:
    return Error(mistake.sentence, hint=mistake.hint, id=f"firelock.{mistake.code}")


def _about_app(app: Firelock, block: Block) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    plugin, alias = app.plugins.of_kind(DjangoPlugin), None
    if plugin is None or plugin.database is None:
        alias = alias_of_url(app.storage.url)
    if plugin is None:
        wanted = "DjangoPlugin()" if alias is None else f"DjangoPlugin(database={alias!r})"
        found.append(
            checks.Warning(
                f"The app {block.app!r} does not close Django's connections round its jobs.",
                hint=f"Make it with Firelock(…, plugins=[{wanted}]).",
                id="firelock.W001",
            )
        )
    if alias is not None:
        found.append(_unjoined(app, block, alias))
    if block.database is not None and Feature.TRANSACTIONAL_ENQUEUE not in app.storage.features:
        found.append(
            checks.Warning(
                f"FIRELOCK names database {block.database!r}, and storage {app.storage.url}, which joins no "
                "transaction.",
                hint="Take 'database' out of FIRELOCK; enqueue_on_commit(task, …) waits for a commit.",
                id="firelock.W002",
            )
        )
    return found


def _unjoined(app: Firelock, block: Block, alias: str) -> CheckMessage:
    """Return the warning that an app has its jobs in a database of Django without joining transactions."""
    if block.app is None:
        hint = f'Write FIRELOCK = {{"database": "{alias}"}} for the storage.'
    elif isinstance(app.holder, tuple):  # the app of another object, such as Celery's interface
        hint = f'Write FIRELOCK = {{"app": "{block.app}", "database": "{alias}"}}.'
    else:
        hint = f"Make it with Firelock(…, plugins=[DjangoPlugin(database={alias!r})])."
    return checks.Warning(
        f"Jobs live in database {alias!r}, and an enqueue does not join its transactions: on SQLite it fails "
        "inside atomic(), elsewhere a rollback leaves the job.",
        hint=hint,
        id="firelock.W006",
    )


def _about_shared_tasks() -> list[CheckMessage]:
    celery = sys.modules.get("firelock.compat.celery.app")
    names = [] if celery is None else celery.shared_tasks_without_app()
    if not names:
        return []
    package = str(settings.ROOT_URLCONF).partition(".")[0]
    return [
        checks.Warning(
            f"Shared task {names[0]!r} has no app, so it cannot be called.",
            hint=f"Make {package}/celery.py, as docs/coming-from-celery.md has it, with app = "
            f'Celery("{package}"), and set FIRELOCK = {{"app": "{package}.celery:app.fire", "database": '
            '"default"}.',
            id="firelock.W007",
        )
    ]


def _about_databases(app: Firelock) -> list[CheckMessage]:
    kept = [
        checks.Warning(
            f"Connections of database {alias!r} are kept (CONN_MAX_AGE) and not tried before they are used.",
            hint="Set CONN_HEALTH_CHECKS to True: else a connection that was cut off costs a job an attempt.",
            id="firelock.W003",
        )
        for alias, entry in settings.DATABASES.items()
        if entry.get("CONN_MAX_AGE", 0) != 0 and not entry.get("CONN_HEALTH_CHECKS")
    ]
    plugin = app.plugins.of_kind(DjangoPlugin)
    alias = None if plugin is None else plugin.database
    if alias is None or connections[alias].vendor != "sqlite":
        return kept
    options = connections[alias].settings_dict["OPTIONS"]
    if str(options.get("transaction_mode") or "").upper() in {"IMMEDIATE", "EXCLUSIVE"}:
        return kept
    return [
        *kept,
        checks.Warning(
            f"Transactions of database {alias!r} begin by reading; SQLite refuses one that writes "
            "later, after a server has written.",
            hint='Set "OPTIONS": {"transaction_mode": "IMMEDIATE"} for it in DATABASES.',
            id="firelock.W004",
        ),
    ]


def check_deployment(app_configs: object = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - API
    """Return the problems that production would have; this reads the storage."""
    if project_block()[1]:
        return []  # reported already
    try:
        app = get_app()
        schema = app.storage.schema()
    except FirelockError as error:
        return [Error(str(error), hint="python manage.py firelock doctor looks closer.", id="firelock.E008")]
    found: list[CheckMessage] = []
    if Feature.SHARED not in app.storage.features:
        found.append(
            checks.Warning(
                f"Jobs in {app.storage.url} are of one process alone, and gone with it.",
                hint='Name another storage: FIRELOCK = {"database": "default"}.',
                id="firelock.W005",
            )
        )
    if schema.found != schema.wanted:
        have = f"schema {schema.found}" if schema.found else "no schema yet"
        found.append(
            Error(
                f"Storage {app.storage.url} has {have}; this Firelock needs {schema.wanted}.",
                hint="Run python manage.py firelock migrate.",
                id="firelock.E009",
            )
        )
    return found
