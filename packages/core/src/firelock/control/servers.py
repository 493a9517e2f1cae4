"""`fire.servers`: who runs jobs on this storage, and what they are told."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from firelock.errors import ConfigurationError
from firelock.model.aio import twin
from firelock.model.clock import from_micros
from firelock.storage import SessionRecord, Storage

if TYPE_CHECKING:
    from firelock.jobs.client import Client

ORDERS = "server_order"
"""The kind of the records that are orders, by the id of the server."""
_MODES = ("quiet", "resume", "stop")
_END = "end "  # before the id of a session
_ORDERS_AT_ONCE = 1_000
_MICROS = 1_000_000
_STALE_AFTER = 0.6  # of the session's timeout: at least three renewals fit into it


RETIRED = "retired"
"""The state of a session whose worker process was replaced: it claims nothing and ends after its last job."""
ENDING = "ending"
"""The state of a session whose worker process was replaced, and whose jobs have only the grace time left."""


def is_leaving(record: SessionRecord) -> bool:
    """Whether another worker process has taken the place of this session's own, which claims nothing."""
    return record.renewal.state in {RETIRED, ENDING}


class ServerState(StrEnum):
    """How a server is, the best of its sessions first."""

    ACTIVE = "active"
    STALE = "stale"  # it has missed a renewal
    QUIET = "quiet"  # it claims nothing, since it was told so
    STOPPING = "stopping"
    LOST = "lost"  # its sessions have ended, or run out, without a word
    ENDED = "ended"  # it stopped, and said so

    @property
    def is_gone(self) -> bool:
        """Tell whether it runs no more."""
        return self in {ServerState.LOST, ServerState.ENDED}

    @property
    def is_listening(self) -> bool:
        """Tell whether it takes jobs, or is about to be gone: a deploy is no reason for alarm."""
        return self in {ServerState.ACTIVE, ServerState.STALE, ServerState.STOPPING}


def heard_at(record: SessionRecord, now: int) -> int:
    """Return when a session was renewed last: its timeout before it expires, never after now."""
    return min(now, record.expires_at - int(record.session.timeout_seconds * _MICROS))


@attrs.frozen
class ServerView:
    """A server with the sessions of its worker processes."""

    id: str
    name: str
    host: str
    queues: str
    workers: int  # of worker processes that were replaced, only those that run a job
    started_at: datetime
    is_alive: bool
    busy: int
    sessions: tuple[SessionRecord, ...]

    @property
    def is_lost(self) -> bool:
        """Tell whether it is gone and none of its sessions said last that it stops: killed, or cut off."""
        return not self.is_alive and all(one.renewal.state != "stopping" for one in self.sessions)

    @property
    def is_closing(self) -> bool:
        """Whether a dead session of this server still holds jobs, because their rows are locked."""
        return any(one.is_closing for one in self.sessions)

    def living(self, now: int) -> list[SessionRecord]:
        """Return the sessions that have not ended and not run out."""
        return [one for one in self.sessions if one.is_alive and one.expires_at > now]

    def state_at(self, now: int) -> ServerState:
        """Return how it is by its living sessions; where none is left, by what it said last."""
        alive = self.living(now)
        said = {one.renewal.state for one in alive}
        if not alive:
            return ServerState.LOST if self.is_alive or self.is_lost else ServerState.ENDED
        if "stopping" in said:
            return ServerState.STOPPING
        if "quiet" in said:
            return ServerState.QUIET
        if "overdue" in said or any(is_stale(one, now) for one in alive):
            return ServerState.STALE
        return ServerState.ACTIVE

    @property
    def queue_names(self) -> tuple[str, ...] | None:
        """The queues that it takes jobs of, in its order; None for every queue."""
        if self.queues == "*":
            return None
        return tuple(each.partition(":")[0] for each in self.queues.split(","))  # weights left out

    def listens_to(self, queue: str) -> bool:
        """Tell whether it takes jobs of this queue, were it not quiet."""
        return self.queue_names is None or queue in self.queue_names


