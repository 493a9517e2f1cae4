"""`python -m benchmarks.limits`: compare jobs with and without limits and unique keys, on each storage.

python -m benchmarks.limits --storage sqlite --baseline ../baseline
python -m benchmarks.limits rates behind --storage postgresql --pairs 20 --core 1
python -m benchmarks.limits --quick
"""

from __future__ import annotations

import sys

from benchmarks.limits import calls, claims, fairness, peers, rates, statements
from benchmarks.parts import Parts

PARTS = Parts(
    "limits",
    __doc__,
    {
        "statements": statements.measure,
        "rates": rates.measure,
        "behind": claims.behind_full_key,
        "snapshot": claims.with_snapshot,
        "bulk": calls.in_bulk,
        "unique": calls.unique_alone,
        "contended": calls.unique_contended,
        "tenants": fairness.tenants,
        "rate": fairness.rates,
        "peers": peers.measure,
    },
    frozenset({"peers"}),
)

if __name__ == "__main__":
    sys.exit(PARTS.main())
