"""Reports about a Redis: at a server's start, by `doctor`, and for an unusable server."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest

from firelock import Firelock, StorageError
from firelock.plugins.loader import open_storage
from firelock.testing import eventually
from firelock_redis.connections.database import LAYOUT, RedisDatabase
from firelock_redis.connections.url import parse_url
from firelock_redis.storage import RedisStorage
from tests.ports import HOST
from tests.redis.servers import RedisServer

WELL = {
    "redis_version": "8.0.2", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": 1_000,
    "used_memory": 100, "aof_enabled": 1, "connected_slaves": 0,
}  # fmt: skip


class Primaries:
    """Connections to primaries with the replies to INFO and CONFIG GET that a test needs."""

    def __init__(self, primaries, settings):
        self._primaries = {f"node-{number}": {**WELL, **fields} for number, fields in enumerate(primaries, 1)}
        self._settings = dict(settings)

    def call_primaries(self, *words):
        if words == ("INFO",):
            return self._primaries
        command, verb, name = words
        assert ("CONFIG", "GET") == (command, verb)
        if name not in self._settings:
            raise StorageError("it may not")
        return {where: [name, self._settings[name]] for where in self._primaries}

    def call(self, command, *_):
        return {"SCARD": 0, "EVALSHA": [LAYOUT, 1]}[command]


def database_of(*primaries, options="", settings=(("save", ""), ("appendfsync", "everysec"))):
    """Return a database whose primaries have these values."""
    database = RedisDatabase(parse_url(f"redis://{HOST}:1/0?{options}"))
    database.connections = Primaries(primaries, settings)
    return database


def found(*primaries, **more):
    """Return the findings: whether each is an error, and its problem."""
    return [(one.is_error, one.what) for one in RedisStorage(database_of(*primaries, **more)).diagnose()]


def durability(fields, **more):
    """Return the description of the durability."""
    return RedisStorage(database_of(fields, **more)).describe()["durability"]


def described(url):
    """Return the description of a real server and the problems found."""
    with closing(open_storage(url)) as storage:
        return storage.describe(), [finding.what for finding in storage.diagnose()]


# ---- supported servers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"redis_version": "6.0.20"}, "Redis 6.0.20"),
        ({"redis_version": "5.0.14"}, "Redis 5.0.14"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "Valkey 7.1.0"),
    ],
)
def test_old_server_is_refused_with_its_product_and_version(fields, name):
    """The error names the product, its version, and the required versions."""
    with pytest.raises(StorageError, match=rf"it is {name}; Firelock needs Redis 6.2 or Valkey 7.2"):
        database_of(fields).prepare()


def test_single_old_node_of_a_cluster_is_refused():
    """Any node can have a partition, either now or after a slot has moved."""
    with pytest.raises(StorageError, match=r"Redis 6\.0\.9"):
        database_of({}, {"redis_version": "6.0.9"}, {}).prepare()


@pytest.mark.parametrize(
    "fields",
    [
        {"redis_version": "6.2.0"},
        {"redis_version": "10.0.1"},
        {"redis_version": "7.2.4", "valkey_version": "7.2.5"},
    ],
)
def test_supported_versions_are_accepted(fields):
    """Versions are compared as numbers. For Valkey, the version of Valkey counts."""
    database_of(fields).prepare()


# ---- description -----------------------------------------------------------------------------------------


def test_description_of_a_real_server_is_complete(server, program):
    """The description contains the version, the durability, and what happens when memory is full."""
    server.empty()

    description, _ = described(server.url())

    product = program.product.capitalize()
    assert description["server"] == f"{product} {'.'.join(map(str, program.version))}"
    assert description["durability"] == "none: a restart loses every job"
    assert description["eviction"] == "noeviction, maxmemory not set"
    assert description["replicas"] == "0"
    assert description["memory"].endswith(" MiB")
    assert "partitions" not in description


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"save": "3600 1"}, "only snapshots (save 3600 1)"),
        ({"appendonly": "yes", "appendfsync": "always"}, "acknowledged changes are on the disk"),
        ({"appendonly": "yes"}, "a power failure might lose the last two seconds"),
        ({"appendonly": "yes", "appendfsync": "no"}, "loses what the system has not written yet"),
    ],
    ids=["snapshots", "always", "everysec", "no"],
)
def test_durability_describes_the_persistence_settings(program, options, expected):
    """The settings show that snapshots are enabled, even before the first snapshot exists."""
    with RedisServer(program, options) as server:
        description, _ = described(server.url())

        assert expected in description["durability"]


def test_unreadable_settings_count_as_the_worst_case(server):
    """If the user or the server lacks the CONFIG command, this is not an error."""
    server.empty()
    server.call("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", "+@all", "-config")

    description, findings = described(f"redis://limited:secret@{HOST}:{server.port}/0")

    assert "CONFIG GET is not allowed; a restart might lose every job" in description["durability"]
    assert "No append-only file: a restart might lose some or all jobs." in findings


def test_unknown_appendfsync_is_described_as_a_risk():
    """Without the CONFIG command, the sync interval is unknown."""
    assert "might lose the last seconds" in durability({}, settings=())


def test_durability_mentions_replicas_of_an_enqueue():
    """Only enqueues wait for replicas, so the description does not mention outcomes."""
    description = durability({"connected_slaves": 2}, options="durability=replicated&replicas=2")

    assert description.startswith("enqueue waits until 2 replicas have the job; append-only")


def test_description_counts_primaries_with_different_settings(cluster):
    """Primaries with the same description are listed once, with their number."""
    cluster.empty()
    cluster.nodes[0].call("CONFIG", "SET", "save", "60 1")

    description, findings = described(cluster.url())

    cluster.nodes[0].call("CONFIG", "SET", "save", "")
    assert description["server"].endswith(" (3 of 3 primaries)")
    assert "(save 60 1)" in description["durability"]
    assert "(1 of 3 primaries)" in description["durability"]
    assert "none: a restart loses every job (2 of 3 primaries)" in description["durability"]
    assert description["partitions"] == "16"
    everywhere = ", ".join(sorted(f"{HOST}:{node.port}" for node in cluster.nodes))
    unlimited = "maxmemory is not set: the operating system might kill the server if memory runs out."
    assert f"{everywhere}: {unlimited}" in findings
    (snapshots,) = [what for what in findings if "Only snapshots" in what]
    assert snapshots.startswith(f"{HOST}:{cluster.nodes[0].port}: ")


APP = """
from firelock import Firelock

