"""The Django transaction that new jobs join.

Django's `atomic()` applies to a thread, in which each alias has one connection. If jobs are stored in the
database of an alias, a job that is enqueued inside its `atomic()` joins the transaction: the job is committed
or rolled back with the models. With any other storage, a job does not join a transaction unless the caller
passes one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.utils.connection import ConnectionProxy

from firelock.errors import ConfigurationError
from firelock.storage import Feature, OpenTransaction, Storage


def surrounding_transaction(alias: str | None, storage: Storage) -> OpenTransaction | None:
    """Return this thread's open transaction in the database of the jobs; None if there is none."""
    if alias is None or Feature.TRANSACTIONAL_ENQUEUE not in storage.features:
        return None
    connection = connections[alias]
    return _opened(connection) if connection.in_atomic_block else None


def named_transaction(within: object) -> OpenTransaction | None:
    """Return the transaction of an alias or a connection of Django; None for any other object.

    Raises:
        ConfigurationError: If the alias does not exist, has no open transaction, or a cursor was passed.
    """
    if isinstance(within, str):
        connection = connections[_known(within)]
    elif isinstance(within, ConnectionProxy):  # `from django.db import connection`
        connection = connections[within.alias]
    elif isinstance(within, BaseDatabaseWrapper):
        connection = within
    elif isinstance(within, CursorWrapper):
        raise ConfigurationError(
            "within must be an alias or a connection of Django, got a cursor; use "
            f"within={within.db.alias!r}."
        )
    else:
        return None
    if not connection.in_atomic_block:
        raise ConfigurationError(
            f"No transaction is open on database {connection.alias!r} in this thread. Enqueue inside "
            "transaction.atomic(), in sync code."
        )
    return _opened(connection)


def _known(alias: str) -> str:
    if alias not in connections.settings:
        known = ", ".join(connections.settings)
        raise ConfigurationError(f"within={alias!r} is not in DATABASES; use one of {known}.")
    return alias


def _opened(connection: Any) -> OpenTransaction:  # noqa: ANN401 - Django has no types
    """Return the connection's transaction; if it is already broken, raise Django's own error."""
    connection.validate_no_broken_transaction()
    connection.ensure_connection()
    is_open = partial(_is_open, connection, _block_of(connection))
    return OpenTransaction(connection.connection, partial(_on_commit, connection.alias), is_open)


def _block_of(connection: Any) -> tuple[int, object] | None:  # noqa: ANN401 - Django has no types
    """Return the outermost `atomic()` of the project; None if only blocks of Django's TestCase are open."""
    for depth, block in enumerate(connection.atomic_blocks):
        if not block._from_testcase:  # noqa: SLF001 - Django checks this for durable blocks
            return depth, _mark(connection, depth)
    return None


def _mark(connection: Any, depth: int) -> object:  # noqa: ANN401 - Django has no types
    """Return a mark that distinguishes a block from a later one at the same depth.

    The mark is the block's savepoint or, if there is none, the block itself. A savepoint is better, because a
    decorator enters the same block object for each call.
    """
    blocks, savepoints = connection.atomic_blocks, connection.savepoint_ids
    if depth >= len(blocks):
        return None
    place = depth - len(blocks) + len(savepoints)  # the outermost block usually has no savepoint
    return (savepoints[place] if place >= 0 else None) or blocks[depth]


def _is_open(connection: Any, block: tuple[int, object] | None) -> bool:  # noqa: ANN401 - as above
    return block is not None and _mark(connection, block[0]) is block[1]


def _on_commit(alias: str, notify: Callable[[], None]) -> None:
    transaction.on_commit(notify, using=alias, robust=True)  # a late notification is harmless
