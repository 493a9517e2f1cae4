"""The URL of a storage in a Django database, which contains the job tables next to the models' tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.utils.connection import ConnectionDoesNotExist

from firelock.errors import ConfigurationError

# Options for Django's own connections, which must not be part of a URL.
_DJANGOS_OWN = {
    "postgresql": {
        "pool", "isolation_level", "server_side_binding", "cursor_factory", "client_encoding",
        "prepare_threshold", "context",
    },
    "mysql": {"charset", "isolation_level", "init_command", "sql_mode", "autocommit", "use_unicode", "conv"},
}  # fmt: skip
_PORTS = {"postgresql": 5432, "mysql": 3306}
_GIVE_URL = 'Set the URL of the storage as well: FIRELOCK = {"database": …, "storage": "…"}.'


def url_of_database(alias: str) -> str:
    """Return the URL of a storage in the database of an alias of Django, including its password.

    An SQLite database in memory, as in Django's tests, belongs to one process; its URL is `memory://`.

    Raises:
        ConfigurationError: If the alias does not exist, or there is no storage for its kind of database.
    """
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist as error:
        known = ", ".join(connections.settings)
        raise ConfigurationError(
            f"DATABASES does not contain {alias!r}, the database for jobs; use one of {known}."
        ) from error
    settings: Mapping[str, Any] = connection.settings_dict
    match connection.vendor:
        case "sqlite":
            return _sqlite_url(alias, str(settings["NAME"]))
        case "postgresql" | "mysql" as vendor:
            return _server_url(vendor, alias, settings)
        case vendor:
            raise ConfigurationError(
                f"Jobs cannot be stored in database {alias!r}, because it is {vendor}; use SQLite, "
                'PostgreSQL, MySQL or MariaDB, or another storage: FIRELOCK = {"storage": "redis://…"}.'
            )


def url_of_test_database(alias: str) -> str:
    """Return the URL of a storage in the test database that Django has created for the alias.

    Raises:
        ConfigurationError: If the test database is in memory, or Django's tests have not created it.
    """
    settings: Mapping[str, Any] = connections[alias].settings_dict
    name, wanted = str(settings["NAME"]), str(settings["TEST"].get("NAME") or "")
    if connections[alias].vendor == "sqlite" and (":memory:" in name or "mode=memory" in name):
        raise ConfigurationError(
            f"The test database of {alias!r} is in memory, where jobs cannot be stored. Use a file: "
            f'DATABASES[{alias!r}]["TEST"] = {{"NAME": BASE_DIR / "test.sqlite3"}}.'
        )
    # Processes of `test --parallel` have test_shop_1, or test_1.sqlite3.
    if not name.startswith(wanted.removesuffix(PurePath(wanted).suffix) if wanted else TEST_DATABASE_PREFIX):
        raise ConfigurationError(
            f"Database {alias!r} is {name}, which is not a test database; run this in Django's tests."
        )
    return url_of_database(alias)


def alias_of_url(url: str) -> str | None:
    """Return the alias in DATABASES of the database in a storage's URL; None if there is none."""
    return next((alias for alias in connections if _is_database_of(alias, url)), None)


def _is_database_of(alias: str, url: str) -> bool:
    try:
        own = url_of_database(alias)
    except (ConfigurationError, ImproperlyConfigured):  # the database is unsupported, or a driver is missing
        return False
    return not own.startswith("memory:") and _place(own) == _place(url)


def _place(url: str) -> tuple[str, str, int | None, str]:
    """Return the kind of database, the host, the port and the database's name in a URL."""
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[0].replace("mariadb", "mysql")
    if kind == "sqlite":
        return kind, "", None, str(Path(unquote(parts.path[1:])).resolve())
    query = parse_qs(parts.query)
    socket = query.get("host", query.get("unix_socket", [""]))[0]
    host = parts.hostname or socket
    is_here = host in {"", "localhost", "127.0.0.1", "::1"} or host.startswith("/")
    return kind, "" if is_here else host, parts.port or _PORTS.get(kind), unquote(parts.path[1:])


def _sqlite_url(alias: str, name: str) -> str:
    if name == ":memory:" or "mode=memory" in name:
        return "memory://"
    if name.startswith("file:"):
        raise ConfigurationError(
            f"NAME of database {alias!r} must be a path, got the URI {name!r}. {_GIVE_URL}"
        )
    return f"sqlite:///{quote(name)}"


def _server_url(vendor: str, alias: str, settings: Mapping[str, Any]) -> str:
    host, query = str(settings["HOST"] or ""), _options(vendor, alias, settings["OPTIONS"])
    if vendor == "postgresql" and (role := query.pop("assume_role", "")):  # Django's name for SET ROLE
        role = role.replace("\\", r"\\").replace(" ", r"\ ")
        query["options"] = f"{query.get('options', '')} -c role={role}".lstrip()
    if not settings["NAME"] or "service" in query or "read_default_file" in query:
        raise ConfigurationError(
            f"DATABASES does not contain the name of database {alias!r}, which is in a file of the client "
            f"library. {_GIVE_URL}"
        )
    if host.startswith("/"):
        query["host" if vendor == "postgresql" else "unix_socket"] = host
        host = ""
    user = quote(str(settings["USER"] or ""), safe="")
    password = f":{quote(str(settings['PASSWORD']), safe='')}" if settings["PASSWORD"] else ""
    who = f"{user}{password}@" if user or password else ""
    where = f"[{host}]" if ":" in host else host
    port = f":{settings['PORT']}" if settings["PORT"] else ""
    name = quote(str(settings["NAME"]), safe="")
    return f"{vendor}://{who}{where}{port}/{name}{'?' if query else ''}{urlencode(query, quote_via=quote)}"


def _options(vendor: str, alias: str, options: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in options.items():
        if name in _DJANGOS_OWN[vendor] or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConfigurationError(
                f"OPTIONS[{name!r}] of database {alias!r} is of type {type(value).__name__}, which a URL "
                f"cannot contain. {_GIVE_URL}"
            )
        found[name] = str(value)
    return found
