"""`get_app()`: the only app of a Django project, created from the block `FIRELOCK` of its settings."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import NoReturn

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from firelock.app import Firelock
from firelock.errors import ConfigurationError, FirelockError
from firelock.integrations.django.block import TEST_DATABASE, Block, BlockMistake, read_block
from firelock.integrations.django.database_url import url_of_database, url_of_test_database
from firelock.integrations.django.plugin import DjangoPlugin
from firelock.settings import Settings
from firelock.storage import CONTRACT, Storage

PLACE = "firelock.integrations.django"  # the app's module; the name of the app is PLACE:fire

_CHANGE_BLOCK = "Change FIRELOCK in the settings."
_NAME_DATABASE = (
    'Set FIRELOCK = {"database": "default", …}, or use DjangoPlugin(database="default") in your app.'
)

_followed: dict[str, str] = {}  # URL of the test database to which the app last switched, by alias
_copied: set[str] = set()  # the test databases that have been prepared for copying
_created: list[Firelock] = []  # at most one entry, because a process has one set of settings
_is_creating = False  # whether the thread that holds the lock is creating the app
_creating = threading.RLock()


def project_block() -> tuple[Block, list[BlockMistake]]:
    """Return the block of the project's settings, and all mistakes in it.

    Raises:
        ConfigurationError: If Django has no settings in this process.
    """
    try:
        given = getattr(settings, "FIRELOCK", None)
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            "Django has no settings in this process, so there is no FIRELOCK block; set "
            "DJANGO_SETTINGS_MODULE, or run python manage.py firelock …"
        ) from error
    return read_block(given, has_storage=bool(os.environ.get("FIRELOCK_STORAGE")))


def get_app() -> Firelock:
    """Return the project's only app in this process; this does not open a connection.

    The app needs Django's settings, but not its registry of apps and models, so any `tasks.py` can call this
    function.

    Raises:
        ConfigurationError: If the settings are invalid. The message names every mistake.
        UnknownScheme: If no installed plugin supports the storage's URL.
        PluginError: If a plugin cannot be loaded.
    """
    global _is_creating  # noqa: PLW0603 - one app per process
    with _creating:
        if not _created:
            previous, _is_creating = _is_creating, True
            try:
                _created.append(_checked_app())
            finally:
                _is_creating = previous
        return _created[0]


def get_app_for_modules() -> Firelock:
    """Return the app for `from firelock.integrations.django import fire`.

    Invalid settings do not raise an error here, because system checks import modules that import the app, and
    must be able to report the mistakes. With invalid settings, the returned app can register tasks, but
    everything else raises an error, as with Django's dummy database.

    Raises:
        ConfigurationError: If Django has no settings, or the app's own module imports the app.
    """
    with _creating:
        if _is_creating:
            return get_app()
        project_block()
        try:
            return get_app()
        except FirelockError as error:
            return _unusable_app(str(error))


def find_mistakes(block: Block) -> list[BlockMistake]:
    """Return the mistakes in the block's `database`, `plugins` and `app`, which refer to other objects."""
    checks: list[Callable[[], object]] = [
        partial(_attribute, "plugins", each) for each in block.plugins if isinstance(each, str)
    ]
    if block.database is not None and block.storage is None and not is_testing():
        checks.append(partial(url_of_database, block.database))
    if block.app is not None:
        checks.append(partial(_find_app, block))
    return [mistake for check in checks if (mistake := _mistake_of(check)) is not None]


def find_storage_mistake(block: Block) -> BlockMistake | None:
    """Return the mistake in the storage, serializer or locks that prevents creating an app, or None."""

    def try_app() -> None:
        Firelock(block.storage, serializer=block.serializer, locks=block.locks, settings=Settings()).close()

    return None if block.storage is None else _mistake_of(try_app)


def _mistake_of(check: Callable[[], object]) -> BlockMistake | None:
    try:
        check()
    except FirelockError as error:
        return mistake_of_error(error)
    return None


def mistake_of_error(error: FirelockError) -> BlockMistake:
    """Return an error that occurred during the creation of the app, as a mistake in the block."""
    if isinstance(error, _AppConflict):
        return error.mistake
    return BlockMistake("E007", str(error), "" if isinstance(error, _OfModule) else _CHANGE_BLOCK)


