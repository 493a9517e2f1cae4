"""What jobs emit while they run, in chunks that are read again by their offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from typing_extensions import override

from firelock.storage import Chunk
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import IS_HELD

TOTAL = -1
"""The place of the row of a stream that counts the bytes of all its chunks, and has no data."""

_HELD = Text(f"SELECT 1 FROM firelock_jobs INDEXED BY id WHERE {IS_HELD} FOR NO KEY UPDATE")  # noqa: S608 - ours
# The stream's total first, if there is one, then the chunks that are known.
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
            lambda tx: tx.all(_READ, id=job_id, stream=stream, after=max(after, TOTAL), most=limit)
        )
        return [Chunk(*row) for row in rows]


def _append(tx: Transaction, job_id: str, stream: str, chunks: dict[int, Chunk]) -> int:
    """The chunks are stored where they are not yet; return how many bytes the stream has.

    Its total is kept, so that an append to a long stream costs what one to a short stream does.
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
