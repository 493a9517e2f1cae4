"""Who is measured, with which interpreter, and in which scenarios."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs

from benchmarks.peers import huey_sqlite

RESULTS = Path(__file__).parent / "results"
PEERS = RESULTS / ".peers"
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"


@attrs.frozen
class Contender:
    """One that is measured, and the command that runs a scenario of it."""

    name: str
    command: tuple[str, ...]
    scenarios: frozenset[str]


def own(name: str, module: str, *scenarios: str) -> Contender:
    """Return a contender that runs in this environment."""
    return Contender(name, (sys.executable, "-m", f"benchmarks.{module}"), frozenset(scenarios))


SHARED = ("enqueue_bulk_100", "enqueue_bulk", "enqueue_one", "process", "commits", "growth")
FLOOR = own("floor", "floor_sqlite", *SHARED)
OURS = own("firelock", "ours_sqlite", *SHARED, "latency", "rest", "startup")


def install_peers() -> tuple[Contender, ...]:
    """Install the peers into an environment of their own, where they are not yet, and return them."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)]
    subprocess.run(install, check=True)
    command = (str(python), "-m", "benchmarks.peers.huey_sqlite", "--fsync")
    scenarios = frozenset(huey_sqlite.SCENARIOS)
    return (
        Contender("huey", (*command, "yes"), scenarios),
        Contender("huey unsynced", (*command, "no"), scenarios),
    )