class _AppConflict(ConfigurationError):
    """The block and the app that it names contradict each other."""

    def __init__(self, mistake: BlockMistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


class _OfModule(ConfigurationError):
    """An error that an app's module raised, and that the block did not cause."""


def _checked_app() -> Firelock:
    block, mistakes = project_block()
    mistakes = [*mistakes, *find_mistakes(block)]
    if len(mistakes) == 1:
        raise ConfigurationError(str(mistakes[0]))
    if mistakes:
        listed = "".join(f"\n- {each}" for each in mistakes)
        raise ConfigurationError(f"FIRELOCK in the settings has {len(mistakes)} mistakes:{listed}")
    return _make_app(block) if block.app is None else _find_app(block)


def _unusable_app(reason: str) -> Firelock:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConfigurationError(reason)

    verbs = {**dict.fromkeys(Storage.__abstractmethods__, refuse), "close": lambda _: None}
    storage = type("UnusableStorage", (Storage,), {**verbs, "contract": CONTRACT, "url": "unusable:"})()
    app = Firelock(storage, plugins=[DjangoPlugin()], settings=Settings())
    app.module, app.unusable = PLACE, reason
    return app


def is_testing() -> bool:
    """Return whether Django's tests are running; their environment adds `outbox` to `django.core.mail`."""
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def change_storage(*, is_idle: bool = False) -> None:
    """Make the app use the storage that the block currently specifies; in tests, the storage for tests.

    Called when settings have changed, and when tests have created their database. Outside of tests, an app
    that the project creates itself keeps its storage. In tests, missing tables are created.

    Args:
        is_idle: whether the storage already has its tables and must not be connected to before its first use.
    """
    with _creating:
        block, mistakes = project_block()
        if mistakes or not _created:
            return
        if block.app is None or is_testing():
            _created[0].use_storage(_storage_of(block, database_of_jobs()))
        if is_testing() and not is_idle:
            _make_tables_of_tests(_created[0].storage)


def empty_test_storage(using: str) -> None:
    """Remove the jobs of other tests; called when Django has created or emptied the models' tables.

    Args:
        using: the alias of the models' database.
    """
    block, mistakes = project_block()
    if mistakes or not _created:
        return
    alias = database_of_jobs()
    is_in_test_database = block.test_storage == TEST_DATABASE
    if is_in_test_database and alias not in {None, using}:
        return  # the test database of the jobs has not changed, or has not been created yet
    change_storage()
    _created[0].storage.clear()
    if not is_in_test_database:
        return
    # Do not connect now: a database server does not copy or drop a database that has connections.
    change_storage(is_idle=True)
    if _created[0].storage.url not in _copied:
        _copied.add(_created[0].storage.url)
        _make_copiable(using)


def _make_copiable(alias: str) -> None:
    """Disable SQLite's write-ahead log, because `test --parallel` copies only the database's main file."""
    if connections[alias].vendor == "sqlite":
        with connections[alias].cursor() as cursor:
            cursor.execute("PRAGMA journal_mode = DELETE")


def follow_test_database(alias: str) -> None:
    """Make the app use the database of a new connection in tests.

    Each process of `test --parallel` has its own test database.
    """
    if not (_created and is_testing()):
        return
    block, mistakes = project_block()
    if mistakes or block.test_storage != TEST_DATABASE or alias != database_of_jobs():
        return
    try:
        url = url_of_test_database(alias)
    except ConfigurationError:  # it does not exist yet or is unusable; empty_test_storage reports this
        return
    if url != _followed.get(alias):
        _followed[alias] = url
        change_storage()


def database_of_jobs() -> str | None:
    """Return the alias of the Django database that stores the project's jobs; None if there is none."""
    plugin = get_app().plugins.of_kind(DjangoPlugin)
    return None if plugin is None else plugin.database


def _make_tables_of_tests(storage: Storage) -> None:
    schema = storage.schema()
    # Migrate only if necessary: a migration writes, and could wait for an open transaction of the test.
    if schema.found != schema.wanted:
        list(storage.migrate())


def _storage_of(block: Block, database: str | None) -> str:
    if is_testing() and block.test_storage == TEST_DATABASE:
        if database is None:
            raise ConfigurationError(
                "FIRELOCK['test_storage'] is 'database', but no database is specified for the jobs. "
                f"{_NAME_DATABASE}"
            )
        return url_of_test_database(database)
    if is_testing():
        return block.test_storage
    if block.storage is None and block.database is not None:
        return url_of_database(block.database)
    return block.storage or os.environ["FIRELOCK_STORAGE"]  # one of the two is set if there are no mistakes


def _make_app(block: Block) -> Firelock:
    app = Firelock(
        _storage_of(block, block.database),
        serializer=block.serializer,
        locks=block.locks,
        plugins=[DjangoPlugin(block.database), *_plugins(block.plugins)],
        settings=Settings.from_environment(block.settings),
    )
    app.module = PLACE
    return app


def _plugins(given: Sequence[object]) -> list[object]:
    return [_attribute("plugins", each) if isinstance(each, str) else each for each in given]


def _find_app(block: Block) -> Firelock:
    app = _attribute("app", block.app or "")
    if not isinstance(app, Firelock):
        raise ConfigurationError(
            f"FIRELOCK['app'] must name a Firelock app, but {block.app!r} is of type {type(app).__name__}."
        )
    plugin = app.plugins.of_kind(DjangoPlugin)
    if block.database is not None and (plugin is None or plugin.database != block.database):
        raise _AppConflict(
            BlockMistake(
                "E006",
                f"FIRELOCK['database'] is {block.database!r}, but the app {block.app!r} has no DjangoPlugin "
                "for this database.",
                f"Create the app with plugins=[DjangoPlugin(database={block.database!r})].",
            )
        )
    return app


def _attribute(key: str, place: str) -> object:
    """Return the object at a path such as "shop.jobs:fire", "shop.celery:app.fire" or "shop.jobs.fire"."""
    module, _, name = place.rpartition(":" if ":" in place else ".")
    try:
        return attrgetter(name)(import_module(module))
    except FirelockError as error:
        raise _OfModule(str(error)) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{place!r} in FIRELOCK[{key!r}] cannot be imported: {str(error).rstrip('.')}. Use module:name, "
            "and do not import anything in that module that needs the app."
        ) from error
