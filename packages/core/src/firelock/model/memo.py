"""Memos, which are values that a job keeps by name, and chunks of a job's streams."""

from __future__ import annotations

from enum import StrEnum

import attrs

from firelock.model.answers import Applied


class MemoKind(StrEnum):
    """The kind of a memo; the value is the stored string."""

    STEP = "step"
    SIGNAL = "signal"  # written by the sender of the signal, or by the job after its timeout
    SLEEP = "sleep"
    CALL = "call"  # a call of another job


MEMOS_LIMIT = 1_000  # per job
MEMO_BYTES = 256 * 1_024  # per value, in UTF-8
MEMOS_BYTES = 4 * 1_024 * 1_024  # for all values of a job
CHUNK_BYTES = 16 * 1_024  # per chunk of a stream
STREAM_BYTES = 4 * 1_024 * 1_024  # per stream

_FENCE_STEP = 1 << 32


@attrs.frozen
class Memo:
    """A value that a job keeps under a kind and a name."""

    kind: MemoKind
    name: str  # 1 to 200 characters
    value: str | None  # if the memo is done: its value; if it has only begun: a note of its writer
    is_done: bool  # a memo that is done is final, unless it is deleted by a requeue
    at: int  # when it was written
    started_at: int | None = None  # when its function began
    attempt: int = 0  # the attempt that wrote it; 0 if it was written from outside the job
    author: str = ""  # who wrote it from outside, for people
    place: int = 0  # ascends in the order in which names were first recorded; assigned by the storage


@attrs.frozen
class NewMemo:
    """A memo that is to be stored, if there is none of its kind and name or the existing one has only begun.

    The guard: if `session` is set, that session must hold the job with exactly this fence and run it.
    Otherwise the memo comes from outside, and the job must be neither succeeded nor deleted.
    """

    job_id: str
    memo: Memo  # its place is ignored
    session: str | None = None
    fence: int | None = None
    replaces: bool = True  # replace a memo that has only begun; otherwise such a memo is final too


@attrs.frozen
class Remembered:
    """The result of storing a memo, and the memo that is stored now."""

    answer: Applied
    """APPLIED: it was stored. ALREADY: the same memo is stored, except for its place. TAKEN: another memo is
    stored. REFUSED: the guard does not hold, or the job has no room for more memos. MISSING: no such job."""
    memo: Memo | None = None  # None if none is stored


@attrs.frozen
class Chunk:
    """A part of a stream that a job emits."""

    stream: str
    # Ascends within the stream: the fence of the run times 2³², plus the number of the chunk in the run.
    offset: int
    data: str

    @property
    def run(self) -> int:
        """The fence of the run that emitted the chunk; the run after a wait also has a higher one.

        A run with a higher fence does not emit the output of remembered steps again. It emits all output of a
        step that was interrupted.
        """
        return self.offset // _FENCE_STEP


def chunk_offset(fence: int, number: int) -> int:
    """Return the offset of a chunk of a run; chunks are numbered from 0."""
    return fence * _FENCE_STEP + number


def memo_words(kind: MemoKind, name: str) -> str:
    """Return the string that `waits_for` contains, for example "signal approval"."""
    return f"{kind} {name}"
