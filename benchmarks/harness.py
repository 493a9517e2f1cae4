"""Runs contenders in turns, each scenario in a process of its own on one core, and writes down what came out.

Within a scenario the order is floor, ours, peers, floor, ours, peers…: a machine that grows slower meets all
of them alike, and each ratio is taken between runs that followed one another.
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

from benchmarks import former, machine, mariadb_server, postgresql_server, redis_server, report, servers
from benchmarks.contenders import INSTALLERS, OWN, RESULTS, Contender
from benchmarks.entry import Figures, Load, exit_when_told
from benchmarks.report import Measured
from benchmarks.scenarios import BY_STORAGE, LIMIT_SECONDS, Scenario
from benchmarks.servers import GRACE_SECONDS, ROOT

FULL = {
    "jobs": 100_000,
    "singles": 10_000,
    "stored": 1_000_000,
    "waiting": 1_000_000,
    "churned": 1_800_000,  # an hour of 500 a second
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
    """A scenario's process did not yield figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return 1 where a run failed, else 0."""
    options = parse(arguments)
    exit_when_told()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # inherited by everything that is started from here
    RESULTS.mkdir(exist_ok=True)
    if options.former:
        return measure_former(options)
    peers = INSTALLERS[options.storage]() if options.peers else ()
    contenders = select((*OWN[options.storage], *peers), options.contender)
    asked = {name: getattr(options, name) for name in ("jobs", "stored", "waiting", "churned")}
    amounts = (QUICK if options.quick else FULL) | {name: jobs for name, jobs in asked.items() if jobs}
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
    parser.add_argument("--storage", choices=sorted(BY_STORAGE), default="sqlite", help="default sqlite")
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--contender", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, help=f"jobs stored or run a scenario (default {FULL['jobs']:,})")
    parser.add_argument(
        "--churned", type=int, help=f"jobs run a scenario of churn (default {FULL['churned']:,})"
    )
    parser.add_argument(
        "--stored", type=int, help=f"finished jobs stored before growth (default {FULL['stored']:,})"
    )
    parser.add_argument(
        "--waiting", type=int, help=f"waiting jobs stored before growth (default {FULL['waiting']:,})"
    )
    parser.add_argument("--repeat", type=int, help="repetitions (default 3, quick 1)")
    parser.add_argument("--quick", action="store_true", help="small loads: shows that it runs, not how fast")
    parser.add_argument("--former", metavar="DIR", help="compare with this checkout, by pairs and intervals")
    parser.add_argument("--pairs", type=int, default=20, help="with --former: pairs a scenario (default: 20)")
    parser.add_argument(
        "--seed", type=int, default=1, help="with --former: of order and bootstrap (default: 1)"
    )
    parser.add_argument("--peers", action="store_true", help="also other job systems, installed apart")
    parser.add_argument("--core", type=int, help="the core that everything shares (default the last)")
    parser.add_argument("--unpinned", action="store_true", help="use every core")
    options = parser.parse_args(arguments)
    if options.repeat is None:
        options.repeat = 1 if options.quick else 3
    can_pin = hasattr(os, "sched_setaffinity")
    if options.unpinned or not can_pin:
        options.core = None
    elif options.core is None:
        options.core = max(os.sched_getaffinity(0))
    return options


def measure_former(options: argparse.Namespace) -> int:
    """Compare this checkout with another one; return 1 if a figure failed twice or a run did, else 0."""
    if options.quick:
        options.jobs, options.pairs = options.jobs or 2_000, min(options.pairs, 2)
    about = machine.describe(RESULTS, core=options.core) | {"former": options.former, "seed": options.seed}
    if options.storage in DESCRIBE:
        about[options.storage] = DESCRIBE[options.storage]()
    rows: list[dict[str, object]] = []
    path = RESULTS / f"former-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    try:
        for found in former.compare(options, run_once):
            for row in found:
                print(former.line(row), flush=True)
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
    """Return the contenders of these names, all where none is named; end the program on an unknown name."""
    known = {contender.name: contender for contender in contenders}
    if unknown := sorted(set(names or ()) - set(known)):
        sys.exit(f"No contender {', '.join(unknown)}; there are {', '.join(known)}, and more with --peers.")
    return [contender for contender in contenders if not names or contender.name in names]


def measure(
    scenario: Scenario, contenders: Sequence[Contender], amounts: dict[str, int], *, repeat: int
) -> Measured:
    """Run one scenario of every contender, in turns; one that fails is not run again."""
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
    """Run one scenario of one contender in an empty folder and a process of its own; return its figures.

    The folder lies beside the results and not in the system's temporary one, which may be in memory.
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
    """Return what a scenario's process has printed.

    However this ends, by an error, a signal or the clock, the process is told to stop what it has started.
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
    """Write everything to a new file named for the instant, and return its path."""
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    scenarios = {one.scenario.name: report.record(one) for one in measured}
    goals = {
        scenario.name: {figure.name: attrs.asdict(figure) for figure in scenario.figures}
        for scenario in (one.scenario for one in measured)
    }
    content = {"machine": about, "scenarios": scenarios, "figures": goals}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
