"""The bits of a job's `marks`, which determine the work to do when the job ends.

Most jobs have no bit set. If no other job waits for the job, a plain outcome is written without reading the
row. When a member ends, it is also counted in its batch. Memos do not change how an end is stored.
"""

from __future__ import annotations

HAS_CHILDREN = 1
"""Undecided edges of the job's children may exist."""
IS_MEMBER = 2
"""The job is a member of a batch."""
HAS_MEMOS = 4
"""The job has memos."""
