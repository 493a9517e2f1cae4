"""Memos, which are named values that a job keeps, and chunks of a job's streams."""

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


MEMOS_LIMIT = 1_000  # maximum number of memos per job
MEMO_BYTES = 256 * 1_024  # maximum size of a value, in UTF-8
MEMOS_BYTES = 4 * 1_024 * 1_024  # maximum total size of a job's values
CHUNK_BYTES = 16 * 1_024  # maximum size of a chunk of a stream
STREAM_BYTES = 4 * 1_024 * 1_024  # maximum size of a stream

_OFFSETS_PER_RUN = 1 << 32


@attrs.frozen
class Memo:
    """A value that a job keeps under a kind and a name."""

    kind: MemoKind
    name: str  # a string of 1 to 200 characters
    value: str | None  # the value of a finished memo; the writer's note for an unfinished memo
    is_done: bool  # whether the memo is finished; a finished memo is final unless a requeue deletes it
    at: int  # time at which it was written
    started_at: int | None = None  # time at which its function began
    attempt: int = 0  # the attempt that wrote it; 0 if it was written from outside the job
    author: str = ""  # the author of a memo from outside the job, for display
    place: int = 0  # position in the order in which names were first recorded; set by the storage


@attrs.frozen
class NewMemo:
    """A memo to store if no memo of its kind and name exists, or if the existing memo is unfinished.

    As a guard, if `session` is set, that session must hold the job with exactly this fence and run it.
    Otherwise the memo comes from outside the job, which must not have succeeded or been deleted.
    """

    job_id: str
    memo: Memo  # its `place` is ignored
    session: str | None = None
    fence: int | None = None
    replaces: bool = True  # whether it replaces an unfinished memo; if not, that memo is also final


@attrs.frozen
class Remembered:
    """The result of storing a memo, with the memo that is stored now."""

    answer: Applied
    """APPLIED: The memo was stored. ALREADY: The same memo, except for its place, is already stored. TAKEN:
    Another memo is stored. REFUSED: The guard does not hold, or the job has the maximum number or size of
    memos. MISSING: The job was not found."""
    memo: Memo | None = None  # the memo that is stored now; None if there is none


@attrs.frozen
class Chunk:
    """A part of a stream that a job emits."""

    stream: str
    # The fence of the run times 2³², plus the number of the chunk in the run; ascends within the stream.
    offset: int
    data: str

    @property
    def run(self) -> int:
        """The fence of the run that emitted the chunk; later runs, even after a wait, have higher fences.

        A later run does not emit the output of stored steps again, but it emits all output of an interrupted
        step again.
        """
        return self.offset // _OFFSETS_PER_RUN


def chunk_offset(fence: int, number: int) -> int:
    """Return the offset of a chunk of a run; chunks are numbered from 0."""
    return fence * _OFFSETS_PER_RUN + number


def memo_words(kind: MemoKind, name: str) -> str:
    """Return the string that `waits_for` contains, for example "signal approval"."""
    return f"{kind} {name}"
