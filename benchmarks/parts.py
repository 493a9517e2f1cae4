"""The command line of measurements with several parts, each of which runs on all selected storages.

Each figure is printed immediately, and all results so far are written to a file after each part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks import machine, places
from benchmarks.contenders import RESULTS
from benchmarks.entry import exit_on_signal
from benchmarks.pairs import Row, format_row
from benchmarks.plan import Plan

QUICK_PAIRS, QUICK_SCALE = 2, 0.02


@attrs.frozen
class Parts:
    """The parts of a measurement by name."""

    name: str
    """The name of the package in `benchmarks`, of the command and of its files."""
    description: str | None
    by_name: Mapping[str, Callable[[Plan], Iterator[Row]]]
    only_named: frozenset[str]
    """Parts that run only if they are named."""

    def main(self) -> int:
        """Run the measurements on the command line, print each figure, and write all to a file."""
        options = self._options()
        exit_on_signal()
        places.pin(options.core)
        RESULTS.mkdir(exist_ok=True)
        about = machine.describe(RESULTS, core=options.core)
        path = RESULTS / f"{self.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
        rows: dict[str, dict[str, list[Row]]] = {}
        for storage in options.storage or ["sqlite"]:
            rows[storage] = {}
            for name in options.part or [name for name in self.by_name if name not in self.only_named]:
                rows[storage][name] = []
                try:
                    self._measure(name, storage, options, rows[storage][name])
                finally:
                    content = {"machine": about | {"load_average_after": os.getloadavg()[0]}, "rows": rows}
                    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"Written to {path}")
        return 0

    def _options(self) -> argparse.Namespace:
        program = f"python -m benchmarks.{self.name}"
        style = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(prog=program, description=self.description, formatter_class=style)
        left_out = f" but {', '.join(sorted(self.only_named))}" if self.only_named else ""
        parser.add_argument("part", nargs="*", help=f"default: all{left_out}; {', '.join(self.by_name)}")
        parser.add_argument(
            "--storage", action="append", choices=places.STORAGES, help="default: sqlite (repeatable)"
        )
        parser.add_argument("--baseline", default="", help="folder of another checkout with its .venv")
        parser.add_argument("--pairs", type=int, help=f"pairs (default: 20, with --quick {QUICK_PAIRS})")
        parser.add_argument("--scale", type=float, default=1.0, help="factor of the jobs (default: 1)")
        parser.add_argument(
            "--minutes",
            type=float,
            default=float("inf"),
            help="time after which a part does not begin another round",
        )
        parser.add_argument("--core", type=int, help="core that all processes share (default: all cores)")
        parser.add_argument(
            "--quick", action="store_true", help="use small loads, only to test the benchmarks"
        )
        options = parser.parse_args()
        if unknown := set(options.part) - set(self.by_name):
            parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(self.by_name)}")
        return options

    def _measure(self, name: str, storage: str, options: argparse.Namespace, rows: list[Row]) -> None:
        """Add the rows of one part, and print each immediately."""
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-{name}-", dir=RESULTS))
        folder.chmod(0o755)  # database servers run as another user
        pairs = options.pairs or (QUICK_PAIRS if options.quick else 20)
        scale = QUICK_SCALE if options.quick else options.scale
        ends_at = time.monotonic() + options.minutes * 60
        try:
            for row in self.by_name[name](Plan(storage, pairs, scale, options.baseline, folder, ends_at)):
                print(f"{storage}, {format_row(row)}", flush=True)
                rows.append(row)
        finally:
            shutil.rmtree(folder)
