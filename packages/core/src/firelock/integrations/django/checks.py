"""System checks: what `manage.py check` says of the block FIRELOCK, and of what stands around it."""

from __future__ import annotations

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections

from firelock.app import Firelock
from firelock.errors import FirelockError
from firelock.integrations.django.block import Block
from firelock.integrations.django.plugin import DjangoPlugin
from firelock.integrations.django.project import (
    find_mistakes,
    find_storage_mistake,
    get_app,
    is_testing,
    project_block,
)
from firelock.storage import Feature


def check_project(app_configs: object = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - Django's words
    """Return what is wrong with the block; if nothing is, what the project could do better."""
    block, mistakes = project_block()
    if mistakes := [*mistakes, *find_mistakes(block)]:
        mistakes += filter(None, [find_storage_mistake(block)])
        return [Error(each.sentence, hint=each.hint, id=f"firelock.{each.code}") for each in mistakes]
    try:
        app = get_app()
    except FirelockError as error:
        return [Error(str(error), hint="Change FIRELOCK in the settings.", id="firelock.E007")]
    return [] if is_testing() else [*_about_app(app, block), *_about_databases(block)]


def _about_app(app: Firelock, block: Block) -> list[CheckMessage]:
    found = []
    if not any(info.name.startswith(DjangoPlugin.__name__) for info in app.plugins.listing()):
        found.append(
            checks.Warning(
                f"The app {block.app!r} does not close Django's connections round its jobs.",
                hint="Make it with Firelock(…, plugins=[DjangoPlugin()]).",
                id="firelock.W001",
            )
        )
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


def _about_databases(block: Block) -> list[CheckMessage]:
    kept = [
        checks.Warning(
            f"Connections of database {alias!r} are kept (CONN_MAX_AGE) and not tried before they are used.",
            hint="Set CONN_HEALTH_CHECKS to True: else a connection that was cut off costs a job an attempt.",
            id="firelock.W003",
        )
        for alias, entry in settings.DATABASES.items()
        if entry.get("CONN_MAX_AGE", 0) != 0 and not entry.get("CONN_HEALTH_CHECKS")
    ]
    if block.database is None or connections[block.database].vendor != "sqlite":
        return kept
    options = connections[block.database].settings_dict["OPTIONS"]
    if str(options.get("transaction_mode") or "").upper() in {"IMMEDIATE", "EXCLUSIVE"}:
        return kept
    return [
        *kept,
        checks.Warning(
            f"Transactions of database {block.database!r} begin by reading; SQLite refuses one that writes "
            "later, after a server has written.",
            hint='Set "OPTIONS": {"transaction_mode": "IMMEDIATE"} for it in DATABASES.',
            id="firelock.W004",
        ),
    ]


def check_deployment(app_configs: object = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - Django's words
    """Return what would go wrong in production; this asks the storage."""
    if project_block()[1]:
        return []  # said already
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
