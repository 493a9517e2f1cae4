"""Log lines and progress of running jobs, stored next to the jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from typing_extensions import override

from firelock.storage import LogLine, Progress
from firelock_redis.connections.database import RedisVerbs
from firelock_redis.layout.encoding import LOG_LINE, PROGRESS
from firelock_redis.layout.words import LogPart

_LOG_LIMIT = 1_000
_PIECE = 50  # maximum number of lines of a job that are sent together
_BATCH_WORDS, _BATCH_SIZE = 1_000, 250_000  # a call with this many words or characters gets no more lines
_PAGE = 125  # lines per reply


class LogVerbs(RedisVerbs):
    """The verbs of log lines and progress."""

    @override
    def append_logs(
        self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
    ) -> Collection[str]:
        """See `Storage.append_logs`. This takes one round trip per partition, or more for large logs."""
        for partition, ids in self._partitions.by_partition(sorted({*lines, *progress})).items():
            words: list[object] = []
            size = 0
            for piece in _pieces(ids, lines, progress):
                words += piece
                size += sum(len(str(word)) for word in piece)
                if len(words) >= _BATCH_WORDS or size >= _BATCH_SIZE:
                    self._run("logs.append", partition, *words)
                    words, size = [], 0
            if words:
                self._run("logs.append", partition, *words)
        return ()

    @override
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        """See `Storage.read_log`. This takes one round trip per 125 lines."""
        partition = self._partitions.of(job_id)
        found: list[LogLine] = []
        while (asked := min(limit - len(found), _PAGE)) > 0:
            page = [_read(text) for text in self._run("logs.read", partition, job_id, after, asked)]
            found += page
            if len(page) < asked:
                break
            after = page[-1].number
        return found


def _pieces(
    ids: Sequence[str], lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
) -> Iterator[list[object]]:
    """Yield the arguments of scripts/logs.lua; a job's progress is sent with its first lines."""
    for id in ids:
        reached = PROGRESS.write_of(progress[id]) if id in progress else ""
        given = lines.get(id, ())
        skipped = max(0, len(given) - _LOG_LIMIT)  # only the newest lines are kept
        kept = [LOG_LINE.write_of(line) for line in given[skipped:]]
        for first in range(0, len(kept) or 1, _PIECE):
            some = kept[first : first + _PIECE]
            yield [*LogPart(id=id, progress=reached, skipped=skipped, size=len(some)), *some]
            reached, skipped = "", 0


def _read(text: str) -> LogLine:
    number, _, line = text.partition(" ")
    return LogLine(number=int(number), **LOG_LINE.read(line))
