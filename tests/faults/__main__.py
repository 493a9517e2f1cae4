"""`python -m tests.faults [NAME] [--storage URL|redis|…] [--jobs N] [--kills N] [--seed N] [--short]`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.scenarios import SCENARIOS, NotHere, Size
from tests.faults.storages import is_played_on, opened


def main():
    """Play one scenario and print its figures; without a name, list the scenarios."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("name", nargs="?", choices=sorted(SCENARIOS))
    parser.add_argument(
        "--storage",
        help="URL of an empty storage, or a server to start: redis, valkey, postgresql, pgbouncer, mariadb "
        "(default: a SQLite file)",
    )
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--kills", "--rounds", type=int, help="number of kills, restarts or repetitions")
    parser.add_argument("--seed", type=int, help="seed for random values, as printed by an earlier run")
    parser.add_argument("--short", action="store_true", help="the sizes that the tests use")
    parser.add_argument(
        "--folder", type=Path, help="folder in which logs and ledgers are kept (default: a temporary one)"
    )
    options = parser.parse_args()
    if options.name is None:
        for name, scenario in sorted(SCENARIOS.items(), key=lambda item: (item[1].fault, item[0])):
            full = scenario.full
            sys.stdout.write(f"{scenario.fault}  {name:24} {full.jobs:6} {full.rounds:5}  {scenario.title}\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with the scenario
    scenario = SCENARIOS[options.name]
    given = scenario.short if options.short else scenario.full
    default = scenario.schemes[0] if scenario.schemes and "sqlite" not in scenario.schemes else None
    storage = options.storage or default
    if not is_played_on(scenario.schemes, storage or "sqlite"):
        parser.error(f"{scenario.name} is for {', '.join(scenario.schemes)}")
    if options.folder is not None and (options.folder / "ledger").exists():
        parser.error(f"{options.folder} contains the ledger of another run; pass a new folder")
    seed = given.seed if options.seed is None else options.seed
    size = Size(options.jobs or given.jobs, options.kills or given.rounds, seed)
    with tempfile.TemporaryDirectory(prefix="firelock-faults-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with opened(storage, folder) as place:
            try:
                lines = scenario.play(place, size)
            except NotHere as reason:
                parser.exit(2, f"{scenario.name} cannot run here: {reason}\n")
            for line in lines:
                sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"took {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
