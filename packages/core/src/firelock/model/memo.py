"""Memos, what a job remembers by name, and chunks of its streams."""

from __future__ import annotations

from enum import StrEnum

import attrs

from firelock.model.answers import Applied


class MemoKind(StrEnum):
    """What a memo is of; the text is what is stored."""

    STEP = "step"
    SIGNAL = "signal"  # written by whoever sends it, or by the job for its time-out
    SLEEP = "sleep"
    CALL = "call"  # of another job


MEMOS_LIMIT = 1_000  # of one job
MEMO_BYTES = 256 * 1_024  # of one value, in UTF-8
MEMOS_BYTES = 4 * 1_024 * 1_024  # of one job's values
CHUNK_BYTES = 16 * 1_024  # of one chunk of a stream
STREAM_BYTES = 4 * 1_024 * 1_024  # of one stream

_FENCE_STEP = 1 << 32


@attrs.frozen
class Memo:
    """What a job remembers under one name of one kind."""

    kind: MemoKind
    name: str  # 1 to 200 characters
    value: str | None  # text: of a done one its value; of one that is begun whatever its writer noted
    is_done: bool  # a done one stands for ever, unless it is forgotten
    at: int  # when it was written
    started_at: int | None = None  # when its function began
    attempt: int = 0  # that wrote it; 0 for one from outside
    author: str = ""  # who wrote it from outside, for people
    place: int = 0  # ascends in the order in which names were first recorded; given by the storage


@attrs.frozen
class NewMemo:
    """What somebody asks to be remembered; it is put where nothing is, or over one that is begun.

    Guard: with `session` that holds the job with exactly this fence, and runs it. Without, it comes from
    outside: the job must neither have succeeded nor be deleted.
    """

    job_id: str
    memo: Memo  # its place is not read
    session: str | None = None
    fence: int | None = None
    replaces: bool = True  # one that is begun; else that stands as a done one does


@attrs.frozen
class Remembered:
    """What became of a new memo, and what stands under its name now."""

    answer: Applied
    """APPLIED: it was put. ALREADY: it stands as it was given, but for its place. TAKEN: another one stands.
    REFUSED: the guard does not hold, or the job remembers as much as it may. MISSING: no such job."""
    memo: Memo | None = None  # None where nothing stands


@attrs.frozen
class Chunk:
    """A piece of a stream that a job emits."""

    stream: str
    offset: int  # ascends within the stream: the run's fence times 2³², and the number of the chunk in it
    data: str

    @property
    def run(self) -> int:
        """The fence of the run that emitted it; one behind a wait is higher as well.

        A higher one emits nothing of the steps that are remembered, and all of one that was cut off.
        """
        return self.offset // _FENCE_STEP


def chunk_offset(fence: int, number: int) -> int:
    """Return the offset of a run's chunk, numbered from 0."""
    return fence * _FENCE_STEP + number


def memo_words(kind: MemoKind, name: str) -> str:
    """Return what stands in `waits_for`: "signal approval"."""
    return f"{kind} {name}"
