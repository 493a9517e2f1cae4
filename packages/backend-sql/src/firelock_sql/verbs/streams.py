"""Streams: the output of running jobs, stored in chunks that are read by offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from typing_extensions import override

from firelock.storage import Chunk
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import IS_HELD

TOTAL = -1
"""The place of the row that counts the bytes of all chunks of a stream, and has no data."""

_HELD = Text(f"SELECT 1 FROM firelock_jobs INDEXED BY id WHERE {IS_HELD} FOR NO KEY UPDATE")  # noqa: S608 - ours
# Returns the stream's total first, if it exists, and then the known chunks.
_KNOWN = Text(f"""
SELECT place, bytes FROM firelock_stream_chunks
WHERE job_id = :id AND stream = :stream AND place = {TOTAL}
UNION ALL
SELECT place, bytes FROM firelock_stream_chunks
WHERE job_id = :id AND stream = :stream AND place >= :first AND place <= :last
""")  # noqa: S608 - a number
_PUT = insert_into("firelock_stream_chunks", "job_id", "stream", "place", "data", "bytes")
_ADD = Text(f"""
UPDATE firelock_stream_chunks SET bytes = bytes + :more
WHERE job_id = :id AND stream = :stream AND place = {TOTAL}
""")  # noqa: S608 - a number
_READ = Text("""
SELECT stream, place, data FROM firelock_stream_chunks
WHERE job_id = :id AND stream = :stream AND place > :after ORDER BY place LIMIT :most
""")


class SqlStreamVerbs(SqlVerbs):
    """The verbs for the output of jobs."""

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
            lambda tx: tx.all(_READ, id=job_id, stream=stream, after=max(after, TOTAL), most=limit)
        )
        return [Chunk(*row) for row in rows]


def _append(tx: Transaction, job_id: str, stream: str, chunks: dict[int, Chunk]) -> int:
    """Store the chunks that are not stored yet; return the size of the stream in bytes.

    The size is stored in a separate row, so the cost of an append does not depend on the stream's length.
    """
    of_stream = {"job_id": job_id, "stream": stream}
    known = tx.all(_KNOWN, id=job_id, stream=stream, first=min(chunks), last=max(chunks))
    total = next((size for place, size in known if place == TOTAL), None)
    for place, _ in known:
        chunks.pop(place, None)
    rows = [
        {
            **of_stream, "place": place, "data": chunk.data,
            "bytes": len(chunk.data.encode(errors="surrogatepass")),
        }
        for place, chunk in sorted(chunks.items())
    ]  # fmt: skip
    more = sum(cast("int", row["bytes"]) for row in rows)
    if total is None:
        rows.append({**of_stream, "place": TOTAL, "data": "", "bytes": more})
    elif more:
        tx.run(_ADD, id=job_id, stream=stream, more=more)
    tx.run_many(_PUT, rows)
    return (total or 0) + more
