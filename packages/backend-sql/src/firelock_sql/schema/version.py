"""The versions of the schema with which this code works.

`tables.py` creates the schema. That module loads the code of every dialect, so only migrations import it.
"""

from __future__ import annotations

WANTED = 1
"""The schema version that `migrate` creates."""
OLDEST = 1
"""The oldest schema version on which this code works."""
