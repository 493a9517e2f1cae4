"""What a storage's verbs answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import attrs

from firelock.errors import StorageError, StorageUnavailable


class Applied(StrEnum):
    """What became of one transition."""

    APPLIED = "applied"
    RELEASING = "releasing"  # applied, and continuations now wait for `release`
    ALREADY = "already"  # the job is in the target state with this very fence: a repeat of what was applied
    REFUSED = "refused"  # a guard no longer holds; nothing was written
    MISSING = "missing"  # no job of that id
    TAKEN = "taken"  # another job has its unique key now; nothing was written
    BUSY = "busy"  # another transaction has locked a row that it needs; nothing was written: send it again

    @property
    def is_applied(self) -> bool:
        """Tell whether the change is in the storage, now or already before."""
        return self in _IN_STORAGE


class PartlyApplied(StorageError):
    """The storage refused, or went away, when it had answered for some of many changes; `__cause__` is why.

    `results` has one entry an id, in the order of the ids: the answer, or None where there is none. Such a
    change is not written, or its answer was lost with the connection.
    """

    def __init__(self, message: str, results: Sequence[Applied | None]) -> None:
        super().__init__(message)
        self.results = tuple(results)


class PartlyUnavailable(PartlyApplied, StorageUnavailable):
    """A `PartlyApplied` of an outage: trying again for the others may help."""


_IN_STORAGE = frozenset({Applied.APPLIED, Applied.RELEASING, Applied.ALREADY})


@attrs.frozen
class Duplicate:
    """The answer for a job that was not stored, as another one has its unique key: false, it is not new."""

    job_id: str  # of that one

    def __bool__(self) -> bool:
        """Return False."""
        return False


@attrs.define
class Inserted:
    """What became of an insert: of each job, and of the record that it depended on."""

    is_new: Sequence[bool | Duplicate]  # per job; False: it was there before, or nothing was stored
    record: Applied = Applied.APPLIED  # ALREADY: it holds the new value at the next version. Or REFUSED
