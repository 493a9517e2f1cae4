"""The app or storage of a command: from `--storage`, `--app`, `FIRELOCK_STORAGE` or pyproject.toml."""

from __future__ import annotations

import argparse
import importlib
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from firelock.cli.commands import Exit, Problem

if TYPE_CHECKING:
    from firelock.app import Firelock

_PROJECT = Path("pyproject.toml")
_PLACES = ("storage", "app", "probe_host")
_VARIABLE = "FIRELOCK_STORAGE"
_DJANGO = "DJANGO_SETTINGS_MODULE"
DJANGO_APP = "firelock.integrations.django:fire"  # the app of the Django project that _DJANGO names


# ---- pyproject.toml --------------------------------------------------------------------------------------


def project_table() -> dict[str, object]:
    """Return the table `[tool.firelock]` of this folder's pyproject.toml; empty if it does not exist."""
    if not _PROJECT.is_file():
        return {}
    import tomllib  # noqa: PLC0415 - only loaded if there is a file to read

    try:
        document: object = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Problem(
            f"{_PROJECT} cannot be read: {error}.",
            hint="Fix the file, or run the command in another folder.",
        ) from error
    for key in ("tool", "firelock"):
        document = document.get(key, {}) if isinstance(document, dict) else {}
    return _checked(document)


def _checked(table: object) -> dict[str, object]:
    import attrs  # noqa: PLC0415 - only loaded if there is a table to check

    from firelock.settings import Settings  # noqa: PLC0415

    if not isinstance(table, dict):
        raise Problem(
            f"[tool.firelock] in {_PROJECT} must be a table.",
            hint='Use [tool.firelock], and add storage = "…" below it.',
        )
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    known = {*_PLACES, *(field.name for field in attrs.fields(Settings))}
    if unknown := sorted(plain.keys() - known):
        raise Problem(
            f"[tool.firelock] in {_PROJECT} has an unknown key {unknown[0]!r}.",
            hint=f"Known keys: {', '.join(sorted(known))}.",
        )
    for place in _PLACES:
        if not isinstance(plain.get(place, ""), str):
            raise Problem(
                f"{place} in [tool.firelock] must be a string, got {plain[place]!r}.",
                hint=f'Use {place} = "…".',
            )
    return plain


@contextmanager
def table_in_environment(table: Mapping[str, object]) -> Iterator[None]:
    """Add the table's settings to the environment within the block; existing variables have precedence."""
    wanted = {f"FIRELOCK_{key.upper()}": str(value) for key, value in table.items() if key != "app"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


# ---- opening ---------------------------------------------------------------------------------------------


def app_spec(options: argparse.Namespace) -> str | None:
    """Return the app's import path from the options, pyproject.toml or the Django project, in this order.

    Return None if none of them names an app.
    """
    spec = options.app or project_table().get("app") or django_app()
    return None if spec is None else str(spec)


def django_app() -> str | None:
    """Return the import path of the Django project's app; None if the environment names no project."""
    return DJANGO_APP if os.environ.get(_DJANGO) else None


def has_source(options: argparse.Namespace) -> bool:
    """Return whether an option, the environment or pyproject.toml names a storage or an app."""
    table = project_table()
    named = options.storage or options.app or os.environ.get(_VARIABLE)
    return bool(named or table.get("storage") or table.get("app") or django_app())


def open_app(options: argparse.Namespace, *, is_imported: bool = False) -> Firelock:
    """Return the app to use; it is not connected yet.

    The application is imported only in two cases: an app is the first source that names a storage, or the
    command needs its tasks (`is_imported`) and a source names the app.

    Raises:
        Problem: If no source names a storage, or the app cannot be imported.
        ConfigurationError: If a name or URL is invalid.
    """
    table = project_table()
    url = options.storage or (None if options.app else os.environ.get(_VARIABLE) or table.get("storage"))
    spec = options.app or ((table.get("app") or django_app()) if is_imported or not url else None)
    if spec:
        return _load(str(spec), None if url is None else str(url), table)
    if not url:
        raise Problem(
            "No storage is configured.",
            hint=(
                "Pass --storage sqlite:///jobs.db or --app shop.jobs:fire, set FIRELOCK_STORAGE, or add "
                'storage = "…" below [tool.firelock] in pyproject.toml. In a Django project, run '
                "python manage.py firelock …"
            ),
        )
    from firelock.app import Firelock  # noqa: PLC0415 - help and version need no app
    from firelock.settings import Settings  # noqa: PLC0415

    return Firelock(str(url), settings=Settings.from_environment(table))


def _load(spec: str, url: str | None, table: Mapping[str, object]) -> Firelock:
    from firelock.errors import FirelockError  # noqa: PLC0415 - only loaded with an app
    from firelock.server.loading import load_app  # noqa: PLC0415
    from firelock.server.process_state import importing  # noqa: PLC0415

    try:
        with table_in_environment(table), importing():
            return cast("Firelock", load_app(spec, storage=url))  # Firelock is the only ServedApp
    except FirelockError:
        raise
    except Exception as error:
        traceback.print_exception(error.with_traceback(_own_lines(error)))
        raise Problem(
            f"{spec!r} cannot be imported: {type(error).__name__}: {error}",
            hint="Fix the application; its traceback is above.",
        ) from error


def _own_lines(error: Exception) -> TracebackType | None:
    """Return the traceback without the leading lines that are outside the application's code."""
    lines = error.__traceback__
    other_code = (str(Path(__file__).parents[1]), "<frozen ", importlib.__path__[0])
    while lines is not None and lines.tb_frame.f_code.co_filename.startswith(other_code):
        lines = lines.tb_next
    return lines


@contextmanager
def connected(options: argparse.Namespace, *, is_imported: bool = False) -> Iterator[Firelock]:
    """Yield an app whose storage is reachable, and close it at the end. See `open_app`.

    Raises:
        Problem: If the storage is unreachable.
    """
    from firelock.errors import StorageError, StorageUnavailable  # noqa: PLC0415 - only loaded with an app

    app = open_app(options, is_imported=is_imported)
    try:
        try:
            app.storage.schema()  # this opens a file-based storage, whose clock is the host's
            app.storage.clock()
        except StorageUnavailable:
            raise
        except StorageError as error:
            raise Problem(
                str(error), hint="Run firelock doctor for details.", code=Exit.UNREACHABLE
            ) from error
        yield app
    finally:
        app.close()
