"""Functions that find an app by the name with which a server was started: `module:name` or `file.py:name`.

No name from the storage is ever used here. While an app is imported here, its modules must not start a server
or create jobs, because every process that imports them would do so again.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from firelock.errors import ConfigurationError
from firelock.jobs.client import Client
from firelock.runtime import ServedApp

_OF_DJANGO = ("AppRegistryNotReady", "ImproperlyConfigured")  # errors that Django raises if it is not set up
_PACKAGE = str(Path(__file__).parents[1])
_REMEDY = (
    'call it below `if __name__ == "__main__":` in a script, or where the web server starts in an application'
)


_NO_JOBS = (
    "while the application is imported, because every process that imports it would create this job. Move "
    'the call into a function, or in a script below `if __name__ == "__main__":`.'
)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    previous = ServedApp.no_server_reason
    ServedApp.no_server_reason = previous or f"while the app is imported by a command of firelock: {_REMEDY}"
    importer = threading.get_ident()  # an embedded server imports modules while other threads handle requests

    def forbid_jobs() -> str | None:
        return _NO_JOBS if threading.get_ident() == importer else None

    Client.creates_no_jobs.append(forbid_jobs)
    try:
        yield
    finally:
        Client.creates_no_jobs.remove(forbid_jobs)
        ServedApp.no_server_reason = previous


def load_in_job_process(spec: str, *, storage: str | None, imports: Sequence[str]) -> ServedApp:
    """Import the app and the modules of its tasks, in a process that only runs jobs, and return the app.

    Raises:
        ConfigurationError: If `load_app` raises it, or an imported module starts a server or creates jobs.
    """
    ServedApp.no_server_reason = f"in a job process, because each server would start more of them: {_REMEDY}"

    def forbid_jobs() -> str:  # in all threads, because such a job would need another job process
        return _NO_JOBS

    Client.creates_no_jobs.append(forbid_jobs)
    try:
        app = load_app(spec, storage=storage)
        for name in imports:
            load_module(name)
    finally:
        Client.creates_no_jobs.remove(forbid_jobs)
    return app


def load_app(spec: str, *, storage: str | None = None) -> ServedApp:
    """Return the app that a string such as "shop.jobs:fire" names, and load its imports.

    Args:
        spec: the name of the app.
        storage: a URL that replaces the app's own storage.

    Raises:
        ConfigurationError: If the module or attribute does not exist, the import fails, or the attribute is
            not a Firelock app.
    """
    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        given = spec.strip(":")
        example = f"{given}:fire" if given and ":" not in given else "shop.jobs:fire"
        raise ConfigurationError(
            f"{spec!r} is not the name of an app; use module:name or file.py:name, such as {example}."
        )
    set_django_up()
    app: object = (module := load_module(place))
    named = f"file {place}" if place.endswith(".py") else f"module {place}"
    reached: list[str] = []
    for name in attribute.split("."):
        if not hasattr(app, name):
            from difflib import get_close_matches  # noqa: PLC0415 - only for a message

            owner = f"{'.'.join(reached)!r} in {named}" if reached else named[0].upper() + named[1:]
            near = get_close_matches(name, vars(module)) if app is module else []
            raise ConfigurationError(f"{owner} has no {name!r}{_instead(module, place, near)}")
        app = getattr(app, name)
        reached.append(name)
    if not isinstance(app, ServedApp):
        what = f"{attribute!r} in {named} is {type(app).__name__}, not a Firelock"
        raise ConfigurationError(what + _instead(module, place, []))
    if app.unusable is not None:
        raise ConfigurationError(app.unusable)
    if storage is not None:
        app.use_storage(storage)
    for name in app.imports:
        load_module(name)
    return app


def set_django_up() -> None:
    """Load Django's apps and models if `DJANGO_SETTINGS_MODULE` is set.

    Raises:
        ConfigurationError: If Django is not installed, or its settings or an app of the project cannot be
            loaded.
    """
    name = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not name or _is_django_ready():
        return
    _find_here()
    try:
        import django  # noqa: PLC0415 - installed wherever the variable is set

        with _importing():
            django.setup()
    except Exception as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"Django cannot be set up with DJANGO_SETTINGS_MODULE={name}{_line_of(error)}: "
            f"{type(error).__name__}: {str(error).rstrip('.')}. Fix this error, or unset the variable if "
            "the app does not use Django."
        ) from error


def _is_django_ready() -> bool:
    registry = sys.modules.get("django.apps")
    return registry is not None and (registry.apps.ready or registry.apps.loading)


def _instead(module: ModuleType, place: str, near: Sequence[str]) -> str:
    """Return the rest of a message: the apps in the module, or names similar to the missing one."""
    names = sorted(name for name, value in vars(module).items() if isinstance(value, ServedApp))
    if len(names) == 1:
        return f"; its app is named {names[0]!r}: {place}:{names[0]}."
    if names:
        return f"; its apps are {' and '.join(f'{place}:{name}' for name in names)}."
    guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"{guess} No Firelock is defined there; add fire = Firelock(…), or use the module that defines it."


def load_module(place: str) -> ModuleType:
    """Import and return a module, which is a file, a module in this folder, or an installed one."""
    with _importing():
        return _load_file(Path(place)) if place.endswith(".py") else _load_name(place)


def _find_here() -> None:
    """Make the modules in this folder importable."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _load_name(name: str) -> ModuleType:
    _find_here()
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"No module {name!r} in this folder ({Path.cwd()}) or installed; check the name and the "
                "folder."
            ) from error
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigurationError:
    """Return the error for a module whose import failed; it names the line that raised the exception."""
    message = f"Importing {name!r} failed{_line_of(error)}: {type(error).__name__}: {str(error).rstrip('.')}."
    if type(error).__name__ in _OF_DJANGO and type(error).__module__.startswith("django."):
        message += (
            " Django is not set up. Set DJANGO_SETTINGS_MODULE or run python manage.py firelock …, which set "
            "it up; without a settings module, call django.setup() before models are imported."
        )
    return ConfigurationError(message)


def _line_of(error: Exception) -> str:
    """Describe the line that raised the exception, which is the last one outside Firelock, for a message."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", _PACKAGE + os.sep))]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _load_file(path: Path) -> ModuleType:
    """Import a file under its stem, so that its tasks have the same names as when the file is run."""
    if not path.is_file():
        raise ConfigurationError(f"File {str(path)!r} does not exist.")
    path = path.resolve()
    if path.stem in sys.stdlib_module_names:
        raise ConfigurationError(
            f"{str(path)!r} has the name of a module in Python's standard library; rename it."
        )
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:  # pragma: no cover - a file name that ends in .py has a loader
        raise AssertionError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        if isinstance(error, ConfigurationError):
            raise
        raise _failed(str(path), error) from error
    return module
