"""What a job emits, as it comes: Server-Sent Events whose ids are offsets, for pages and for programs.

A reader that was cut off asks again with the last id that it has, as browsers do by themselves, and misses
nothing. Each run of a job that began anew is told by an event of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from firelock.storage import FINAL_STATES
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.event_stream import EventStream, event
from firelock_dashboard.web.fields import Integer, Text
from firelock_dashboard.web.frameworks import NO_STREAM
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from firelock_dashboard.web.request import Visit

_NAME = Text("name", default="out")
_AFTER = Integer("after", least=0, most=10**18)  # an offset
_PAGE = 100  # chunks that are read at once
_OFFSET = 20  # digits


class JobStream(EventStream):
    """A job's stream behind an offset, until the job has ended.

    Args:
        visit: whose it is.
        job_id: which job.
        name: of the stream.
        after: the last offset that the reader has; −1 for none.
    """

    def __init__(self, visit: Visit, job_id: str, name: str, after: int) -> None:
        super().__init__()
        self._storage, self._masked = visit.fire.storage, visit.redacted
        self._job_id, self._name = job_id, name
        self._after = after
        self._run: int | None = None
        self._has_ended = False

    async def look(self) -> bytes:
        """See `EventStream.look`."""
        return await run_in_threadpool(self.read)

    def read(self) -> bytes:
        """Return the events that are new; blocks."""
        storage = self._storage
        # The end is looked for first: what was emitted before it has been stored before it.
        job = storage.get([self._job_id])[0]
        chunks = storage.read_stream(self._job_id, self._name, after=self._after, limit=_PAGE)
        events = []
        for chunk in chunks:
            if chunk.run != self._run:
                self._run = chunk.run
                events.append(event("run", str(chunk.run)))
            self._after = chunk.offset
            events.append(event("chunk", self._masked(chunk.data), id=chunk.offset))
        if len(chunks) < _PAGE and (job is None or job.state in FINAL_STATES):
            self._has_ended = True
            events.append(event("end", "gone" if job is None else job.state.value))
        return b"".join(events)

    @property
    def is_over(self) -> bool:
        """See `EventStream.is_over`."""
        return self._has_ended


def show_stream(visit: Visit) -> Response:
    """One stream of a job, behind the offset that the query or the header Last-Event-ID names."""
    job = visit.fire.jobs.get(visit.places["id"])
    name = visit.query.value(_NAME)
    stream = JobStream(visit, job.id, name, _after(visit))
    if NO_STREAM in (visit.request.scope.get("extensions") or {}):
        return Response(stream.read(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    return stream


def _after(visit: Visit) -> int:
    text = visit.request.headers.get("last-event-id")
    if not text:
        after = visit.query.maybe(_AFTER)
        return -1 if after is None else after
    if not (text.isascii() and text.isdigit() and len(text) < _OFFSET):
        raise BadRequest(visit.text("job.no_offset", value=text[:_OFFSET]))
    return int(text)


ROUTES = (Route("GET", "/jobs/{id}/stream", Permission.VIEW_LOGS, show_stream, (_NAME, _AFTER)),)
