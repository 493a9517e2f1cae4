"""Parts of a stored job that this release cannot read, because they are damaged or from a newer release."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import attrs

from firelock.errors import ConfigurationError
from firelock.model.stored_json import is_damaged
from firelock.retry import Retry

if TYPE_CHECKING:
    from firelock.model.job import ClaimedJob, JobRecord

RELATIONS, ADMISSION, RETRY = "its relations to other jobs", "its limits or unique key", "its retry policy"
PARTS = (RELATIONS, ADMISSION, RETRY)


@attrs.frozen
class UnreadPart:
    """A part of a job that this release cannot read."""

    name: str  # one of `PARTS`
    stored: str

    @property
    def is_damaged(self) -> bool:
        """Whether no release can read the part; otherwise a newer release might have written it."""
        return is_damaged(self.stored)


def unread_part(job: ClaimedJob | JobRecord) -> UnreadPart | None:
    """Return the first part that this release cannot read; None if it can read the whole job."""
    for name, value in ((RELATIONS, job.relations), (ADMISSION, job.admission)):
        if value is not None and value.unread is not None:
            return UnreadPart(name, value.unread)
    if job.retry is not None and not _is_policy(job.retry):
        return UnreadPart(RETRY, job.retry)
    return None


@lru_cache(maxsize=256)
def _is_policy(text: str) -> bool:
    try:
        Retry.from_json(text)
    except (ConfigurationError, TypeError):
        return False
    return True
