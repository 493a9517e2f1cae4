"""`python -m tests.faults [NAME] [--storage URL] [--jobs N] [--kills N]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.scenarios import SCENARIOS
from tests.faults.servers import Place


def main() -> int:
    """Run one scenario and print its figures; without a name, list them."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("name", nargs="?", choices=sorted(SCENARIOS))
    parser.add_argument("--storage", help="URL of an empty storage; a SQLite file in a temporary folder")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    if options.name is None:
        for name, scenario in sorted(SCENARIOS.items()):
            sys.stdout.write(f"{name:24} {(scenario.__doc__ or '').splitlines()[0]}\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="firelock-faults-") as folder:
        place = Place(Path(folder), options.storage or f"sqlite:///{folder}/jobs.db")
        began = time.monotonic()
        for line in SCENARIOS[options.name](place, options.jobs, options.kills):
            sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"took {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
