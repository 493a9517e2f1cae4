"""Measure locked rows, their effect on jobs and stops, and waiting ends: `python -m benchmarks.isolation`.

python -m benchmarks.isolation locks --storage postgresql --storage mariadb
python -m benchmarks.isolation stop --storage postgresql --storage mariadb
python -m benchmarks.isolation ends --storage sqlite --storage mariadb
python -m benchmarks.isolation locks --storage postgresql --scale 0.2
"""

from __future__ import annotations

import sys

from benchmarks.isolation import ends, locks, stops
from benchmarks.parts import Parts

PARTS = Parts(
    "isolation",
    __doc__,
    {"ends": ends.until_stored, "locks": locks.with_locked_rows, "stop": stops.with_locked_row},
    frozenset({"locks", "stop"}),
)

if __name__ == "__main__":
    sys.exit(PARTS.main())
