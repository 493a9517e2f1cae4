"""Memos of jobs, counts of batches, and streams, which are stored in the partition of their job."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from firelock.storage import (
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Applied,
    BatchCounts,
    Chunk,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
    memo_words,
)
from firelock_redis.connections.database import RedisVerbs
from firelock_redis.layout.encoding import APPLIED_BY_DIGIT, MEMO, STORED_MEMO, number_word, quoted
from firelock_redis.layout.words import AddedChunk, AddedMemo, BatchReply

_AT_ONCE = 100  # maximum number of memos, batches or chunks per script call
_BYTES = 500_000  # size of values in bytes after which no more memos are added to a script call


class MemoVerbs(RedisVerbs):
    """The verbs of memos, batch counts and streams."""

    @abstractmethod
    def note_flag(self, session: str, job_id: str, flag: str) -> None:
        """Note that a script has added a flag, see functions/jobs.lua, to a job that this session holds."""

    @override
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """See `Storage.remember`. This takes one round trip per partition, more for many or large memos."""
        self.refuse_within(within)
        found: list[Remembered] = [Remembered(Applied.MISSING)] * len(memos)
        places = self._partitions.by_partition(range(len(memos)), lambda place: memos[place].job_id)
        for partition, here in places.items():
            arguments: list[object] = []
            asked: list[int] = []
            size = 0
            for place in here:
                value = memos[place].memo.value
                arguments += _memo_arguments(memos[place])
                asked.append(place)
                size += len(value or "")
                if size >= _BYTES or len(asked) == _AT_ONCE or place == here[-1]:
                    reply = self._run("memos.remember", partition, *arguments)
                    for number, one in enumerate(asked):
                        found[one] = self._remembered(memos[one], *reply[2 * number : 2 * number + 2])
                    arguments, asked, size = [], [], 0
        return found

    def _remembered(self, asked: NewMemo, digit: str, stored: str) -> Remembered:
        result = APPLIED_BY_DIGIT[digit]
        if result is Applied.APPLIED and asked.session is not None:
            self.note_flag(asked.session, asked.job_id, "r")
        elif result is Applied.APPLIED:
            self._turns.note(self._partitions.of(asked.job_id))
        kind, name = asked.memo.kind, asked.memo.name
        return Remembered(result, _memo(kind, name, stored) if stored else None)

    @override
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        """See `Storage.recall`. This takes one round trip."""
        reply = self._run(
            "memos.recall", self._partitions.of(job_id), job_id, session or "", number_word(fence)
        )
        if reply is None:
            return None
        memos = []
        for words, stored in zip(reply[::2], reply[1::2], strict=True):
            if words:
                kind, _, name = json.loads(words).partition(" ")
                memos.append(_memo(MemoKind(kind), name, stored))
        return sorted(memos, key=lambda memo: memo.place)

    @override
    def batch_counts(self, ids: Sequence[str]) -> list[BatchCounts | None]:
        """See `Storage.batch_counts`. This takes one round trip per 100 batches of a partition."""
        found: dict[str, BatchCounts | None] = {}
        for partition, here in self._partitions.by_partition(dict.fromkeys(ids)).items():
            for first in range(0, len(here), _AT_ONCE):
                some = here[first : first + _AT_ONCE]
                for id, reply in zip(some, self._run("memos.batch_counts", partition, *some), strict=True):
                    found[id] = None if reply is None else _counts(reply)
        return [found[id] for id in ids]

    @override
    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        """See `Storage.append_stream`. This takes one round trip per 100 chunks."""
        largest = 0
        partition = self._partitions.of(job_id)
        for first in range(0, len(chunks) or 1, _AT_ONCE):
            arguments: list[object] = []
            for chunk in chunks[first : first + _AT_ONCE]:
                size = len(chunk.data.encode(errors="surrogatepass"))
                arguments += AddedChunk(stream=chunk.stream, offset=chunk.offset, bytes=size, data=chunk.data)
            total = self._run("memos.append", partition, job_id, session, fence, *arguments)
            if total is None:
                return None
            largest = max(largest, total)
        if chunks:
            self.note_flag(session, job_id, "s")
        return largest

    @override
    def read_stream(self, job_id: str, stream: str, *, after: int = -1, limit: int = 100) -> list[Chunk]:
        """See `Storage.read_stream`. This takes one round trip."""
        reply = self._run("memos.chunks", self._partitions.of(job_id), job_id, stream, after, max(limit, 0))
        parts = (text.partition(" ") for text in reply)
        return [Chunk(stream, int(offset), data) for offset, _, data in parts]


def memo_field(kind: MemoKind, name: str) -> str:
    """Return the key of a memo, in the form that scripts and the record of a waiting job use."""
    return quoted(memo_words(kind, name))


def _counts(reply: Sequence[Any]) -> BatchCounts:
    of = BatchReply(*reply)
    return BatchCounts(
        total=of.total,
        active=of.active,
        waiting=of.waiting,
        succeeded=of.succeeded,
        failed=of.failed,
        deleted=of.deleted,
        is_held=bool(of.held),
        is_unopened=bool(of.unopened),
        is_cancelled=bool(of.cancelled),
        is_stopping=bool(of.stopping),
        batches=of.batches,
    )


def _memo_arguments(asked: NewMemo) -> AddedMemo:
    """Return a memo as arguments of scripts/memos.lua."""
    memo = asked.memo
    return AddedMemo(
        job=asked.job_id,
        session=asked.session or "",
        fence=number_word(asked.fence),
        name=memo_field(memo.kind, memo.name),
        replaces=int(asked.replaces),
        most=MEMOS_LIMIT,
        most_bytes=MEMOS_BYTES,
        bytes=len((memo.value or "").encode(errors="surrogatepass")),
        is_done=int(memo.is_done),
        memo=MEMO.write_of(memo),
    )


def _memo(kind: MemoKind, name: str, stored: str) -> Memo:
    place, is_done, fields = STORED_MEMO.read(stored, "place", "done", "memo")
    return Memo(kind=kind, name=name, place=int(place), is_done=is_done == "1", **MEMO.read(fields))
