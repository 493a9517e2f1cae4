"""The bits of a job's `marks`: what must be looked at when it ends.

Of most jobs there are none. A plain end is written without reading where nobody waits for it; of members it
is told to their batches. What is remembered makes no difference to an end.
"""

from __future__ import annotations

HAS_CHILDREN = 1
"""Edges that nothing was decided for may exist."""
IS_MEMBER = 2
"""It is in a batch."""
HAS_MEMOS = 4
"""It remembers something."""
