"""The bits of a job's `marks`: what to check when the job ends.

Most jobs have no bit set. A plain end is written without reading the row if no other job waits for it; the
end of a member is also counted in its batch. Memos make no difference to an end.
"""

from __future__ import annotations

HAS_CHILDREN = 1
"""Undecided edges of the job's children may exist."""
IS_MEMBER = 2
"""The job is a member of a batch."""
HAS_MEMOS = 4
"""The job has memos."""
