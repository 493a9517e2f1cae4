"""`fire.servers`: who runs jobs on this storage, and what they are told."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from firelock.aio import twin
from firelock.clock import from_micros
from firelock.errors import ConfigurationError
from firelock.storage import SessionRecord

if TYPE_CHECKING:
    from firelock.client import Client

__all__ = ["ServerView", "Servers"]


@attrs.frozen
class ServerView:
    """A server with its children's sessions."""

    id: str
    name: str
    host: str
    queues: str
    workers: int
    started_at: datetime
    is_alive: bool
    busy: int
    sessions: tuple[SessionRecord, ...]

    @property
    def is_lost(self) -> bool:
        """Tell whether it is gone and none of its sessions said last that it stops: killed, or cut off."""
        return not self.is_alive and all(one.renewal.state != "stopping" for one in self.sessions)


class Servers:
    """`fire.servers`: who runs jobs on this storage."""

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
        if order not in {"quiet", "resume", "stop"}:
            message = f"Order {order!r} is unknown; use quiet, resume or stop."
            raise ConfigurationError(message)
        self._client.storage.put_record("server_order", server_id, json.dumps(order))

    atell = twin(tell)


def _server_view(server_id: str, sessions: list[SessionRecord]) -> ServerView:
    first = sessions[0].session
    alive = [record for record in sessions if record.is_alive]
    return ServerView(
        server_id,
        first.server,
        first.host,
        first.queues,
        sum(record.session.workers for record in alive),
        from_micros(first.started_at),
        bool(alive),
        sum(record.renewal.busy for record in alive),
        tuple(sessions),
    )
