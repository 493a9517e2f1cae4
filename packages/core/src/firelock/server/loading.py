"""Finding an app by the name that the person who starts a server gave: `module:name` or `path/file.py:name`.

Nothing from storage ever comes here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from firelock.errors import ConfigurationError

if TYPE_CHECKING:
    from firelock.app import Firelock

__all__ = ["load_app", "load_module", "locate_app"]

_PACKAGE = str(Path(__file__).parents[1])


def load_app(spec: str, *, storage: str | None = None) -> Firelock:
    """Return the app that a text such as "shop.jobs:fire" names, its imports done.

    Args:
        spec: where it stands.
        storage: a URL that takes the place of the app's own.

    Raises:
        ConfigurationError: there is no such module or attribute, importing it failed, or it is no Firelock.
    """
    from firelock.app import Firelock  # noqa: PLC0415 - this module is cheap to load without it

    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        message = f"{spec!r} names no app; write module:name, such as shop.jobs:fire, or file.py:name."
        raise ConfigurationError(message)
    module = _load_file(Path(place)) if place.endswith(".py") else load_module(place)
    app = module
    for name in attribute.split("."):
        app = getattr(app, name, None)  # type: ignore[assignment]
    if not isinstance(app, Firelock):
        message = f"{spec!r}: {attribute!r} in {place} is {type(app).__name__}, no Firelock."
        raise ConfigurationError(message)
    if storage is not None:
        app.use_storage(storage)
    for name in app.imports:
        load_module(name)
    return app


def load_module(name: str) -> ModuleType:
    """Return a module that a person named, found in this folder or among what is installed."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            message = f"No module {name!r} here ({Path.cwd()}) or installed; check the name and the folder."
            raise ConfigurationError(message) from error
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigurationError:
    """Return what to say of a module that raised while it was imported: the line that raised, last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", _PACKAGE + os.sep))]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError):
        place = f" at {error.filename}:{error.lineno}"
    return ConfigurationError(
        f"Importing {name!r} failed{place}: {type(error).__name__}: {str(error).rstrip('.')}."
    )


def _load_file(path: Path) -> ModuleType:
    """Import a file under its stem, so that its tasks have the names its own `__main__` gives them."""
    if not path.is_file():
        message = f"No file {str(path)!r}."
        raise ConfigurationError(message)
    path = path.resolve()
    if path.stem in sys.stdlib_module_names:
        message = f"{str(path)!r} has the name of a module of Python; rename it."
        raise ConfigurationError(message)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:  # pragma: no cover - what ends in .py has a loader
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


def locate_app(app: Firelock) -> str | None:
    """Return a text by which another process finds this app; None if it stands in no module's globals."""
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items() if isinstance(module, ModuleType) else ()):
            if value is app:
                if name not in ("__main__", "__mp_main__"):  # the second is multiprocessing's word for it
                    return f"{name}:{attribute}"
                if file := getattr(module, "__file__", None):
                    return f"{Path(file).resolve()}:{attribute}"
    return None
