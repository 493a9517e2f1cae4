"""The URL of an SQLite storage: a path and how careful to be with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs

from firelock import ConfigurationError

__all__ = ["SqliteUrl", "parse_sqlite_url"]

_OPTIONS = ("synchronous", "busy_timeout", "wake")
_LONGEST_BUSY_TIMEOUT = 600.0


@attrs.frozen
class SqliteUrl:
    """Where the database file is and how it is used."""

    path: Path  # absolute
    synchronous: str = (
        "full"  # full: acknowledged is on disk; normal: a power failure may take the last commits
    )
    busy_timeout_seconds: float = 15.0  # how long a writer waits for other writers
    is_waking: bool = True  # servers are told of new work by sockets beside the file

    def __str__(self) -> str:
        """Return the URL as it may be shown: absolute, only what differs from the defaults behind it."""
        options = []
        if self.synchronous != "full":
            options.append(f"synchronous={self.synchronous}")
        if self.busy_timeout_seconds != attrs.fields(SqliteUrl).busy_timeout_seconds.default:
            options.append(f"busy_timeout={self.busy_timeout_seconds:g}")
        if not self.is_waking:
            options.append("wake=off")
        return f"sqlite:///{quote(str(self.path))}{'?' if options else ''}{'&'.join(options)}"


def parse_sqlite_url(url: str) -> SqliteUrl:
    """Return what the URL says; a relative path is made absolute here, once.

    Raises:
        ConfigurationError: it names no file, or an option that is unknown or out of range.
    """
    parts = urlsplit(url)
    if parts.netloc:
        message = f"{url!r} names a host; an SQLite file is written sqlite:///jobs.db or sqlite:////var/lib/jobs.db."
        raise ConfigurationError(message)
    if parts.fragment:
        message = f"{url!r} holds a #; write it as %23 where it belongs to the file's name."
        raise ConfigurationError(message)
    name = unquote(parts.path.removeprefix("/"))
    if name in {"", ":memory:"} or "\x00" in name or "mode=memory" in parts.query:
        message = f"{url!r} names no file. For jobs that live in this process only use memory://."
        raise ConfigurationError(message)
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
            message = f"{url!r} has an unknown option {name!r}; there are {', '.join(_OPTIONS)}."
            raise ConfigurationError(message)
    return dict(pairs)


def _one_of(url: str, options: Mapping[str, str], name: str, *allowed: str) -> str:
    value = options.get(name, allowed[0]).lower()
    if value not in allowed:
        message = f"{url!r} sets {name}={value!r}; it takes {' or '.join(allowed)}."
        raise ConfigurationError(message)
    return value


def _seconds(url: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_BUSY_TIMEOUT:
        message = f"{url!r} sets busy_timeout={text!r}; it takes seconds from 0 to {_LONGEST_BUSY_TIMEOUT:g}."
        raise ConfigurationError(message)
    return seconds
