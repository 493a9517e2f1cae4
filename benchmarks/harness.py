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
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks import machine, report
from benchmarks.contenders import FLOOR, OURS, PEERS, RESULTS, Contender, install_peers
from benchmarks.entry import AMOUNTS, Figures, Load
from benchmarks.report import Measured
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import ROOT

LIMIT_SECONDS = 1800
FULL = {"jobs": 100_000, "singles": 10_000, "stored": 1_000_000, "samples": 500, "seconds": 30}
QUICK = {"jobs": 20_000, "singles": 2_000, "stored": 50_000, "samples": 100, "seconds": 5}


class RunFailed(Exception):
    """A scenario's process did not yield figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return 1 where a run failed, else 0."""
    options = parse(arguments)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # inherited by everything that is started from here
    RESULTS.mkdir(exist_ok=True)
    peers = install_peers() if options.peers else ()
    contenders = select((FLOOR, OURS, *peers), options.contender)
    amounts = {**(QUICK if options.quick else FULL), **({"jobs": options.jobs} if options.jobs else {})}
    about = machine.describe(RESULTS, core=options.core) | {"load": amounts}
    if peers:
        places = PEERS.glob("lib/python*/site-packages")
        about["peers"] = machine.read_versions(machine.PEERS, path=places)
    print(json.dumps(about, indent=2, ensure_ascii=False), flush=True)
    measured = []
    for scenario in SCENARIOS:
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
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--contender", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, help=f"jobs stored or run a scenario (default {FULL['jobs']:,})")
    parser.add_argument("--repeat", type=int, help="repetitions (default 3, quick 1)")
    parser.add_argument("--quick", action="store_true", help="small loads: shows that it runs, not how fast")
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
        options = [option for name in AMOUNTS for option in (f"--{name}", str(getattr(load, name)))]
        command = [*contender.command, scenario.name, "--directory", str(directory), *options]
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        if ended.returncode:
            raise RunFailed(ended.stderr.strip()[-4000:])
        figures: Figures = json.loads(ended.stdout.splitlines()[-1])
        return figures
    except subprocess.TimeoutExpired as error:
        message = f"not done within {LIMIT_SECONDS} s"
        raise RunFailed(message) from error
    finally:
        shutil.rmtree(directory)


def write(about: dict[str, object], measured: Sequence[Measured]) -> Path:
    """Write everything to a new file named for the instant, and return its path."""
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    scenarios = {one.scenario.name: report.record(one) for one in measured}
    goals = {
        scenario.name: {figure.name: attrs.asdict(figure) for figure in scenario.figures}
        for scenario in SCENARIOS
    }
    content = {"machine": about, "scenarios": scenarios, "figures": goals}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
