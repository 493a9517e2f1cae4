"""A job's stream: its latest output on the job's page, and Server-Sent Events for programs.

A disconnected reader requests the stream again with the last id, as browsers do automatically, and therefore
receives all output. The ids are offsets. Each new run of the job is reported by a separate event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import attrs
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from firelock.storage import FINAL_STATES, Chunk, JobRecord
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.event_stream import EventStream, event
from firelock_dashboard.web.fields import Integer, Text
from firelock_dashboard.web.frameworks import NO_STREAM
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from firelock_dashboard.web.request import Visit

_NAME = Text("name", default="out")
STREAM = Text("stream", default="out")
FROM_OFFSET = Integer("offset", least=-1, most=10**18)
"""The query fields of a job's page: the stream's name, and an offset; without it, the end is shown."""

_STREAM_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_RUN_OFFSET = 1 << 32  # difference between the first offsets of two runs; see `Chunk.offset`
_SHOWN_CHARACTERS = 128 * 1024  # the maximum number of characters per response
_AFTER = Integer("after", least=0, most=10**18)  # the offset after which to read
_PAGE = 100  # chunks per read
_OFFSET = 20  # digits


# ---- on a page -------------------------------------------------------------------------------------------


@attrs.frozen
class StreamPiece:
    """The shown output of one run."""

    run: int
    offset: int  # the offset of the run's last shown chunk
    text: str  # masked


@attrs.frozen
class StreamPart:
    """A part of a job's stream: up to a hundred chunks, and at most 128 Ki characters."""

    name: str
    pieces: Sequence[StreamPiece]
    is_whole_before: bool  # whether this is the start of the stream
    has_more: bool  # whether another part follows; False at the end of the stream

    @property
    def last(self) -> int:
        """The offset of the part's last chunk; −1 if the part is empty."""
        return self.pieces[-1].offset if self.pieces else -1


def read_part(visit: Visit, job: JobRecord) -> StreamPart:
    """Return the part of a job's stream that the query requests, by default its end.

    A stream of up to a hundred chunks takes one read. The end of a longer stream must be searched for,
    because storages read only forward; this takes about thirty reads of one chunk.

    Raises:
        BadRequest: If the name in the query is not a valid name of a stream.
    """
    name, after = visit.query.value(STREAM), visit.query.maybe(FROM_OFFSET)
    if not _STREAM_NAME.fullmatch(name):
        raise BadRequest(visit.text("job.no_stream_name"))

    def read(after: int, limit: int = 1) -> list[Chunk]:
        return visit.fire.storage.read_stream(job.id, name, after=after, limit=limit)

    chunks = read(-1 if after is None else after, _PAGE)
    beginning = chunks[:1] if after is None or after < 0 else []
    if after is None and len(chunks) == _PAGE:
        last = _last_chunk(read, chunks[-1], job.fence)
        chunks = read(max(last.run * _RUN_OFFSET, last.offset - _PAGE + 1) - 1, _PAGE)
    shown = _cut(chunks, from_end=after is None)
    pieces = [
        StreamPiece(run, members[-1].offset, visit.redacted("".join(one.data for one in members)))
        for run, members in ((run, list(group)) for run, group in groupby(shown, key=lambda one: one.run))
    ]
    return StreamPart(
        name, pieces, is_whole_before=shown[:1] == beginning,
        has_more=after is not None and (len(chunks) == _PAGE or shown[-1:] != chunks[-1:]),
    )  # fmt: skip


def _last_chunk(read: Callable[[int], list[Chunk]], known: Chunk, fence: int) -> Chunk:
    """Return the last chunk of a stream after a known chunk; runs up to the fence may have emitted chunks.

    Offsets ascend, and each run numbers its chunks without gaps. So the last run, and then its last chunk,
    are found by binary search.
    """
    last, beyond = known, fence + 1  # runs from `beyond` on have not emitted any chunks
    while last.run + 1 < beyond:
        middle = (last.run + 1 + beyond) // 2
        if found := read(middle * _RUN_OFFSET - 1):
            last = found[0]
        else:
            beyond = middle
    distance, is_beyond = 1, False
    while distance:
        if found := read(last.offset + distance - 1):
            last, distance = found[0], distance // 2 if is_beyond else distance * 2
        else:
            is_beyond, distance = True, distance // 2
    return last


def _cut(chunks: Sequence[Chunk], *, from_end: bool) -> list[Chunk]:
    """Return as many chunks as can be shown, from one end of the list; at least one."""
    kept: list[Chunk] = []
    size = 0
    for chunk in reversed(chunks) if from_end else chunks:
        size += len(chunk.data)
        if kept and size > _SHOWN_CHARACTERS:
            break
        kept.append(chunk)
    return kept[::-1] if from_end else kept


# ---- for programs ----------------------------------------------------------------------------------------


class JobStream(EventStream):
    """A job's stream after an offset, until the job has ended.

    Args:
        visit: the reader's visit.
        job_id: the id of the job.
        name: the name of the stream.
        after: the last offset that the reader has received; −1 if it has received none.
    """

    def __init__(self, visit: Visit, job_id: str, name: str, after: int) -> None:
        super().__init__()
        self._storage, self._masked = visit.fire.storage, visit.redacted
        self._job_id, self._name = job_id, name
        self._after = after
        self._run: int | None = None
        self._has_ended = False

    async def read_new_events(self) -> bytes:
        """See `EventStream.read_new_events`."""
        return await run_in_threadpool(self.read)

    def read(self) -> bytes:
        """Return the new events; this call blocks."""
        storage = self._storage
        # read the job first, because its output is stored before its result
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
    def has_ended(self) -> bool:
        """See `EventStream.has_ended`."""
        return self._has_ended


def show_stream(visit: Visit) -> Response:
    """Serve one stream of a job, after the offset in the query or in the header Last-Event-ID."""
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
