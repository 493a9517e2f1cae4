"""Callers' transactions that verbs join: `insert(within=…)`, `apply(within=…)`.

The statements run on the caller's own connection, regardless of its driver, so they are committed or rolled
back with the rest of the transaction. Servers are notified of the jobs after the commit. For a Session, its
events trigger the notification. For a Connection, servers are notified when it returns to its pool, because
SQLAlchemy Core has no event after a commit. A raw connection does not report commits, so servers find its
jobs when they poll next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from sqlalchemy import Connection, event
from sqlalchemy.engine import Dialect

from firelock_sql.connections.transaction import Cursor

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from firelock.storage import OpenTransaction


class Notifier(Protocol):
    """An object that can notify waiting servers of queues with work."""

    def notify(self, queues: set[str]) -> None:
        """Notify the servers that wait for these queues."""
        ...


NotifyLater = Callable[[Notifier, set[str]], None]


@attrs.frozen
class Joined:
    """A caller's transaction."""

    driver: Any  # the driver's connection
    dialect: Dialect  # the dialect that compiles statements for this driver
    place: str  # a value that distinguishes its database from others
    open_cursor: Callable[[], Cursor]
    notify_later: NotifyLater


def find_connection(within: object) -> tuple[Connection, NotifyLater] | None:
    """Return SQLAlchemy's connection and a function that notifies servers after its commit.

    Return None if `within` is neither a Connection nor a Session.
    """
    if isinstance(within, Connection):
        return within, lambda notifier, queues: _notify_after_checkin(within, notifier, queues)
    from sqlalchemy.orm import Session, scoped_session  # noqa: PLC0415 - Core alone is loaded before

    session = within() if isinstance(within, scoped_session) else within
    if isinstance(session, Session):
        return session.connection(), lambda notifier, queues: _notify_after_end(session, notifier, queues)
    return None


def notify_on_commit(transaction: OpenTransaction) -> NotifyLater:
    """Return a function that notifies servers when the transaction's owner reports the commit."""

    def notify_later(notifier: Notifier, queues: set[str]) -> None:
        transaction.on_commit(lambda: notifier.notify(queues))

    return notify_later


def skip_notification(_teller: Notifier, _queues: set[str]) -> None:
    """Do nothing, because a raw connection does not report commits."""


# keys in the `info` of a session or a pooled connection
_PENDING = "firelock: pending notifications"
_NOTIFIES = "firelock: notifies after commits"


def _notify_after_end(session: Session, notifier: Notifier, queues: set[str]) -> None:
    """Notify servers when the session's outermost transaction is committed, but not if it is rolled back."""
    pending: dict[Notifier, set[str]] = session.info.setdefault(_PENDING, {})
    pending.setdefault(notifier, set()).update(queues)
    if session.info.setdefault(_NOTIFIES, False):
        return
    session.info[_NOTIFIES] = True
    outcome = {"is_committed": False}

    @event.listens_for(session, "after_commit")
    def committed(_session: Session) -> None:
        outcome["is_committed"] = True

    @event.listens_for(session, "after_rollback")
    def rolled_back(_session: Session) -> None:
        outcome["is_committed"] = False

    @event.listens_for(session, "after_transaction_end")
    def ended(session: Session, transaction: Any) -> None:  # noqa: ANN401 - its type is private
        if transaction.parent is not None:
            return
        queues_of = session.info.pop(_PENDING, {})
        if outcome["is_committed"]:
            for other, names in queues_of.items():
                other.notify(names)
        outcome["is_committed"] = False


def _notify_after_checkin(connection: Connection, notifier: Notifier, queues: set[str]) -> None:
    """Notify servers when the connection returns to its pool, if its transaction was committed."""
    info = connection.connection.info
    pending: dict[Notifier, set[str]] = info.setdefault(_PENDING, {})
    pending.setdefault(notifier, set()).update(queues)
    pool: Any = connection.engine.pool
    if not event.contains(pool, "checkin", _checked_in):
        event.listen(pool, "checkin", _checked_in)
    if not event.contains(connection.engine, "commit", _committing):
        event.listen(connection.engine, "commit", _committing)
        event.listen(connection.engine, "rollback", _rolling_back)


def _committing(connection: Connection) -> None:
    info = connection.connection.info
    if _PENDING in info:
        info[_NOTIFIES] = True


def _rolling_back(connection: Connection) -> None:
    if not connection.invalidated:
        connection.connection.info.pop(_PENDING, None)


def _checked_in(_driver: object, record: Any) -> None:  # noqa: ANN401 - the pool's own type
    pending: dict[Notifier, set[str]] = record.info.pop(_PENDING, {})
    if record.info.pop(_NOTIFIES, False):
        for notifier, queues in pending.items():
            notifier.notify(queues)
