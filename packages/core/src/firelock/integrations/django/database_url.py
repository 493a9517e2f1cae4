"""The URL of a storage in a database of Django: jobs are stored in tables next to those of the models."""

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

# Options of Django's own use of its connections, which do not belong in a URL.
_DJANGOS_OWN = {
    "postgresql": {
        "pool", "isolation_level", "server_side_binding", "cursor_factory", "client_encoding",
        "prepare_threshold", "context",
    },
    "mysql": {"charset", "isolation_level", "init_command", "sql_mode", "autocommit", "use_unicode", "conv"},
}  # fmt: skip
_PORTS = {"postgresql": 5432, "mysql": 3306}
_GIVE_URL = 'Give the URL of the storage as well: FIRELOCK = {"database": …, "storage": "…"}.'


def url_of_database(alias: str) -> str:
    """Return the URL of a storage in the database of an alias of Django, including its password.

    An SQLite database in memory, as in Django's tests, belongs to one process; its URL is `memory://`.

    Raises:
        ConfigurationError: the alias does not exist, or there is no storage for its kind of database.
    """
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist as error:
        known = ", ".join(connections.settings)
        raise ConfigurationError(
            f"DATABASES has no {alias!r}, where jobs should live; it has {known}."
        ) from error
    settings: Mapping[str, Any] = connection.settings_dict
    match connection.vendor:
        case "sqlite":
            return _sqlite_url(alias, str(settings["NAME"]))
        case "postgresql" | "mysql" as vendor:
            return _server_url(vendor, alias, settings)
        case vendor:
            raise ConfigurationError(
                f"Database {alias!r} is {vendor}, in which jobs cannot live; SQLite, PostgreSQL, MySQL and "
                'MariaDB can hold them. Name another storage: FIRELOCK = {"storage": "redis://…"}.'
            )


def url_of_test_database(alias: str) -> str:
    """Return the URL of a storage in the test database that Django has created for the alias.

    Raises:
        ConfigurationError: it is in memory, or Django's tests have not created it.
    """
    settings: Mapping[str, Any] = connections[alias].settings_dict
    name, wanted = str(settings["NAME"]), str(settings["TEST"].get("NAME") or "")
    if connections[alias].vendor == "sqlite" and (":memory:" in name or "mode=memory" in name):
        raise ConfigurationError(
            f"The test database of {alias!r} is in memory, where no job can live. Give it a file: "
            f'DATABASES[{alias!r}]["TEST"] = {{"NAME": BASE_DIR / "test.sqlite3"}}.'
        )
    # Processes of `test --parallel` have test_shop_1, or test_1.sqlite3.
    if not name.startswith(wanted.removesuffix(PurePath(wanted).suffix) if wanted else TEST_DATABASE_PREFIX):
        raise ConfigurationError(f"Database {alias!r} is {name}, which is no test database.")
    return url_of_database(alias)


def alias_of_url(url: str) -> str | None:
    """Return the alias in DATABASES for the database of a storage's URL; None if there is none."""
    return next((alias for alias in connections if _leads_to(alias, url)), None)


def _leads_to(alias: str, url: str) -> bool:
    try:
        own = url_of_database(alias)
    except (ConfigurationError, ImproperlyConfigured):  # its kind cannot hold jobs, or its driver is missing
        return False
    return not own.startswith("memory:") and _place(own) == _place(url)


def _place(url: str) -> tuple[str, str, int | None, str]:
    """Return the kind of database, the host, the port and the name of a URL."""
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
            f"Database {alias!r} is named by a URI, {name!r}, not by a path. {_GIVE_URL}"
        )
    return f"sqlite:///{quote(name)}"


def _server_url(vendor: str, alias: str, settings: Mapping[str, Any]) -> str:
    host, query = str(settings["HOST"] or ""), _options(vendor, alias, settings["OPTIONS"])
    if vendor == "postgresql" and (role := query.pop("assume_role", "")):  # Django's name for SET ROLE
        role = role.replace("\\", r"\\").replace(" ", r"\ ")
        query["options"] = f"{query.get('options', '')} -c role={role}".lstrip()
    if not settings["NAME"] or "service" in query or "read_default_file" in query:
        raise ConfigurationError(
            f"Database {alias!r} is named in a file of the client's library, not in DATABASES. {_GIVE_URL}"
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
                f"OPTIONS[{name!r}] of database {alias!r} is {type(value).__name__}, which no URL can say. "
                f"{_GIVE_URL}"
            )
        found[name] = str(value)
    return found
