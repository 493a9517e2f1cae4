"""Run contenders in turns, each scenario in a separate process on one core, and store the results.

Within a scenario, the order is floor, ours, peers, floor, ours, peers… So a machine that becomes slower
affects all contenders equally, and each ratio compares successive runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks import baseline, machine, mariadb_server, postgresql_server, redis_server, report, servers
from benchmarks.contenders import INSTALLERS, OWN, RESULTS, Contender
from benchmarks.entry import Figures, Load, exit_on_signal
from benchmarks.report import Measured
from benchmarks.scenarios import BY_STORAGE, LIMIT_SECONDS, Scenario
from benchmarks.servers import GRACE_SECONDS, ROOT

FULL = {
    "jobs": 100_000,
    "singles": 10_000,
    "stored": 1_000_000,
    "waiting": 1_000_000,
    "churned": 1_800_000,  # one hour with 500 per second
    "samples": 500,
    "seconds": 30,
}
QUICK = {
    "jobs": 20_000,
    "singles": 2_000,
    "stored": 50_000,
    "waiting": 50_000,
    "churned": 60_000,
    "samples": 100,
    "seconds": 5,
}
DESCRIBE = {
    "redis": redis_server.describe,
    "postgresql": postgresql_server.describe,
    "mariadb": mariadb_server.describe,
}


class RunFailed(Exception):
    """A scenario's process did not return figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements on the command line; return 1 if a run failed, otherwise 0."""
    options = parse(arguments)
    exit_on_signal()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # inherited by all child processes
    RESULTS.mkdir(exist_ok=True)
    if options.baseline:
        return measure_against_baseline(options)
    peers = INSTALLERS[options.storage]() if options.peers else ()
    contenders = select((*OWN[options.storage], *peers), options.contender)
    given = {name: getattr(options, name) for name in ("jobs", "stored", "waiting", "churned")}
    amounts = (QUICK if options.quick else FULL) | {name: jobs for name, jobs in given.items() if jobs}
    about = machine.describe(RESULTS, core=options.core) | {"load": amounts}
    if options.storage in DESCRIBE:
        about[options.storage] = DESCRIBE[options.storage]()
    if peers:
        about["peers"] = {peer.name: peer.about for peer in peers}
    print(json.dumps(about, indent=2, ensure_ascii=False), flush=True)
    measured = []
    for scenario in BY_STORAGE[options.storage]:
        taking_part = [contender for contender in contenders if scenario.name in contender.scenarios]
        if taking_part and (not options.scenario or scenario.name in options.scenario):
            measured.append(measure(scenario, taking_part, amounts, repeat=options.repeat))
            print("\n" + report.table(measured[-1]), flush=True)
    path = write(about | {"load_average_after": os.getloadavg()[0]}, measured)
    print(f"Written to {path.relative_to(ROOT)}")
    return 1 if any(one.failures for one in measured) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = sorted({scenario.name for scenarios in BY_STORAGE.values() for scenario in scenarios})
    parser.add_argument("--storage", choices=sorted(BY_STORAGE), default="sqlite", help="default: sqlite")
    parser.add_argument("--scenario", action="append", choices=names, help="run only this one (repeatable)")
    parser.add_argument("--contender", action="append", metavar="NAME", help="run only this one (repeatable)")
    parser.add_argument("--jobs", type=int, help=f"jobs per scenario (default: {FULL['jobs']:,})")
    parser.add_argument("--churned", type=int, help=f"jobs per churn scenario (default: {FULL['churned']:,})")
    parser.add_argument(
        "--stored", type=int, help=f"finished jobs in growth scenarios (default: {FULL['stored']:,})"
    )
    parser.add_argument(
        "--waiting", type=int, help=f"waiting jobs in growth scenarios (default: {FULL['waiting']:,})"
    )
    parser.add_argument("--repeat", type=int, help="repetitions (default: 3, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="use small loads, only to test the benchmarks")
    parser.add_argument("--baseline", metavar="DIR", help="compare with this checkout, in pairs")
    parser.add_argument(
        "--pairs", type=int, default=20, help="with --baseline: pairs per scenario (default: 20)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="with --baseline: seed of the order and the bootstrap (default: 1)",
    )
    parser.add_argument(
        "--peers", action="store_true", help="also measure other job systems, installed separately"
    )
    parser.add_argument("--core", type=int, help="core that all processes share (default: the last)")
    parser.add_argument("--unpinned", action="store_true", help="use all cores")
    options = parser.parse_args(arguments)
    if options.repeat is None:
        options.repeat = 1 if options.quick else 3
    can_pin = hasattr(os, "sched_setaffinity")
    if options.unpinned or not can_pin:
        options.core = None
    elif options.core is None:
        options.core = max(os.sched_getaffinity(0))
    return options


def measure_against_baseline(options: argparse.Namespace) -> int:
    """Compare this checkout with another one; return 1 if a figure failed twice or a run did, else 0."""
    if options.quick:
        options.jobs, options.pairs = options.jobs or 2_000, min(options.pairs, 2)
    about = machine.describe(RESULTS, core=options.core) | {
        "baseline": options.baseline,
        "seed": options.seed,
    }
    if options.storage in DESCRIBE:
        about[options.storage] = DESCRIBE[options.storage]()
    rows: list[dict[str, object]] = []
    path = RESULTS / f"baseline-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    try:
        for found in baseline.compare(options, run_once):
            for row in found:
                print(baseline.line(row), flush=True)
            rows += found
    except RunFailed as failure:
        print(f"A run FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        content = {"machine": about | {"load_average_after": os.getloadavg()[0]}, "rows": rows}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"Written to {path.relative_to(ROOT)}")
    last = {(row["scenario"], row["figure"]): row["verdict"] for row in rows}
    return 1 if "FAILED" in last.values() else 0


def select(contenders: Sequence[Contender], names: Sequence[str] | None) -> list[Contender]:
    """Return the contenders with these names, by default all; exit if a name is unknown."""
    known = {contender.name: contender for contender in contenders}
    if unknown := sorted(set(names or ()) - set(known)):
        sys.exit(
            f"Unknown contender {', '.join(unknown)}; use one of {', '.join(known)}, or add --peers for more."
        )
    return [contender for contender in contenders if not names or contender.name in names]


def measure(
    scenario: Scenario, contenders: Sequence[Contender], amounts: dict[str, int], *, repeat: int
) -> Measured:
    """Run a scenario of all contenders in turns; a contender that fails is not run again."""
    repeats: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    failures: dict[str, str] = {}
    for _ in range(repeat):
        for contender in contenders:
            if contender.name not in failures:
                try:
                    repeats[contender.name].append(run_once(contender, scenario, amounts))
                except RunFailed as failure:
                    failures[contender.name] = str(failure)
                    del repeats[contender.name]
    return Measured(scenario, repeats, failures)


def run_once(contender: Contender, scenario: Scenario, amounts: dict[str, int]) -> Figures:
    """Run a scenario of a contender in an empty folder and a separate process; return its figures.

    The folder is next to the results, because the system's temporary folder might be in memory.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{scenario.name}-", dir=RESULTS))
    try:
        load = Load(directory=directory, **amounts)
        options = [option for name in contender.amounts for option in (f"--{name}", str(getattr(load, name)))]
        command = [*contender.command, scenario.name, "--directory", str(directory), *options]
        printed = run_to_end(
            command, contender.environment, folder=contender.folder, limit=scenario.limit_seconds
        )
        figures: Figures = json.loads(printed.splitlines()[-1])
        return figures
    finally:
        shutil.rmtree(directory)


def run_to_end(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path = ROOT,
    limit: int = LIMIT_SECONDS,
) -> str:
    """Return the output of a scenario's process.

    Even after an error, a signal or a timeout, the process is given time to stop everything that it has
    started.
    """
    output = subprocess.PIPE
    environment = {**os.environ, **environment}
    process = servers.start(command, cwd=folder, env=environment, stdout=output, stderr=output, text=True)
    try:
        printed, complaints = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        message = f"not done within {limit} s"
        raise RunFailed(message) from error
    finally:
        servers.end(process, grace=2 * GRACE_SECONDS)
    if process.returncode:
        raise RunFailed(complaints.strip()[-4000:])
    return str(printed)


def write(about: dict[str, object], measured: Sequence[Measured]) -> Path:
    """Write all results to a new file that is named after the current time, and return its path."""
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    scenarios = {one.scenario.name: report.record(one) for one in measured}
    goals = {
        scenario.name: {figure.name: attrs.asdict(figure) for figure in scenario.figures}
        for scenario in (one.scenario for one in measured)
    }
    content = {"machine": about, "scenarios": scenarios, "figures": goals}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
