"""Storage URLs: paths for SQLite and SQLAlchemy's URLs for servers, both followed by Firelock's options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from firelock import ConfigurationError
from firelock_sql.schema.names import PREFIX, Names

_OPTIONS = ("synchronous", "busy_timeout", "wake")
_LONGEST_BUSY_TIMEOUT = 600.0


@attrs.frozen
class SqliteUrl:
    """The location and the options of a database file."""

    path: Path  # absolute
    synchronous: str = (
        "full"  # full: acknowledged data is on disk; normal: a power failure may lose the last commits
    )
    busy_timeout_seconds: float = 15.0  # seconds that a writer waits for other writers
    is_waking: bool = True  # servers are notified of new work through sockets next to the file

    def __str__(self) -> str:
        """Return the URL for display: an absolute path, and only options that differ from the defaults."""
        options = []
        if self.synchronous != "full":
            options.append(f"synchronous={self.synchronous}")
        if self.busy_timeout_seconds != attrs.fields(SqliteUrl).busy_timeout_seconds.default:
            options.append(f"busy_timeout={self.busy_timeout_seconds:g}")
        if not self.is_waking:
            options.append("wake=off")
        return f"sqlite:///{quote(str(self.path))}{'?' if options else ''}{'&'.join(options)}"


def parse_sqlite_url(url: str) -> SqliteUrl:
    """Parse the URL; make a relative path absolute.

    Raises:
        ConfigurationError: If the URL does not contain a file, or if an option is unknown or out of range.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigurationError(
            f"{url!r} contains a host. Write the path of an SQLite file as sqlite:///jobs.db or "
            "sqlite:////var/lib/jobs.db."
        )
    if parts.fragment:
        raise ConfigurationError(f"{url!r} contains a #. If it is part of the file name, write it as %23.")
    name = unquote(parts.path.removeprefix("/"))
    if name in {"", ":memory:"} or "\x00" in name or "mode=memory" in parts.query:
        raise ConfigurationError(
            f"{url!r} does not contain the path of a file. To keep jobs only in this process, use memory://."
        )
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    options = _read_options(url, parts.query)
    return SqliteUrl(
        path.absolute(),
        _one_of(url, options, "synchronous", "full", "normal"),
        _seconds(url, options.get("busy_timeout", "15")),
        _one_of(url, options, "wake", "on", "off") == "on",
    )


def _read_options(url: str, query: str) -> Mapping[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in _OPTIONS:
            raise ConfigurationError(
                f"{url!r} contains an unknown option {name!r}. Available options: {', '.join(_OPTIONS)}."
            )
    return dict(pairs)


def _one_of(url: str, options: Mapping[str, str], name: str, *allowed: str) -> str:
    value = options.get(name, allowed[0]).lower()
    if value not in allowed:
        raise ConfigurationError(f"{name} must be {' or '.join(allowed)}, got {value!r} in {url!r}.")
    return value


def _seconds(url: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_BUSY_TIMEOUT:
        raise ConfigurationError(
            f"busy_timeout must be a number of seconds from 0 to {_LONGEST_BUSY_TIMEOUT:g}, got {text!r} in "
            f"{url!r}."
        )
    return seconds


_MOST_CONNECTIONS = 1_000
_SECRET = frozenset({"password", "passwd", "sslpassword", "ssl_key_password"})


@attrs.frozen
class ServerUrl:
    """The location and the options of a database on a server."""

    url: URL  # the URL without Firelock's options
    names: Names
    pool_size: int
    options: Mapping[str, str]  # the values of all options of this backend

    def __str__(self) -> str:
        """Return the URL for display, without the password and without options that have their defaults."""
        shown = self.url.set(
            query={name: value for name, value in self.url.query.items() if name not in _SECRET}
        )
        return shown.update_query_dict(self._given()).render_as_string(hide_password=True)

    @property
    def connect_url(self) -> str:
        """The URL that opens the same storage; it contains the password and must never be displayed."""
        return self.url.update_query_dict(self._given()).render_as_string(hide_password=False)

    def _given(self) -> dict[str, str]:
        given = {}
        if self.names.schema is not None:
            given["schema"] = self.names.schema
        if self.names.prefix != PREFIX:
            given["prefix"] = self.names.prefix
        if self.pool_size != _DEFAULT_POOL:
            given["pool_size"] = str(self.pool_size)
        return {**given, **{name: value for name, value in self.options.items() if value != "auto"}}


_DEFAULT_POOL = 10


def parse_server_url(
    text: str, *, scheme: str, choices: Mapping[str, Collection[str]], known: Collection[str]
) -> ServerUrl:
    """Parse the URL; `choices` are the options of the backend, `known` the options of its driver.

    Raises:
        ConfigurationError: If the URL is invalid, or if an option is unknown or out of range. The message
            does not contain the password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            f"The {scheme} URL is invalid. Use the form {scheme}://user:password@host:port/database."
        ) from None
    if url.host is not None and "@" in url.host:  # the host ends with the rest of the password
        raise ConfigurationError(f"The password in the {scheme} URL contains '@'. Write it as %40.")
    shown = url.set(query={}).render_as_string(hide_password=True)
    if not url.database:
        raise ConfigurationError(
            f"{shown} does not contain a database. Use the form {scheme}://user:password@host/database."
        )
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    ours = ("schema", "prefix", "pool_size", *choices)
    for name in query:
        if name not in ours and name not in known:
            raise ConfigurationError(
                f"{shown} contains an unknown option {name!r}. Firelock's options: {', '.join(ours)}."
            )
    names = Names(query.get("schema"), query.get("prefix", PREFIX))
    options = {name: _chosen(shown, query, name, allowed) for name, allowed in choices.items()}
    rest = {name: value for name, value in url.query.items() if name not in ours}
    return ServerUrl(url.set(query=rest), names, _pool_size(shown, query.get("pool_size")), options)


def _chosen(shown: str, query: Mapping[str, str], name: str, allowed: Collection[str]) -> str:
    value = query.get(name, "auto").lower()
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, got {value!r} in {shown}.")
    return value


def _pool_size(shown: str, text: str | None) -> int:
    if text is None:
        return _DEFAULT_POOL
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_CONNECTIONS:
        raise ConfigurationError(
            f"pool_size must be an integer from 1 to {_MOST_CONNECTIONS}, got {text!r} in {shown}."
        )
    return int(text)
