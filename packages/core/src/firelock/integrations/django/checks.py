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
    """Return the mistakes in the block FIRELOCK; if there are none, recommendations for the project."""
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
                f"The app {block.app!r} does not close stale database connections of Django around its jobs.",
                hint=f"Create the app with Firelock(…, plugins=[{wanted}]).",
                id="firelock.W001",
            )
        )
    if alias is not None:
        found.append(_unjoined(app, block, alias))
    if block.database is not None and Feature.TRANSACTIONAL_ENQUEUE not in app.storage.features:
        found.append(
            checks.Warning(
                f"FIRELOCK['database'] is {block.database!r}, but storage {app.storage.url} cannot join its "
                "transactions.",
                hint="Remove 'database' from FIRELOCK; to wait for a commit, use enqueue_on_commit(task, …).",
                id="firelock.W002",
            )
        )
    return found


def _unjoined(app: Firelock, block: Block, alias: str) -> CheckMessage:
    """Return the warning that an app stores jobs in a database of Django without joining transactions."""
    if block.app is None:
        hint = f'Set FIRELOCK = {{"database": "{alias}"}} instead of the storage.'
    elif isinstance(app.holder, tuple):  # the app belongs to another object, such as Celery's interface
        hint = f'Set FIRELOCK = {{"app": "{block.app}", "database": "{alias}"}}.'
    else:
        hint = f"Create the app with Firelock(…, plugins=[DjangoPlugin(database={alias!r})])."
    return checks.Warning(
        f"Jobs are stored in database {alias!r}, but an enqueue does not join its transactions. On SQLite, "
        "an enqueue inside atomic() fails; on other databases, a rollback does not remove the job.",
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
            hint=f"Create {package}/celery.py, as shown in docs/coming-from-celery.md, with app = "
            f'Celery("{package}"), and set FIRELOCK = {{"app": "{package}.celery:app.fire", "database": '
            '"default"}.',
            id="firelock.W007",
        )
    ]


def _about_databases(app: Firelock) -> list[CheckMessage]:
    kept = [
        checks.Warning(
            f"Connections of database {alias!r} are persistent (CONN_MAX_AGE), but not checked before use.",
            hint="Set CONN_HEALTH_CHECKS to True. Otherwise an attempt fails if its connection was closed.",
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
            f"Transactions of database {alias!r} begin without a write lock. SQLite rejects a transaction "
            "that reads first and writes later if a server has written in between.",
            hint='Set "OPTIONS": {"transaction_mode": "IMMEDIATE"} for this database in DATABASES.',
            id="firelock.W004",
        ),
    ]


def check_deployment(app_configs: object = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - API
    """Return problems that matter in production; this reads the storage."""
    if project_block()[1]:
        return []  # check_project reports these mistakes
    try:
        app = get_app()
        schema = app.storage.schema()
    except FirelockError as error:
        hint = "Run python manage.py firelock doctor for details."
        return [Error(str(error), hint=hint, id="firelock.E008")]
    found: list[CheckMessage] = []
    if Feature.SHARED not in app.storage.features:
        found.append(
            checks.Warning(
                f"Jobs in {app.storage.url} are visible only to one process and are lost when it ends.",
                hint='Use another storage: FIRELOCK = {"database": "default"}.',
                id="firelock.W005",
            )
        )
    if schema.found != schema.wanted:
        state = f"has schema {schema.found}" if schema.found else "has no schema yet"
        found.append(
            Error(
                f"Storage {app.storage.url} {state}; this version of Firelock needs schema {schema.wanted}.",
                hint="Run python manage.py firelock migrate.",
                id="firelock.E009",
            )
        )
    return found
