"""Who is measured, with which interpreter, and in which scenarios."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.machine import read_versions
from benchmarks.peers import huey_sqlite, postgresql_peers, redis_peers

RESULTS = Path(__file__).parent / "results"
ADAPTERS = Path(__file__).parent / "peers"
BULLMQ = RESULTS / ".bullmq"


@attrs.frozen
class Contender:
    """One that is measured, and the command that runs a scenario of it."""

    name: str
    command: tuple[str, ...]
    scenarios: frozenset[str]
    about: dict[str, object] = attrs.field(factory=dict)
    """Of a peer: versions, settings and what else a reader must know."""
    environment: dict[str, str] = attrs.field(factory=dict)


def own(name: str, module: str, *scenarios: str) -> Contender:
    """Return a contender that runs in this environment."""
    return Contender(name, (sys.executable, "-m", f"benchmarks.{module}"), frozenset(scenarios))


VERBS = ("enqueue_bulk_100", "enqueue_bulk", "enqueue_one", "process", "growth")
SERVED = ("enqueue_bulk_100", "enqueue_bulk", "enqueue_one", "process", "footprint")
LOOKED_AT = ("latency", "latency_busy", "rest")
ON_POSTGRESQL = ("growth", "growth_5m", "churn", "churn_kept")
FLOOR = "floor"
OURS = "firelock"
OWN = {
    "sqlite": (
        own(FLOOR, "floor_sqlite", *VERBS, "commits"),
        own(OURS, "ours_sqlite", *VERBS, "commits", "latency", "rest", "startup"),
    ),
    "redis": (
        own(FLOOR, "floor_redis", *SERVED, "growth"),
        own(OURS, "ours_redis", *SERVED, "growth", *LOOKED_AT),
    ),
    "postgresql": (
        own(FLOOR, "floor_postgresql", *SERVED, *ON_POSTGRESQL),
        own(OURS, "ours_postgresql", *SERVED, *ON_POSTGRESQL, *LOOKED_AT),
    ),
    "mariadb": (
        own(FLOOR, "floor_mysql", *SERVED),
        own(OURS, "ours_mysql", *SERVED, *LOOKED_AT),
    ),
}


def install(requirements: Path, place: Path) -> Path:
    """Install requirements into an environment of their own, where they are not yet; return its Python."""
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    wanted = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
    subprocess.run(wanted, check=True)
    return python


def versions_in(python: Path, *names: str) -> dict[str, str]:
    """Return the versions of packages in the environment of a Python."""
    return read_versions(names, path=python.parents[1].glob("lib/python*/site-packages"))


def install_on_sqlite() -> tuple[Contender, ...]:
    """Return the peers on SQLite."""
    python = install(ADAPTERS / "requirements.txt", RESULTS / ".peers")
    command = (str(python), "-m", "benchmarks.peers.huey_sqlite", "--fsync")
    scenarios = frozenset(huey_sqlite.SCENARIOS)
    about: dict[str, object] = {"versions": versions_in(python, "huey")}
    return (
        Contender("huey", (*command, "yes"), scenarios, about),
        Contender("huey unsynced", (*command, "no"), scenarios, about),
    )


def install_on_redis() -> tuple[Contender, ...]:
    """Return the peers on Redis; those in Ruby and JavaScript only where their interpreters are found."""
    from benchmarks.peers import on_redis

    pythons: dict[str, Path] = {}
    found = []
    for name, peer in redis_peers.PEERS.items():
        environment = {}
        if peer.language == "Python":
            if peer.environment not in pythons:
                requirements = ADAPTERS / f"requirements-{peer.environment}.txt"
                pythons[peer.environment] = install(requirements, RESULTS / f".peers-{peer.environment}")
            python = pythons[peer.environment]
            versions = versions_in(python, *peer.packages)
        elif name == "sidekiq" and shutil.which("sidekiq") and shutil.which("ruby"):
            python, versions = Path(sys.executable), read_ruby()
        elif name == "bullmq" and shutil.which("node") and shutil.which("npm"):
            python, versions = Path(sys.executable), install_bullmq()
            environment = {"NODE_PATH": str(BULLMQ / "node_modules")}
        else:
            print(f"{name} is left out: it is not installed, or {peer.language} is not.", file=sys.stderr)
            continue
        about = {
            "versions": versions,
            "settings": peer.settings,
            "acknowledges": peer.is_acknowledging,
            "jobs": f"one of {peer.share}",
        }
        command = (str(python), "-m", "benchmarks.peers.on_redis", "--peer", name)
        found.append(Contender(name, command, on_redis.scenarios(peer), about, environment))
    return tuple(found)


def install_on_postgresql() -> tuple[Contender, ...]:
    """Return the peers on PostgreSQL."""
    from benchmarks.peers import on_postgresql

    python = install(ADAPTERS / "requirements-postgresql.txt", RESULTS / ".peers-postgresql")
    found = []
    for name, peer in postgresql_peers.PEERS.items():
        about = {
            "versions": versions_in(python, *peer.packages),
            "settings": peer.settings,
            "acknowledges": peer.is_acknowledging,
            "jobs": f"one of {peer.share}",
        }
        command = (str(python), "-m", "benchmarks.peers.on_postgresql", "--peer", name)
        found.append(Contender(name, command, on_postgresql.scenarios(peer), about))
    return tuple(found)


def read_ruby() -> dict[str, str]:
    """Return the versions of Ruby and of the Sidekiq that it finds."""
    program = "require 'sidekiq'; puts RUBY_VERSION, Sidekiq::VERSION, RedisClient::VERSION"
    said = subprocess.run(["ruby", "-e", program], capture_output=True, text=True, check=True).stdout
    return dict(zip(("ruby", "sidekiq", "redis-client"), said.split(), strict=True))


def install_bullmq() -> dict[str, str]:
    """Install BullMQ as its lock says, where it is not yet; return the versions."""
    BULLMQ.mkdir(parents=True, exist_ok=True)
    lock = ADAPTERS / "bullmq" / "package-lock.json"
    if not (copy := BULLMQ / lock.name).exists() or copy.read_bytes() != lock.read_bytes():
        shutil.copy(ADAPTERS / "bullmq" / "package.json", BULLMQ)
        shutil.copy(lock, BULLMQ)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        subprocess.run(["npm", "ci", *quiet], cwd=BULLMQ, check=True)
    program = "for (const name of ['bullmq', 'ioredis']) console.log(require(name + '/package.json').version)"
    environment = {"PATH": os.environ["PATH"], "NODE_PATH": str(BULLMQ / "node_modules")}
    said = subprocess.run(
        ["node", "-e", f"console.log(process.versions.node); {program}"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    return dict(zip(("node", "bullmq", "ioredis"), said.split(), strict=True))


INSTALLERS: dict[str, Callable[[], tuple[Contender, ...]]] = {
    "sqlite": install_on_sqlite,
    "redis": install_on_redis,
    "postgresql": install_on_postgresql,
}
