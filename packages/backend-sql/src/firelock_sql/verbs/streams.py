"""What jobs emit while they run, in chunks that are read again by their offset."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from firelock.storage import Chunk
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import IS_HELD

_HELD = Text(f"SELECT 1 FROM firelock_jobs INDEXED BY id WHERE {IS_HELD} FOR NO KEY UPDATE")  # noqa: S608 - ours
_KNOWN = Text("""
SELECT place FROM firelock_stream_chunks
WHERE job_id = :id AND stream = :stream AND place >= :first AND place <= :last
""")
_PUT = insert_into("firelock_stream_chunks", "job_id", "stream", "place", "data", "bytes")
_SIZE = Text("""
SELECT coalesce(sum(bytes), 0) FROM firelock_stream_chunks WHERE job_id = :id AND stream = :stream
""")
_READ = Text("""
SELECT stream, place, data FROM firelock_stream_chunks
WHERE job_id = :id AND stream = :stream AND place > :after ORDER BY place LIMIT :most
""")


class SqlStreamVerbs(SqlVerbs):
    """What jobs emit."""

    @override
    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        def append(tx: Transaction) -> int | None:
            if tx.one(_HELD, id=job_id, session=session, fence=fence) is None:
                return None
            streams: dict[str, dict[int, Chunk]] = {}
            for chunk in chunks:
                streams.setdefault(chunk.stream, {}).setdefault(chunk.offset, chunk)
            return max((_append(tx, job_id, stream, new) for stream, new in streams.items()), default=0)

        return self._database.write(append)

    @override
    def read_stream(self, job_id: str, stream: str, *, after: int = -1, limit: int = 100) -> list[Chunk]:
        rows = self._database.read(
            lambda tx: tx.all(_READ, id=job_id, stream=stream, after=after, most=limit)
        )
        return [Chunk(*row) for row in rows]


def _append(tx: Transaction, job_id: str, stream: str, chunks: dict[int, Chunk]) -> int:
    """The chunks are stored where they are not yet; return how many bytes the stream has."""
    known = tx.all(_KNOWN, id=job_id, stream=stream, first=min(chunks), last=max(chunks))
    for (place,) in known:
        chunks.pop(place, None)
    tx.run_many(
        _PUT,
        [
            {
                "job_id": job_id, "stream": stream, "place": place, "data": chunk.data,
                "bytes": len(chunk.data.encode(errors="surrogatepass")),
            }
            for place, chunk in sorted(chunks.items())
        ],
    )  # fmt: skip
    return int(tx.one(_SIZE, id=job_id, stream=stream)[0])
