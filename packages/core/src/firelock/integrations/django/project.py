"""`get_app()`: the one app of a Django project, made from the block `FIRELOCK` of its settings."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from firelock.app import Firelock
from firelock.errors import ConfigurationError
from firelock.integrations.django.block import Block, BlockMistake, read_block
from firelock.integrations.django.database_url import url_of_database
from firelock.integrations.django.plugin import DjangoPlugin
from firelock.settings import Settings

PLACE = "firelock.integrations.django"  # the app's module: "firelock.integrations.django:fire" names it

_made: list[Firelock] = []  # at most one: settings are one a process, and so is their app
_making = threading.RLock()


def project_block() -> tuple[Block, list[BlockMistake]]:
    """Return the block of the project's settings, and all that is wrong with it.

    Raises:
        ConfigurationError: Django has no settings here.
    """
    try:
        given = getattr(settings, "FIRELOCK", None)
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            "Django has no settings here, so there is no FIRELOCK block: set DJANGO_SETTINGS_MODULE, or run "
            "python manage.py firelock …"
        ) from error
    return read_block(given, has_storage=bool(os.environ.get("FIRELOCK_STORAGE")))


def get_app() -> Firelock:
    """Return the project's app, the same one in the whole process; nothing is connected by it.

    It needs Django's settings, not its registry of apps and models: it may be asked for in any `tasks.py`.

    Raises:
        ConfigurationError: the block is wrong; the first mistake is named, `manage.py check` names all.
        UnknownScheme: no installed plugin offers the storage.
        PluginError: a plugin cannot be loaded.
    """
    with _making:
        if not _made:
            block, mistakes = project_block()
            if mistakes:
                raise ConfigurationError(str(mistakes[0]))
            _made.append(_make_app(block) if block.app is None else _find_app(block.app))
        return _made[0]


def is_testing() -> bool:
    """Tell whether Django's tests run: they have set up an environment of their own, mail's outbox in it."""
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def change_storage() -> None:
    """The app's jobs live where the block says by now; in tests that is a place of their own.

    Called when settings have changed and when tests have made their database. An app that the project makes
    itself keeps its storage otherwise.
    """
    with _making:
        block, mistakes = project_block()
        if mistakes or not _made:
            return
        if block.app is None or is_testing():
            _made[0].use_storage(_storage_of(block))


def _storage_of(block: Block) -> str:
    if is_testing():
        return block.test_storage
    if block.storage is None and block.database is not None:
        return url_of_database(block.database)
    return block.storage or os.environ["FIRELOCK_STORAGE"]  # one of the two is there: there is no mistake


def _make_app(block: Block) -> Firelock:
    app = Firelock(
        _storage_of(block),
        serializer=block.serializer,
        locks=block.locks,
        plugins=[DjangoPlugin(block.database), *_plugins(block.plugins)],
        settings=Settings.from_environment(block.numbers),
    )
    app.module = PLACE
    return app


def _plugins(given: Sequence[object]) -> list[object]:
    return [_attribute("plugins", each) if isinstance(each, str) else each for each in given]


def _find_app(place: str) -> Firelock:
    app = _attribute("app", place)
    if not isinstance(app, Firelock):
        raise ConfigurationError(
            f"FIRELOCK['app'] names {place!r}, which is {type(app).__name__}, no Firelock."
        )
    return app


def _attribute(key: str, place: str) -> object:
    """Return what stands at a place such as "shop.jobs:fire" or "shop.jobs.fire"; a class is one plugin."""
    module, _, name = place.rpartition(":" if ":" in place else ".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"FIRELOCK[{key!r}] names {place!r}, which cannot be imported: {error}. Write module:name, and "
            "import in that module nothing that needs the app."
        ) from error
