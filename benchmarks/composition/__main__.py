"""Compare batches, steps and waits with plain jobs and another checkout: `python -m benchmarks.composition`.

python -m benchmarks.composition --storage sqlite --baseline ../baseline
python -m benchmarks.composition members fan-in --storage postgresql --pairs 20 --core 1
python -m benchmarks.composition --quick
"""

from __future__ import annotations

import sys

from benchmarks.composition import comparisons, peers, trips, waiting
from benchmarks.limits import statements
from benchmarks.parts import Parts

PARTS = Parts(
    "composition",
    __doc__,
    {
        "statements": statements.measure,
        "trips": trips.measure,
        "baseline": comparisons.baseline,
        "members": comparisons.members,
        "batch": comparisons.batch,
        "fan-in": comparisons.fan_in,
        "steps": waiting.measure,
        "peer-batches": peers.batches,
        "peer-steps": peers.steps,
    },
    frozenset({"peer-batches", "peer-steps"}),
)

if __name__ == "__main__":
    sys.exit(PARTS.main())
