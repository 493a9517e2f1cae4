"""The results of a storage's verbs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import attrs

from firelock.errors import StorageError, StorageUnavailable


class Applied(StrEnum):
    """The result of one transition."""

    APPLIED = "applied"
    RELEASE_NEEDED = "release_needed"  # applied; call `release` now to update continuations and batches
    ALREADY = "already"  # a repetition: the job is already in the target state with this fence
    REFUSED = "refused"  # a guard does not hold; nothing was written
    MISSING = "missing"  # no job with this id was found
    TAKEN = "taken"  # another job now has the job's unique key; nothing was written
    BUSY = "busy"  # another transaction has locked a row that is needed; nothing was written, so try again

    @property
    def is_applied(self) -> bool:
        """Whether the storage contains the change, from this call or an earlier one."""
        return self in _IN_STORAGE


class PartlyApplied(StorageError):
    """The storage failed or became unreachable after it had applied some of the changes of a call.

    `__cause__` is the original error. `results` has one entry per id, in the order of the ids: the result, or
    None if it is unknown. In that case, the change was not written, or its result was lost with the
    connection.
    """

    def __init__(self, message: str, results: Sequence[Applied | None]) -> None:
        super().__init__(message)
        self.results = tuple(results)


class PartlyUnavailable(PartlyApplied, StorageUnavailable):
    """A `PartlyApplied` error caused by an outage; sending the other changes again might help."""


_IN_STORAGE = frozenset({Applied.APPLIED, Applied.RELEASE_NEEDED, Applied.ALREADY})


@attrs.frozen
class Duplicate:
    """The result for a job that was not stored because another job has its unique key; it is falsy."""

    job_id: str  # the job that has the key

    def __bool__(self) -> bool:
        """Return False."""
        return False


@attrs.define
class Inserted:
    """The results of an insert for each job, and for the record on which the insert depended."""

    is_new: Sequence[bool | Duplicate]  # one result per job; False if the call did not store the job
    record: Applied = (
        Applied.APPLIED
    )  # ALREADY if the record has the new value and the next version; or REFUSED
