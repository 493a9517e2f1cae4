"""Jobs that an app under test has stored in transactions that are still open.

A `Tester` stores every job in memory as soon as it is enqueued. Before the commit, a real storage shows such
a job only to its own transaction. `Uncommitted` hides these jobs from the app in the same way, so that a test
fails if production would fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from firelock.errors import ConfigurationError
from firelock.model.job import JobRecord, NewJob
from firelock.model.state import State
from firelock.model.storage import OpenTransaction

_PLAIN = (str, bytes, int, float, list, tuple, dict, set, frozenset)


@attrs.frozen
class Caller:
    """A transaction of the caller, with the data that distinguishes it from others."""

    owner: object  # the session or connection of the transaction
    kind: str  # the kind of owner, because a session and its own connection cannot be compared
    is_open: Callable[[], bool]


@attrs.frozen
class _Unseen:
    """A job that was stored in an open transaction."""

    caller: Caller
    state: State  # the state in which the job was stored


class Uncommitted:
    """The jobs that other transactions cannot see yet.

    A job is removed from this set when its transaction is committed or rolled back, or when the test has run
    the job. Transactions that do not report whether they are open, such as those of a driver's own
    connection, count as ended.

    Args:
        get: returns the record of each id from memory.
    """

    def __init__(self, get: Callable[[Sequence[str]], list[JobRecord | None]]) -> None:
        self._get = get
        self._kept: dict[str, _Unseen] = {}

    def keep(self, jobs: Iterable[NewJob], within: object | None) -> None:
        """Add the jobs that were just stored in this transaction."""
        caller = None if within is None else caller_of(within)
        if caller is None or not caller.is_open():
            return
        for record in self._get([job.id for job in jobs]):
            if record is not None:
                self._kept[record.id] = _Unseen(caller, record.state)

    def is_hidden(self, job_id: str, within: object | None = None) -> bool:
        """Return whether the job is hidden from this transaction; None means outside of any transaction."""
        kept = self._kept.get(job_id)
        if kept is None:
            return False
        if not kept.caller.is_open() or self._has_moved(job_id, kept):
            self._kept.pop(job_id, None)
            return False
        if within is None:
            return True
        other = caller_of(within)
        return other is not None and other.kind == kept.caller.kind and other.owner is not kept.caller.owner

    def _has_moved(self, job_id: str, kept: _Unseen) -> bool:
        record = self._get([job_id])[0]
        return record is None or record.state is not kept.state or record.attempt > 0


def check_transaction(within: object) -> None:
    """Check that the object can be a transaction.

    Raises:
        ConfigurationError: If the object is not a transaction that a storage would accept.
    """
    if hasattr(within, "run_sync"):
        raise ConfigurationError(
            f"within must not be {type(within).__name__} for this method; only aenqueue and athen accept an "
            "AsyncSession or AsyncConnection."
        )
    is_djangos = type(within).__module__.startswith("django.")
    if is_djangos or isinstance(within, _PLAIN):
        raise ConfigurationError(
            f"within must be a Session or a Connection, got {type(within).__name__}. To pass an alias or a "
            "connection of Django, create the app with plugins=[DjangoPlugin()]."
        )


def caller_of(within: object) -> Caller | None:
    """Return the transaction, or None if it cannot be identified."""
    if isinstance(within, OpenTransaction):
        return Caller(within.connection, "driver", within.is_open or _before_commit(within))
    if not any(kind.__module__.partition(".")[0] == "sqlalchemy" for kind in type(within).__mro__):
        return None
    owner: Any = within if hasattr(within, "get_transaction") else within()  # type: ignore[operator]
    if owner.get_transaction() is None:
        owner.begin()  # the first statement of a real storage also does this
    current = owner.get_transaction()
    return Caller(
        owner, "session" if hasattr(owner, "expunge") else "connection", _is_current(owner, current)
    )


def _is_current(owner: Any, transaction: object) -> Callable[[], bool]:  # noqa: ANN401 - of SQLAlchemy
    return lambda: owner.get_transaction() is transaction


def _before_commit(within: OpenTransaction) -> Callable[[], bool]:
    committed: list[bool] = []
    within.on_commit(lambda: committed.append(True))
    return lambda: not committed
