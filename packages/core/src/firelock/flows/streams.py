"""The output of running jobs, which is stored every 100 ms and before a run ends."""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from firelock.arguments.serializer import Misfit, check_json
from firelock.errors import StepError, StorageError, StorageUnavailable
from firelock.model.memo import CHUNK_BYTES, STREAM_BYTES, Chunk, chunk_offset
from firelock.model.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firelock.flows.fake_steps import FakeRun
    from firelock.model.job import ClaimedJob
    from firelock.model.session import ClaimHolder
    from firelock.server.run import Run
    from firelock.storage import Storage

log = logging.getLogger(__name__)

_EVERY = 0.1  # seconds
_FULL = 16 * CHUNK_BYTES  # if a run has more bytes of unstored output, the emitting thread must flush
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@attrs.define
class _Stream:
    """The part of a stream's output that is not stored yet."""

    parts: list[str] = attrs.Factory(list)
    size: int = 0  # total bytes of the parts
    chunks: int = 0  # number of chunks created so far
    stored: int = 0  # bytes of output of this run and earlier ones, as last returned by the storage
    emitted: int = 0  # bytes of output that this run has added since then


class EmittedStreams:
    """The streams of one run of a job."""

    def __init__(
        self,
        storage: Storage,
        job: ClaimedJob,
        holder: ClaimHolder,
        run: Run | FakeRun,
        flusher: StreamFlusher,
    ) -> None:
        self._storage = storage
        self._job = job
        self._holder = holder
        self._run = run
        self._flusher = flusher
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # allows only one flush at a time, to keep the chunks in order
        self._streams: defaultdict[str, _Stream] = defaultdict(_Stream)
        self._unsent: list[Chunk] = []
        self._size = 0  # total bytes of all streams' parts

    @property
    def has_much(self) -> bool:
        """Whether the emitting thread should flush, because too many bytes wait to be stored."""
        return self._size >= _FULL

    def emit(self, name: str, data: str) -> None:
        """Add a string to a stream; it is stored soon.

        Raises:
            StepError: If the data is not a string that can be stored, the name of the stream is invalid, or
                the stream is full.
        """
        if not isinstance(name, str) or not _NAME.match(name):
            raise StepError(
                f"A stream name must have 1 to 64 letters, digits, '_', '.' or '-', got {shown(name)}."
            )
        if not isinstance(data, str):
            raise StepError(
                f"emit() accepts only a string, got {shown(data)}. Use json.dumps(…) for other values."
            )
        try:
            check_json(data)
        except Misfit as misfit:
            raise StepError(f"The output {shown(data)} cannot be stored: {misfit}.") from misfit
        if not data:
            return
        size = len(data) if data.isascii() else len(data.encode())
        with self._lock:
            stream = self._streams[name]
            total = stream.stored + stream.emitted + size
            if total > STREAM_BYTES:
                raise StepError(
                    f"Stream {name!r} of job {self._job.id} would have {total:,} bytes, above the limit of "
                    f"{STREAM_BYTES:,}. Emit less, or use another stream: emit(…, stream={name + '-2'!r})."
                )
            stream.parts.append(data)
            stream.size += size
            stream.emitted += size
            self._size += size
        self._flusher.add(self)

    def flush(self) -> None:
        """Store all output; keep it if the storage is unavailable.

        Raises:
            StorageUnavailable: If the storage is unavailable.
        """
        with self._sending:
            with self._lock:
                self._size = 0
                for name, stream in self._streams.items():
                    if stream.parts:
                        text = "".join(stream.parts)
                        stream.parts, stream.size = [], 0
                        for data in _pieces(text):
                            offset = chunk_offset(self._job.fence, stream.chunks)
                            self._unsent.append(Chunk(name, offset, data))
                            stream.chunks += 1
            while self._unsent:
                first = self._unsent[0].stream
                batch = [chunk for chunk in self._unsent if chunk.stream == first]
                self._send(first, batch)
                self._unsent = [chunk for chunk in self._unsent if chunk.stream != first]

    def _send(self, name: str, chunks: list[Chunk]) -> None:
        try:
            stored = self._storage.append_stream(
                self._job.id, chunks, session=self._holder.session, fence=self._job.fence
            )
        except StorageUnavailable:
            raise
        except StorageError as error:
            log.warning(
                "The output of job %s was refused by the storage and is lost: %s", self._job.id, error
            )
            return
        if stored is None:
            self._run.lose("the job is no longer this run's", is_raised=False)
            return
        with self._lock:
            stream = self._streams[name]
            stream.stored, stream.emitted = stored, stream.size

    def flush_at_last(self) -> None:
        """Repeat `flush` while the storage is unavailable and the job may continue."""
        pause = 0.05
        while True:
            try:
                self.flush()
            except StorageUnavailable:
                if self._run.refusal is not None or not self._run.has_right:
                    return
                threading.Event().wait(pause)
                pause = min(1.0, pause * 2)
            else:
                return


def _pieces(text: str) -> Iterator[str]:
    """Yield the string in pieces of at most `CHUNK_BYTES` in UTF-8."""
    if text.isascii():
        for start in range(0, len(text), CHUNK_BYTES):
            yield text[start : start + CHUNK_BYTES]
        return
    quarter = CHUNK_BYTES // 4  # a UTF-8 character has at most 4 bytes
    for start in range(0, len(text), quarter):
        yield text[start : start + quarter]


class StreamFlusher:
    """The thread that flushes all runs of a worker process; it runs while there is output to store."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: dict[EmittedStreams, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, streams: EmittedStreams) -> None:
        """Schedule a flush of these streams."""
        if streams in self._waiting:
            return
        with self._condition:
            self._waiting[streams] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-streams", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_EVERY)
            with self._condition:
                waiting, self._waiting = self._waiting, {}
                if not waiting:
                    self._thread = None
                    return
            for streams in waiting:
                try:
                    streams.flush()
                except StorageUnavailable:
                    self.add(streams)
                except Exception:
                    log.exception(
                        "Unexpected error storing the output of a job; retrying with the next output."
                    )
