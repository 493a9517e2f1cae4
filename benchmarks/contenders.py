"""The measured systems, with their interpreters and scenarios."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from benchmarks.entry import AMOUNTS
from benchmarks.machine import read_versions
from benchmarks.peers import huey_sqlite, on_storage, postgresql_peers, redis_peers
from benchmarks.peers.peer import Peer
from benchmarks.servers import ROOT

RESULTS = Path(__file__).parent / "results"
ADAPTERS = Path(__file__).parent / "peers"
BULLMQ = RESULTS / ".bullmq"
NEWEST_MINOR = 20
"""The newest minor version of Python 3 that is searched for."""


@attrs.frozen
class Contender:
    """A measured system, and the command that runs one of its scenarios."""

    name: str
    command: tuple[str, ...]
    scenarios: frozenset[str]
    about: dict[str, object] = attrs.field(factory=dict)
    """Information about a peer for readers, such as versions and settings."""
    environment: dict[str, str] = attrs.field(factory=dict)
    folder: Path = ROOT
    """The checkout whose benchmarks are run by the command."""
    amounts: tuple[str, ...] = AMOUNTS
    """The fields of a load that the command accepts."""


def own(name: str, module: str, *scenarios: str) -> Contender:
    """Return a contender that runs in this environment."""
    return Contender(name, (sys.executable, "-m", f"benchmarks.{module}"), frozenset(scenarios))


VERBS = ("enqueue_bulk_100", "enqueue_bulk", "enqueue_one", "process", "growth")
SERVED = ("enqueue_bulk_100", "enqueue_bulk", "enqueue_one", "process", "footprint")
FEATURES = ("limited", "members")
OBSERVED = ("latency", "latency_busy", "rest", "processes")
ON_POSTGRESQL = ("growth", "churn", "churn_kept")
FLOOR = "floor"
OURS = "firelock"
OWN = {
    "sqlite": (
        own(FLOOR, "floor_sqlite", *VERBS, "commits"),
        own(OURS, "ours_sqlite", *VERBS, *FEATURES, "commits", "latency", "rest", "startup", "processes"),
    ),
    "redis": (
        own(FLOOR, "floor_redis", *SERVED, "growth"),
        own(OURS, "ours_redis", *SERVED, *FEATURES, "growth", *OBSERVED),
    ),
    "postgresql": (
        own(FLOOR, "floor_postgresql", *SERVED, *ON_POSTGRESQL),
        own(OURS, "ours_postgresql", *SERVED, *FEATURES, *ON_POSTGRESQL, *OBSERVED),
    ),
    "mariadb": (
        own(FLOOR, "floor_mysql", *SERVED),
        own(OURS, "ours_mysql", *SERVED, *FEATURES, *OBSERVED),
    ),
}


def find_python(least: tuple[int, int]) -> str | None:
    """Return a Python of at least this version that can create environments: this one, or the newest one."""
    if sys.version_info[:2] >= least:
        return sys.executable
    for minor in range(NEWEST_MINOR, least[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and not subprocess.run([found, "-c", "import ensurepip, venv"], check=False).returncode:
            return found
    return None


def install(requirements: Path, place: Path, base: str = sys.executable) -> Path:
    """Install requirements in a separate environment, if necessary; return its Python."""
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([base, "-m", "venv", str(place)], check=True)
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


@attrs.frozen
class Readied:
    """The interpreter and the versions of an installed peer."""

    python: Path
    """The Python that runs the adapter."""
    versions: dict[str, str]
    environment: dict[str, str] = attrs.field(factory=dict)


def ready(peer: Peer) -> Readied | None:
    """Install a peer if necessary; return None if it or its platform is not available."""
    here = Path(sys.executable)
    match peer.language:
        case "Python":
            return ready_python(peer)
        case "Ruby" if shutil.which("sidekiq") and shutil.which("ruby"):
            return Readied(here, read_ruby())
        case "JavaScript" if shutil.which("node") and shutil.which("npm"):
            return Readied(here, install_bullmq(), {"NODE_PATH": str(BULLMQ / "node_modules")})
        case _:
            return None


def ready_python(peer: Peer) -> Readied | None:
    """Install a peer in the environment of its requirements; return None if no Python is new enough."""
    base = find_python(peer.python)
    if base is None:
        return None
    requirements = ADAPTERS / f"requirements-{peer.environment}.txt"
    python = install(requirements, RESULTS / f".peers-{peer.environment}", base)
    printed = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    return Readied(python, {**versions_in(python, *peer.packages), "Python": printed.split()[1]})


def install_peers(peers: Mapping[str, Peer], *, module: str) -> tuple[Contender, ...]:
    """Return the available peers; `module` is the adapters' module that runs one of them."""
    found: list[Contender] = []
    for name, peer in peers.items():
        if (readied := ready(peer)) is None:
            print(f"{name} is left out, because it or {peer.platform} is not installed.", file=sys.stderr)
            continue
        about: dict[str, object] = {
            "versions": readied.versions,
            "settings": peer.settings,
            "acknowledges": peer.is_acknowledging,
            "jobs": f"one of {peer.share}",
        }
        command = (str(readied.python), "-m", f"benchmarks.peers.{module}", "--peer", name)
        found.append(Contender(name, command, on_storage.scenarios(peer), about, readied.environment))
    return tuple(found)


def read_ruby() -> dict[str, str]:
    """Return the versions of Ruby and of the installed Sidekiq."""
    program = "require 'sidekiq'; puts RUBY_VERSION, Sidekiq::VERSION, RedisClient::VERSION"
    printed = subprocess.run(["ruby", "-e", program], capture_output=True, text=True, check=True).stdout
    return dict(zip(("ruby", "sidekiq", "redis-client"), printed.split(), strict=True))


def install_bullmq() -> dict[str, str]:
    """Install BullMQ from its lock file, if necessary; return the versions."""
    BULLMQ.mkdir(parents=True, exist_ok=True)
    lock = ADAPTERS / "bullmq" / "package-lock.json"
    is_whole = (BULLMQ / "node_modules" / ".package-lock.json").exists()  # npm writes it last
    if not is_whole or (BULLMQ / lock.name).read_bytes() != lock.read_bytes():
        shutil.copy(ADAPTERS / "bullmq" / "package.json", BULLMQ)
        shutil.copy(lock, BULLMQ)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        subprocess.run(["npm", "ci", *quiet], cwd=BULLMQ, check=True)
    program = "for (const name of ['bullmq', 'ioredis']) console.log(require(name + '/package.json').version)"
    environment = {"PATH": os.environ["PATH"], "NODE_PATH": str(BULLMQ / "node_modules")}
    printed = subprocess.run(
        ["node", "-e", f"console.log(process.versions.node); {program}"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    return dict(zip(("node", "bullmq", "ioredis"), printed.split(), strict=True))


INSTALLERS: dict[str, Callable[[], tuple[Contender, ...]]] = {
    "sqlite": install_on_sqlite,
    "redis": partial(install_peers, redis_peers.PEERS, module="on_redis"),
    "postgresql": partial(install_peers, postgresql_peers.PEERS, module="on_postgresql"),
    "mariadb": tuple,  # none yet
}