fire = Firelock({url!r})


@fire.task(name="task")
def task() -> None: ...
"""


def test_server_prints_the_description_at_its_start(server, program, tmp_path):
    """The first output of `firelock server` contains the version, the persistence and the eviction policy."""
    server.empty()
    (tmp_path / "shop.py").write_text(APP.format(url=server.url()))
    log = tmp_path / "log"
    command = [sys.executable, "-m", "firelock", "server", "shop:fire", "--workers", "1"]
    with log.open("wb") as out, subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out) as process:
        try:
            eventually(lambda: "  wake: " in log.read_text(), within=20)
        finally:
            process.terminate()

    lines = [line.strip() for line in log.read_text().splitlines()]
    assert f"server: {program.product.capitalize()} {'.'.join(map(str, program.version))}" in lines
    assert "durability: none: a restart loses every job" in lines
    assert "eviction: noeviction, maxmemory not set" in lines


# ---- findings --------------------------------------------------------------------------------------------


REPLICATED = "durability=replicated&replicas=2"
EVICTING = "maxmemory-policy is allkeys-lfu: the server deletes jobs or locks when its memory is full."


@pytest.mark.parametrize("fields", [{}, {"used_memory": 899}, {"connected_slaves": 2}])
def test_healthy_server_has_no_findings(fields):
    """The server has an append-only file, a memory limit, a tenth of it free, and all required replicas."""
    assert [] == found(fields, options=REPLICATED if fields.get("connected_slaves") else "")


@pytest.mark.parametrize(
    ("fields", "options", "what"),
    [
        ({"role": "slave"}, "", "The server is a replica."),
        ({"maxmemory_policy": "allkeys-lfu"}, "", EVICTING),
        ({"aof_last_write_status": "err"}, "", "The server could not write its append-only file."),
        ({"aof_last_bgrewrite_status": "err"}, "", "The server could not rewrite its append-only file."),
        ({"rdb_last_bgsave_status": "err"}, "", "The server could not write its last snapshot."),
        (
            {"used_memory": 950}, "",
            "Used memory is 95 % of maxmemory; if it is full, enqueue fails.",
        ),
        (
            {"connected_slaves": 1}, REPLICATED,
            "Only 1 of 2 replicas for ?durability=replicated are connected; enqueue fails.",
        ),
    ],
)  # fmt: skip
def test_problem_that_prevents_storing_jobs_is_an_error(fields, options, what):
    """The problem may have this effect now, only when memory is full, or only when the primary changes."""
    assert [(True, what)] == found(fields, options=options)


@pytest.mark.parametrize(
    ("fields", "options", "settings", "what"),
    [
        # the user who set the option still gets a reminder
        ({"maxmemory_policy": "allkeys-lfu"}, "eviction=allow", {}, EVICTING),
        (
            {"maxmemory": 0}, "", {},
            "maxmemory is not set: the operating system might kill the server if memory runs out.",
        ),
        (
            {"aof_enabled": 0}, "", {"save": ""},
            "No append-only file and no snapshots: a restart loses every job.",
        ),
        (
            {"aof_enabled": 0}, "", {"save": "3600 1"},
            "Only snapshots: a crash of the server loses all changes since the last snapshot.",
        ),
        ({}, "", {"save": "", "appendfsync": "no"}, "appendfsync is no: a power failure loses jobs."),
    ],
)  # fmt: skip
def test_problem_that_might_lose_jobs_is_a_warning(fields, options, settings, what):
    """Jobs can still be stored in spite of these problems."""
    assert [(False, what)] == found(fields, options=options, settings=settings.items())


def test_failed_snapshot_of_a_real_server_is_found(program):
    """The finding is based on the status that the server reports."""
    with RedisServer(program) as server:
        (server.folder / "dump.rdb").mkdir()  # so that the server cannot write the snapshot
        server.call("BGSAVE")
        eventually(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")

        _, findings = described(server.url())

        assert "The server could not write its last snapshot." in findings


def test_finding_lists_the_affected_nodes():
    """A finding that applies to several nodes is listed once, with the names of these nodes."""
    what = "node-1, node-3: The server is a replica."
    assert [(True, what)] == found({"role": "slave"}, {}, {"role": "slave"})


@pytest.mark.parametrize("partitions", [1, 4])
def test_finding_counts_jobs_that_were_set_aside(server, partitions):
    """The finding names the key that contains the ids of these jobs."""
    server.empty()
    fire = Firelock(server.url(options=f"partitions={partitions}"))

    @fire.task(name="task")
    def task() -> None: ...

    first, second = [task.using(queue="odd").enqueue() for _ in range(2)]
    client = server.client()
    for jobs in client.scan_iter("firelock:{*}:jobs"):
        for job in {first.id, second.id} & set(client.hkeys(jobs)):
            client.hset(jobs, job, "garbage")
    with fire.server(workers=1):
        last = task.enqueue()
        last.result(timeout=20)
        eventually(lambda: sum(map(client.scard, client.scan_iter("*:broken"))) == 2)

    findings = [finding for finding in fire.storage.diagnose() if "aside" in finding.what]

    listed = {id for one in findings for id in client.smembers(one.advice.split()[2])}
    assert {first.id, second.id} == listed
    assert all(finding.is_error for finding in findings)
    fire.close()
