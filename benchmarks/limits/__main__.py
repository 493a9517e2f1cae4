"""`python -m benchmarks.limits`: limits and unique keys beside jobs that use none, on each storage asked for.

python -m benchmarks.limits --storage sqlite --former ../former
python -m benchmarks.limits rates behind --storage postgresql --pairs 20 --core 1
python -m benchmarks.limits --quick
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import RESULTS
from benchmarks.entry import exit_when_told
from benchmarks.limits import calls, claims, fairness, peers, places, rates, statements
from benchmarks.limits.pairs import Row, told
from benchmarks.limits.plan import Plan

PARTS: Mapping[str, Callable[[Plan], Iterator[Row]]] = {
    "statements": statements.measure,
    "rates": rates.measure,
    "behind": claims.behind_full_key,
    "snapshot": claims.beside_snapshot,
    "bulk": calls.in_bulk,
    "unique": calls.unique_alone,
    "contended": calls.unique_contended,
    "tenants": fairness.tenants,
    "rate": fairness.rates,
    "peers": peers.measure,
}


def main() -> int:
    """Measure what the command line asks for, print a line a figure, write all to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"default all but peers: {', '.join(PARTS)}")
    parser.add_argument(
        "--storage", action="append", choices=places.STORAGES, help="default sqlite; may repeat"
    )
    parser.add_argument("--former", default="", help="folder of a former checkout with its .venv")
    parser.add_argument("--pairs", type=int, help="default 20, quick 2")
    parser.add_argument("--scale", type=float, default=1.0, help="of the jobs (default 1)")
    parser.add_argument("--core", type=int, help="the core that everything shares (default: every core)")
    parser.add_argument("--quick", action="store_true", help="small loads: shows that it runs, not how fast")
    options = parser.parse_args()
    if unknown := set(options.part) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    exit_when_told()
    places.pin(options.core)
    RESULTS.mkdir(exist_ok=True)
    about = machine.describe(RESULTS, core=options.core)
    rows: dict[str, dict[str, list[Row]]] = {}
    for storage in options.storage or ["sqlite"]:
        rows[storage] = {}
        for name in options.part or [name for name in PARTS if name != "peers"]:
            rows[storage][name] = _measured(name, storage, options)
    path = RESULTS / f"limits-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    content = {"machine": about | {"load_average_after": os.getloadavg()[0]}, "rows": rows}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(f"Written to {path}")
    return 0


def _measured(name: str, storage: str, options: argparse.Namespace) -> list[Row]:
    """Return the rows of one part, printed as they come."""
    folder = Path(tempfile.mkdtemp(prefix=f"limits-{name}-", dir=RESULTS))
    folder.chmod(0o755)  # servers of databases run as somebody else
    pairs = options.pairs or (2 if options.quick else 20)
    plan = Plan(storage, pairs, 0.02 if options.quick else options.scale, options.former, folder)
    rows = []
    try:
        for row in PARTS[name](plan):
            print(f"{storage}, {told(row)}", flush=True)
            rows.append(row)
    finally:
        shutil.rmtree(folder)
    return rows


if __name__ == "__main__":
    sys.exit(main())