class Servers:
    """`fire.servers`: who runs jobs on this storage. `tell` acts immediately."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[ServerView]:
        """Return the servers, oldest first; those that stopped or were lost stay for a day."""
        by_server: dict[str, list[SessionRecord]] = {}
        for record in self._client.storage.list_sessions():
            by_server.setdefault(record.session.server_id, []).append(record)
        return [_server_view(server_id, sessions) for server_id, sessions in by_server.items()]

    alist = twin(list)  # noqa: A003 - the verb above

    def tell(self, server_id: str, order: str) -> None:
        """Within a heartbeat the server claims no more (quiet), claims again (resume) or stops (stop)."""
        if order not in _MODES:
            raise ConfigurationError(f"Order {order!r} is unknown; use quiet, resume or stop.")
        self._put_order(server_id, order, instead_of=_MODES)

    atell = twin(tell)

    def end_process(self, session_id: str) -> SessionRecord:
        """End a worker process within a heartbeat; its server starts another one in its place.

        It claims nothing more. Its jobs have the grace time to end, as when a server stops; then they are
        cancelled and go back to their queues. A server inside an application cannot do this, and logs so.
        Return the session.

        Args:
            session_id: the session of the worker process, for example `job.record().session`.

        Raises:
            ConfigurationError: no living worker process has this session.
        """
        now = self._client.clock.now()
        living = (one for server in self.list() for one in server.living(now))
        record = next((one for one in living if one.session.id == session_id), None)
        if record is None:
            raise ConfigurationError(f"No living worker process has session {session_id!r}; it has ended.")
        self._put_order(record.session.server_id, f"{_END}{session_id}")
        return record

    aend_process = twin(end_process)

    def _put_order(self, server_id: str, order: str, *, instead_of: Collection[str] = ()) -> None:
        """Add the order to those that the server has not read yet; it takes the place of some of them."""
        storage, is_stored = self._client.storage, False
        while not is_stored:
            record = storage.get_record(ORDERS, server_id)
            pending = [] if record is None else read_orders(record.value)
            orders = [one for one in pending if one != order and one not in instead_of]
            value = json.dumps([*orders, order] if orders else order)
            version = 0 if record is None else record.version
            is_stored = storage.put_record(ORDERS, server_id, value, expected_version=version) is not None


def read_orders(value: str) -> list[str]:
    """Return the orders of a record, oldest first; unknown ones are left out."""
    try:
        orders = json.loads(value)
    except ValueError:
        return []
    listed = orders if isinstance(orders, list) else [orders]
    return [one for one in listed if isinstance(one, str) and (one in _MODES or one.startswith(_END))]


def session_to_end(order: str) -> str | None:
    """Return the session whose worker process the order ends; None if it is another order."""
    return order.removeprefix(_END) if order.startswith(_END) else None


def forget_orders(storage: Storage) -> int:
    """Delete orders to servers without a living session; return how many.

    A server deletes an order that it has obeyed, so these are orders that came too late. A bounded number is
    looked at.
    """
    orders = storage.list_records(ORDERS, limit=_ORDERS_AT_ONCE)
    if not orders:
        return 0
    living = {one.session.server_id for one in storage.list_sessions() if one.is_alive}
    late = [order for order in orders if order.key not in living]
    return sum(storage.delete_record(ORDERS, order.key, expected_version=order.version) for order in late)


def is_stale(record: SessionRecord, now: int) -> bool:
    """Tell whether a session has missed renewals, though its time has not run out."""
    return now - heard_at(record, now) > _STALE_AFTER * record.session.timeout_seconds * _MICROS


def _server_view(server_id: str, sessions: list[SessionRecord]) -> ServerView:
    first = sessions[0].session
    alive = [record for record in sessions if record.is_alive]
    return ServerView(
        server_id,
        first.server,
        first.host,
        first.queues,
        sum(one.renewal.busy if is_leaving(one) else one.session.workers for one in alive),
        from_micros(first.started_at),
        bool(alive),
        sum(record.renewal.busy for record in alive),
        tuple(sessions),
    )
