"""`python -m benchmarks.retention`: measure removing expired jobs, and its effect on other work.

python -m benchmarks.retention --storage sqlite --storage mariadb
python -m benchmarks.retention cost late --storage postgresql --pairs 20 --core 1
python -m benchmarks.retention --quick
"""

from __future__ import annotations

import sys

from benchmarks.parts import Parts
from benchmarks.retention import costs, pace

PARTS = Parts(
    "retention",
    __doc__,
    {
        "cost": costs.of_a_job,
        "unique": costs.of_unique_keys,
        "late": pace.of_due_jobs,
        "pace": pace.of_removal,
    },
    frozenset(),
)

if __name__ == "__main__":
    sys.exit(PARTS.main())
