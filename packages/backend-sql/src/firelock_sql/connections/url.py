"""Storage URLs: a path for SQLite, SQLAlchemy's URLs for servers, both followed by Firelock's options."""

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
        "full"  # full: acknowledged data is on the disk; normal: a power failure may lose the last commits
    )
    busy_timeout_seconds: float = 15.0  # how long a writer waits for other writers
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
    """Parse the URL; a relative path is made absolute here, once.

    Raises:
        ConfigurationError: the URL names no file, or an option that is unknown or out of range.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigurationError(
            f"{url!r} names a host; an SQLite file is written sqlite:///jobs.db or sqlite:////var/lib/jobs.db."
        )
    if parts.fragment:
        raise ConfigurationError(f"{url!r} holds a #; write it as %23 where it belongs to the file's name.")
    name = unquote(parts.path.removeprefix("/"))
    if name in {"", ":memory:"} or "\x00" in name or "mode=memory" in parts.query:
        raise ConfigurationError(
            f"{url!r} names no file. For jobs that live in this process only use memory://."
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
                f"{url!r} has an unknown option {name!r}; there are {', '.join(_OPTIONS)}."
            )
    return dict(pairs)


def _one_of(url: str, options: Mapping[str, str], name: str, *allowed: str) -> str:
    value = options.get(name, allowed[0]).lower()
    if value not in allowed:
        raise ConfigurationError(f"{url!r} sets {name}={value!r}; it takes {' or '.join(allowed)}.")
    return value


def _seconds(url: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_BUSY_TIMEOUT:
        raise ConfigurationError(
            f"{url!r} sets busy_timeout={text!r}; it takes seconds from 0 to {_LONGEST_BUSY_TIMEOUT:g}."
        )
    return seconds


_MOST_CONNECTIONS = 1_000
_SECRET = frozenset({"password", "passwd", "sslpassword", "ssl_key_password"})


@attrs.frozen
class ServerUrl:
    """The location and the options of a database on a server."""

    url: URL  # without Firelock's options
    names: Names
    pool_size: int
    options: Mapping[str, str]  # of this backend, each with a value

    def __str__(self) -> str:
        """Return the URL for display: no password, and only options that differ from the defaults."""
        shown = self.url.set(
            query={name: value for name, value in self.url.query.items() if name not in _SECRET}
        )
        return shown.update_query_dict(self._given()).render_as_string(hide_password=True)

    @property
    def connect_url(self) -> str:
        """The URL that opens the same storage; it contains the password, so it must never be shown."""
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
    """Parse the URL; `choices` are the options of the backend, `known` those of its driver.

    Raises:
        ConfigurationError: the URL is invalid, or an option is unknown or out of range; the message contains
            no password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            f"A {scheme} URL cannot be read; write {scheme}://user:password@host:port/database."
        ) from None
    if url.host is not None and "@" in url.host:  # the host then ends with the rest of the password
        raise ConfigurationError(f"The password in a {scheme} URL contains '@'; write it as %40.")
    shown = url.set(query={}).render_as_string(hide_password=True)
    if not url.database:
        raise ConfigurationError(f"{shown} names no database; write {scheme}://user:password@host/database.")
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    ours = ("schema", "prefix", "pool_size", *choices)
    for name in query:
        if name not in ours and name not in known:
            raise ConfigurationError(
                f"{shown} has an unknown option {name!r}; of ours there are {', '.join(ours)}."
            )
    names = Names(query.get("schema"), query.get("prefix", PREFIX))
    options = {name: _chosen(shown, query, name, allowed) for name, allowed in choices.items()}
    rest = {name: value for name, value in url.query.items() if name not in ours}
    return ServerUrl(url.set(query=rest), names, _pool_size(shown, query.get("pool_size")), options)


def _chosen(shown: str, query: Mapping[str, str], name: str, allowed: Collection[str]) -> str:
    value = query.get(name, "auto").lower()
    if value not in allowed:
        raise ConfigurationError(f"{shown} sets {name}={value!r}; it takes {', '.join(allowed)}.")
    return value


def _pool_size(shown: str, text: str | None) -> int:
    if text is None:
        return _DEFAULT_POOL
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_CONNECTIONS:
        raise ConfigurationError(
            f"{shown} sets pool_size={text!r}; it takes a number from 1 to {_MOST_CONNECTIONS}."
        )
    return int(text)
