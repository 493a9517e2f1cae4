"""URLs of databases with a server: SQLAlchemy's, with options of ours behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from firelock import ConfigurationError
from firelock_sql.servers.names import Names
from firelock_sql.tables import PREFIX

__all__ = ["ServerUrl", "parse_server_url"]

_MOST_CONNECTIONS = 1_000
_SECRET = frozenset({"password", "passwd", "sslpassword", "ssl_key_password"})


@attrs.frozen
class ServerUrl:
    """Where a database is, and how it is used."""

    url: URL  # without our options
    names: Names
    pool_size: int
    options: Mapping[str, str]  # the backend's own, every one given a value

    def __str__(self) -> str:
        """Return the URL as it may be shown: no password, only what differs from the defaults behind it."""
        shown = self.url.set(
            query={name: value for name, value in self.url.query.items() if name not in _SECRET}
        )
        return shown.update_query_dict(self._given()).render_as_string(hide_password=True)

    @property
    def connect_url(self) -> str:
        """Return the URL that opens the same storage: never shown."""
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
    """Return what the URL says; `choices` are the backend's own options, `known` those of its driver.

    Raises:
        ConfigurationError: it cannot be read, or an option is unknown or out of range; no password is in it.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        message = f"A {scheme} URL cannot be read; write {scheme}://user:password@host:port/database."
        raise ConfigurationError(message) from None
    shown = url.set(query={}).render_as_string(hide_password=True)
    if not url.database:
        message = f"{shown} names no database; write {scheme}://user:password@host/database."
        raise ConfigurationError(message)
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    ours = ("schema", "prefix", "pool_size", *choices)
    for name in query:
        if name not in ours and name not in known:
            message = f"{shown} has an unknown option {name!r}; of ours there are {', '.join(ours)}."
            raise ConfigurationError(message)
    names = Names(query.get("schema"), query.get("prefix", PREFIX))
    options = {name: _chosen(shown, query, name, allowed) for name, allowed in choices.items()}
    rest = {name: value for name, value in url.query.items() if name not in ours}
    return ServerUrl(url.set(query=rest), names, _pool_size(shown, query.get("pool_size")), options)


def _chosen(shown: str, query: Mapping[str, str], name: str, allowed: Collection[str]) -> str:
    value = query.get(name, "auto").lower()
    if value not in allowed:
        message = f"{shown} sets {name}={value!r}; it takes {', '.join(allowed)}."
        raise ConfigurationError(message)
    return value


def _pool_size(shown: str, text: str | None) -> int:
    if text is None:
        return _DEFAULT_POOL
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_CONNECTIONS:
        message = f"{shown} sets pool_size={text!r}; it takes a number from 1 to {_MOST_CONNECTIONS}."
        raise ConfigurationError(message)
    return int(text)
