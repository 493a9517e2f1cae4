"""Which servers listen to a queue, and with how many slots; what a server says of itself, read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from firelock import ServerView
    from firelock.storage import SessionRecord

__all__ = ["Listener", "Listeners", "ServerState", "heard_at", "queue_names", "server_state"]

_STALE_AFTER = 0.6  # of the session's timeout: at least three renewals fit into it


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
    def is_claiming(self) -> bool:
        """Tell whether it takes jobs."""
        return self in {ServerState.ACTIVE, ServerState.STALE}


@attrs.frozen
class Listener:
    """A living server with what it listens to."""

    server: ServerView
    state: ServerState
    names: tuple[str, ...] | None  # None for every queue

    def listens_to(self, queue: str) -> bool:
        """Tell whether the server takes jobs of this queue, were it not quiet."""
        return self.names is None or queue in self.names


class Listeners:
    """The living servers, oldest first."""

    def __init__(self, servers: Sequence[ServerView], now: datetime) -> None:
        states = [(server, server_state(server, now)) for server in servers]
        self.all = [
            Listener(server, state, queue_names(server.queues))
            for server, state in states
            if not state.is_gone
        ]

    def of(self, queue: str) -> list[Listener]:
        """Return who claims from the queue now; quiet and stopping servers do not."""
        return [one for one in self.all if one.state.is_claiming and one.listens_to(queue)]

    def slots(self, queue: str) -> int:
        """Return how many jobs of the queue could run at once, shared with the servers' other queues."""
        return sum(one.server.workers for one in self.of(queue))


def queue_names(text: str) -> tuple[str, ...] | None:
    """Return the names in what a server serves: "*" (None, every queue), "a,b" or "a:3,b:1"."""
    if text.strip() == "*":
        return None
    names = (part.partition(":")[0].strip() for part in text.split(","))
    return tuple(name for name in names if name)


def heard_at(record: SessionRecord, now: datetime) -> datetime:
    """Return when a session was renewed last: its timeout before it expires, never after now."""
    expires_at = datetime.fromtimestamp(record.expires_at / 1_000_000, now.tzinfo)
    return min(now, expires_at - timedelta(seconds=record.session.timeout_seconds))


def server_state(server: ServerView, now: datetime) -> ServerState:
    """Return how the server is by its living sessions; where none is left, by what it said last."""
    expired = now.timestamp() * 1_000_000
    alive = [one for one in server.sessions if one.is_alive and one.expires_at > expired]
    if not alive:
        return ServerState.LOST if server.is_alive or server.is_lost else ServerState.ENDED
    said = {one.renewal.state for one in alive}
    if "stopping" in said:
        return ServerState.STOPPING
    if "quiet" in said:
        return ServerState.QUIET
    if "overdue" in said or any(_is_stale(one, now) for one in alive):
        return ServerState.STALE
    return ServerState.ACTIVE


def _is_stale(record: SessionRecord, now: datetime) -> bool:
    return (now - heard_at(record, now)).total_seconds() > _STALE_AFTER * record.session.timeout_seconds
