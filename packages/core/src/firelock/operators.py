"""`fire.jobs`, `fire.queues`, `fire.servers`: reading is paged, acting answers per id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from firelock import lifecycle
from firelock.clock import from_micros, micros
from firelock.errors import ConfigurationError, JobNotFound
from firelock.handle import Job
from firelock.job import State
from firelock.options import check_queue, shown, to_choice
from firelock.storage import Applied, Counts, JobFilter, Page, Record, SessionRecord
from firelock.threads import in_thread

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.lifecycle import Transition

__all__ = ["JobPage", "Jobs", "QueueView", "Queues", "ServerView", "Servers"]

_PAGE_LIMIT = 500
_CHUNK = 500


@attrs.frozen
class JobPage:
    """A page of jobs; `cursor` opens the next, None after the last."""

    jobs: list[Job[Any]]
    cursor: str | None

    def __iter__(self) -> Iterator[Job[Any]]:
        """Iterate over the page's jobs."""
        return iter(self.jobs)

    def __len__(self) -> int:
        """Return how many jobs are on the page."""
        return len(self.jobs)


class Jobs:
    """`fire.jobs`: look at jobs and act on many."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, job_id: str) -> Job[Any]:
        """Return the job's handle.

        Raises:
            JobNotFound: no such job is stored.
        """
        record = self._client.storage.get((job_id,))[0]
        if record is None:
            message = f"Job {shown(job_id)} is not stored: the id is wrong, or the job has been pruned."
            raise JobNotFound(message)
        return Job(self._client, record)

    async def aget(self, job_id: str) -> Job[Any]:
        """Get without blocking the event loop."""
        return await in_thread(self.get, job_id)

    def find(
        self,
        *,
        state: str | None = None,
        task: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        server: str | None = None,
        fingerprint: str | None = None,
        recurring: str | None = None,
        id_prefix: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> JobPage:
        """Return a page of the jobs that match all that is given, newest first.

        Time is that of the last change of state where `state` is given, else of creation.

        Raises:
            ConfigurationError: the state is unknown or the limit is not 1 to 500.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _PAGE_LIMIT:
            message = f"limit={shown(limit)} is refused; a page holds 1 to {_PAGE_LIMIT} jobs."
            raise ConfigurationError(message)
        where = JobFilter(
            state=None if state is None else to_choice(State, "state", state),
            task=task,
            queue=queue,
            tag=tag,
            server=server,
            fingerprint=fingerprint,
            recurring_id=recurring,
            id_prefix=id_prefix,
            since=None if since is None else micros(since),
            until=None if until is None else micros(until),
        )
        return self.page(where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    async def afind(self, **filters: Any) -> JobPage:  # noqa: ANN401 - the arguments of `find`
        """Find without blocking the event loop."""
        return await in_thread(self.find, **filters)

    def page(
        self, where: JobFilter, *, limit: int = 50, cursor: str | None = None, oldest_first: bool = False
    ) -> JobPage:
        """Return a page for a filter value, as dashboards build it."""
        page: Page = self._client.storage.find(where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        return JobPage([Job(self._client, record) for record in page.jobs], page.cursor)

    def counts(self) -> Counts:
        """Return how many jobs are in each state and queue."""
        return self._client.storage.counts()

    async def acounts(self) -> Counts:
        """Count without blocking the event loop."""
        return await in_thread(self.counts)

    def requeue(self, ids: Sequence[str], *, reason: str = "requeued by code") -> list[Applied]:
        """Each job that is neither enqueued nor processing is enqueued; return one result an id."""
        now = self._client.clock.now()
        return self._apply([lifecycle.requeue(job_id, at=now, reason=reason) for job_id in _ids(ids)])

    async def arequeue(self, ids: Sequence[str]) -> list[Applied]:
        """Requeue without blocking the event loop."""
        return await in_thread(self.requeue, ids)

    def delete(self, ids: Sequence[str], *, reason: str = "deleted by code") -> list[Applied]:
        """Each job that is not deleted is deleted, running ones are told to stop; return one result an id."""
        now = self._client.clock.now()
        expires_at = self._client.retention.until(State.DELETED, now)
        return self._apply(
            [lifecycle.delete(job_id, at=now, reason=reason, expires_at=expires_at) for job_id in _ids(ids)]
        )

    async def adelete(self, ids: Sequence[str]) -> list[Applied]:
        """Delete without blocking the event loop."""
        return await in_thread(self.delete, ids)

    def _apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        results: list[Applied] = []
        for start in range(0, len(transitions), _CHUNK):
            results += self._client.storage.apply(transitions[start : start + _CHUNK])
        if Applied.RELEASING in results:
            self._client.release_children()
        return results


def _ids(ids: Sequence[str]) -> list[str]:
    """Return the ids; a single one, which would be taken apart, and what is none are refused."""
    if isinstance(ids, str | bytes):
        message = f"ids={ids!r} is one text; pass a list of ids."
        raise ConfigurationError(message)
    if not isinstance(ids, Iterable):
        message = f"ids={ids!r} is no list of ids."
        raise ConfigurationError(message)
    listed = list(ids)
    for job_id in listed:
        if not isinstance(job_id, str):
            message = f"{job_id!r} is no id; pass texts, such as job.id."
            raise ConfigurationError(message)
    return listed


# ---- queues ----------------------------------------------------------------------------------------------


@attrs.frozen
class QueueView:
    """A queue as it is now."""

    name: str
    enqueued: int
    processing: int
    scheduled: int
    is_paused: bool
    note: str | None  # why it was paused


class Queues:
    """`fire.queues`: every queue that has jobs or settings."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[QueueView]:
        """Return every queue with what it holds, in order of name."""
        storage = self._client.storage
        by_queue = storage.counts().by_queue
        settings = {record.key: json.loads(record.value) for record in _all_records(self._client, "queue")}
        return [
            QueueView(
                name,
                by_queue.get(name, {}).get(State.ENQUEUED, 0),
                by_queue.get(name, {}).get(State.PROCESSING, 0),
                by_queue.get(name, {}).get(State.SCHEDULED, 0),
                bool(settings.get(name, {}).get("paused")),
                settings.get(name, {}).get("note"),
            )
            for name in sorted({*by_queue, *settings})
        ]

    async def alist(self) -> Sequence[QueueView]:
        """List without blocking the event loop."""
        return await in_thread(self.list)

    def pause(self, name: str, *, note: str | None = None) -> None:
        """No job of the queue is claimed any more, on any server; running ones go on."""
        value = json.dumps({"paused": True, "note": note})
        self._client.storage.put_record("queue", check_queue(name), value)

    async def apause(self, name: str, *, note: str | None = None) -> None:
        """Pause without blocking the event loop."""
        await in_thread(self.pause, name, note=note)

    def resume(self, name: str) -> None:
        """Jobs of the queue are claimed again."""
        self._client.storage.put_record("queue", check_queue(name), json.dumps({"paused": False}))

    async def aresume(self, name: str) -> None:
        """Resume without blocking the event loop."""
        await in_thread(self.resume, name)


def _all_records(client: Client, kind: str) -> Iterator[Record]:
    after = ""
    while page := client.storage.list_records(kind, after=after, limit=_PAGE_LIMIT):
        yield from page
        after = page[-1].key


# ---- servers ---------------------------------------------------------------------------------------------


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


class Servers:
    """`fire.servers`: who runs jobs on this storage."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[ServerView]:
        """Return the servers, oldest first; dead ones stay for a day."""
        by_server: dict[str, list[SessionRecord]] = {}
        for record in self._client.storage.list_sessions():
            by_server.setdefault(record.session.server_id, []).append(record)
        return [_server_view(server_id, sessions) for server_id, sessions in by_server.items()]

    async def alist(self) -> Sequence[ServerView]:
        """List without blocking the event loop."""
        return await in_thread(self.list)

    def tell(self, server_id: str, order: str) -> None:
        """Within a heartbeat the server claims no more (quiet), claims again (resume) or stops (stop)."""
        if order not in {"quiet", "resume", "stop"}:
            message = f"Order {order!r} is unknown; use quiet, resume or stop."
            raise ConfigurationError(message)
        self._client.storage.put_record("server_order", server_id, json.dumps(order))


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
