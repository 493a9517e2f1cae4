"""The schema versions that this code can use.

`tables.py` creates the schema. That module loads the code of every dialect, so only migrations import it.
"""

from __future__ import annotations

WANTED = 2
"""The schema version that `migrate` creates."""
OLDEST = 2
"""The oldest schema version with which this code works."""
FIRST = 2
"""The schema version of the first release. Development versions used version 1, which cannot be migrated."""
