"""Which of Django's transactions an enqueue is part of.

Django's `atomic()` is of a thread, in which each alias has one connection. Where jobs live in the database of
an alias, an enqueue inside its `atomic()` joins: the job comes and goes with the models. With any other
storage nothing happens by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from firelock.errors import ConfigurationError
from firelock.storage import Feature, OpenTransaction, Storage


def surrounding_transaction(alias: str | None, storage: Storage) -> OpenTransaction | None:
    """Return the transaction of this thread in the database that holds the jobs; None where there is none."""
    if alias is None or Feature.TRANSACTIONAL_ENQUEUE not in storage.features:
        return None
    connection = connections[alias]
    return _opened(connection) if connection.in_atomic_block else None


def named_transaction(within: object) -> OpenTransaction | None:
    """Return the transaction of an alias or a connection of Django's; None for what is neither.

    Raises:
        ConfigurationError: there is no such alias, or it is in no transaction.
    """
    if isinstance(within, str):
        connection = connections[_known(within)]
    elif isinstance(within, ConnectionProxy):  # `from django.db import connection`
        connection = connections[within.alias]
    elif isinstance(within, BaseDatabaseWrapper):
        connection = within
    else:
        return None
    if not connection.in_atomic_block:
        raise ConfigurationError(
            f"within= names {connection.alias!r}, a database of Django's that is in no transaction in this "
            "thread. Enqueue inside transaction.atomic(), in sync code."
        )
    return _opened(connection)


def _known(alias: str) -> str:
    if alias not in connections.settings:
        known = ", ".join(connections.settings)
        raise ConfigurationError(f"within={alias!r} names no database; DATABASES has {known}.")
    return alias


def _opened(connection: Any) -> OpenTransaction:  # noqa: ANN401 - Django brings no types
    """Return the connection's transaction; Django's own error where that was broken before."""
    connection.validate_no_broken_transaction()
    connection.ensure_connection()
    return OpenTransaction(connection.connection, partial(_on_commit, connection.alias))


def _on_commit(alias: str, tell: Callable[[], None]) -> None:
    transaction.on_commit(tell, using=alias, robust=True)  # who is told late loses nothing
