"""`fire.servers`: the servers that run jobs on this storage, and the orders that control them."""

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
"""The kind of the records that contain orders, by the id of the server."""
_MODES = ("quiet", "resume", "stop")
_END = "end "  # the prefix of an order to end a session; the session's id follows
_ORDERS_AT_ONCE = 1_000
_MICROS = 1_000_000
_OVERDUE_AFTER = 0.6  # share of the session's timeout, which is enough for at least three renewals


RETIRED = "retired"
"""The state of a session whose worker process was replaced: it claims no jobs and ends after its last job."""
ENDING = "ending"
"""The state of a session whose worker process was replaced and whose jobs only have the grace time left."""


def is_leaving(record: SessionRecord) -> bool:
    """Return whether the session's worker process was replaced by another one and claims no more jobs."""
    return record.renewal.state in {RETIRED, ENDING}


class ServerState(StrEnum):
    """The state of a server, derived from its sessions; the best state comes first."""

    RUNNING = "running"
    OVERDUE = "overdue"  # the server has missed a renewal
    QUIET = "quiet"  # the server was ordered not to claim jobs
    STOPPING = "stopping"
    LOST = "lost"  # its sessions have ended or expired without a report that the server stopped
    ENDED = "ended"  # the server has stopped and reported this

    @property
    def is_gone(self) -> bool:
        """Whether the server no longer runs."""
        return self in {ServerState.LOST, ServerState.ENDED}

    @property
    def is_listening(self) -> bool:
        """Whether it claims jobs or is stopping; a stopping server counts, so a deploy causes no alarm."""
        return self in {ServerState.RUNNING, ServerState.OVERDUE, ServerState.STOPPING}


def renewed_at(record: SessionRecord, now: int) -> int:
    """Return when a session was last renewed: its expiry minus its timeout, but never in the future."""
    return min(now, record.expires_at - int(record.session.timeout_seconds * _MICROS))


@attrs.frozen
class ServerView:
    """A server with the sessions of its worker processes."""

    id: str
    name: str
    host: str
    queues: str
    workers: int  # number of workers; in replaced worker processes, only those that run a job are counted
    started_at: datetime
    is_alive: bool
    busy: int
    sessions: tuple[SessionRecord, ...]

    @property
    def is_lost(self) -> bool:
        """Whether it was killed or cut off: it no longer runs, and no session last reported "stopping"."""
        return not self.is_alive and all(one.renewal.state != "stopping" for one in self.sessions)

    @property
    def is_closing(self) -> bool:
        """Whether a dead session of this server still holds jobs because their rows are locked."""
        return any(one.is_closing for one in self.sessions)

    def living(self, now: int) -> list[SessionRecord]:
        """Return the sessions that have not ended or expired."""
        return [one for one in self.sessions if one.is_alive and one.expires_at > now]

    def state_at(self, now: int) -> ServerState:
        """Return the state based on the living sessions or, if there are none, on the last reports."""
        alive = self.living(now)
        states = {one.renewal.state for one in alive}
        if not alive:
            return ServerState.LOST if self.is_alive or self.is_lost else ServerState.ENDED
        if "stopping" in states:
            return ServerState.STOPPING
        if "quiet" in states:
            return ServerState.QUIET
        if "overdue" in states or any(is_overdue(one, now) for one in alive):
            return ServerState.OVERDUE
        return ServerState.RUNNING

    @property
    def queue_names(self) -> tuple[str, ...] | None:
        """The queues from which it claims jobs, in the order that it uses; None for all queues."""
        if self.queues == "*":
            return None
        # names of queues, without weights
        return tuple(each.partition(":")[0] for each in self.queues.split(","))

    def listens_to(self, queue: str) -> bool:
        """Return whether it claims jobs from this queue when it is not quiet."""
        return self.queue_names is None or queue in self.queue_names


class Servers:
    """The servers that run jobs on this storage: `fire.servers`. `order` acts immediately."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[ServerView]:
        """Return the servers, oldest first; those that stopped or were lost are listed for a day."""
        by_server: dict[str, list[SessionRecord]] = {}
        for record in self._client.storage.list_sessions():
            by_server.setdefault(record.session.server_id, []).append(record)
        return [_server_view(server_id, sessions) for server_id, sessions in by_server.items()]

    alist = twin(list)  # noqa: A003 - the method above

    def order(self, server_id: str, order: str) -> None:
        """Order a server to claim no more jobs ("quiet"), to claim jobs again ("resume") or to stop ("stop").

        The order takes effect within a heartbeat.
        """
        if order not in _MODES:
            raise ConfigurationError(f"Order {order!r} is unknown; use quiet, resume or stop.")
        self._put_order(server_id, order, instead_of=_MODES)

    aorder = twin(order)

    def end_process(self, session_id: str) -> SessionRecord:
        """End a worker process within a heartbeat; its server starts another one in its place.

        The worker process claims no more jobs. Its running jobs have the grace period to end, as when a
        server stops; after that, they are cancelled and return to their queues. An embedded server cannot end
        its process, and logs a message instead. Return the session.

        Args:
            session_id: the session of the worker process, for example `job.record().session`.

        Raises:
            ConfigurationError: If no running worker process has this session.
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
        """Add the order to those that the server has not read yet, and replace some of them."""
        storage, is_stored = self._client.storage, False
        while not is_stored:
            record = storage.get_record(ORDERS, server_id)
            pending = [] if record is None else read_orders(record.value)
            orders = [one for one in pending if one != order and one not in instead_of]
            value = json.dumps([*orders, order] if orders else order)
            version = 0 if record is None else record.version
            is_stored = storage.put_record(ORDERS, server_id, value, expected_version=version) is not None


def read_orders(value: str) -> list[str]:
    """Return the orders of a record, oldest first, without unknown ones."""
    try:
        orders = json.loads(value)
    except ValueError:
        return []
    listed = orders if isinstance(orders, list) else [orders]
    return [one for one in listed if isinstance(one, str) and (one in _MODES or one.startswith(_END))]


def session_to_end(order: str) -> str | None:
    """Return the session whose worker process the order ends; None for other orders."""
    return order.removeprefix(_END) if order.startswith(_END) else None


def forget_orders(storage: Storage) -> int:
    """Delete orders to servers without a living session; return their number.

    A server deletes an order that it has carried out, so these orders came too late. A limited number of
    orders is checked.
    """
    orders = storage.list_records(ORDERS, limit=_ORDERS_AT_ONCE)
    if not orders:
        return 0
    living = {one.session.server_id for one in storage.list_sessions() if one.is_alive}
    late = [order for order in orders if order.key not in living]
    return sum(storage.delete_record(ORDERS, order.key, expected_version=order.version) for order in late)


def is_overdue(record: SessionRecord, now: int) -> bool:
    """Return whether a session has missed renewals but has not expired."""
    return now - renewed_at(record, now) > _OVERDUE_AFTER * record.session.timeout_seconds * _MICROS


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
