"""Across modules: docs/redis.md lists exactly the keys, options and rights that the package uses."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import redis

from firelock import ConfigurationError, Cron, Firelock, JobContext, Retry, StorageError, StorageUnavailable
from firelock.testing import eventually
from firelock_redis.connections.url import parse_url
from tests.ports import HOST

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "redis.md").read_text("utf-8")
PACKAGE = ROOT / "packages" / "backend-redis" / "src" / "firelock_redis"
SECRET = "geheim-4711"

# The commands that the driver itself sends: to choose a database, to read a Cluster's slots, and to follow a
# moving slot.
DRIVER = {"select", "cluster", "command", "asking"}
REFUSED = r"(?i)no permission|NOPERM|can't access|can't publish|can't run|ACL failure|lacks permission"
CALL = re.compile(r"(?<![.\w])(?:call|many)\((?:\w+ and )?'([A-Z]+)'(?: or '([A-Z]+)')?")
OTHER_CALL = re.compile(r"(?<![.\w])(?:call|many)\((?!(?:\w+ and )?')([^\n]*)")


# ---- the page --------------------------------------------------------------------------------------------


def recipe():
    """Return the words of the page's ACL SETUSER, as they are sent."""
    (block,) = re.findall(r"```text\n(ACL SETUSER .*?)```", PAGE, re.S)
    return block.replace("PASSWORD", SECRET).split()


def additions():
    """Return the commands that some URLs need in addition, by the beginning of their purpose."""
    section = PAGE.partition("## Access")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| `(\+.*?)` \|$", section, re.M)
    return {what: commands.replace("\\|", "|").split() for what, commands in rows}


def addition(beginning):
    """Return the additional commands of one row."""
    (commands,) = [commands for what, commands in additions().items() if what.startswith(beginning)]
    return commands


def allowed():
    """Return every command that the page names, without its subcommand."""
    words = [*recipe(), *(word for words in additions().values() for word in words)]
    return {word[1:].partition("|")[0] for word in words if word.startswith("+")}


# ---- the package -----------------------------------------------------------------------------------------


def scripts():
    """Return the scripts without their comments, by name."""
    return {
        path.name: "\n".join(line.split("--")[0] for line in path.read_text("utf-8").splitlines())
        for path in sorted((PACKAGE / "scripts").rglob("*.lua"))
    }


def called_by_scripts():
    """Return every command that a script calls."""
    words = [word for text in scripts().values() for found in CALL.findall(text) for word in found]
    return {word.lower() for word in words if word}


def called_by_python(commands):
    """Return every server command that is a string in the package; the names of errors are not searched."""
    words = {
        node.value.lower()
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    return words & commands


def keys_of_scripts():
    """Return the beginning of every key that scripts name, up to its variable part."""
    found = set()
    for text in scripts().values():
        found.update(re.findall(r"base \.\. '(\w+:?)", text))
        found.update(re.findall(r"(?:put\(removes|add|first_score)\(?,? ?'(\w+:?)", text))
    return found


# ---- completeness of the page ----------------------------------------------------------------------------


def test_every_call_of_a_script_has_a_literal_command():
    """If a command is not literal, it is passed to `many`, so it is found in the call of `many`."""
    other = {(name, call) for name, text in scripts().items() for call in OTHER_CALL.findall(text)}

    assert {name for name, _ in other} == {"library.lua"}
    assert all(call.startswith("command, key, ") for _, call in other)


def test_recipe_has_exactly_the_used_commands(server):
    """The scripts, the Python code and the driver use exactly these commands."""
    commands = {str(one[0]).lower() for one in server.call("COMMAND")}

    assert called_by_scripts() | called_by_python(commands) | DRIVER == allowed()


def test_page_lists_every_key():
    """Each key is at the beginning of a row, alone or with other keys of the same kind."""
    section = PAGE.partition("## Keys")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", section, re.M)
    listed = {name.partition("<")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert keys_of_scripts() - {"wake", "none"} <= listed
    assert listed <= keys_of_scripts()


def test_page_lists_every_option():
    """The page contains the names that the options have in a URL."""
    section = PAGE.partition("## Options of the URL")[2].partition("\n## ")[0]
    listed = {
        name for row in re.findall(r"^\| (`.*?`) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)
    }

    with pytest.raises(ConfigurationError, match="unknown option") as caught:
        parse_url("redis://localhost?nothing=1")
    known = str(caught.value).partition("Use one of ")[2].rstrip(".").split(", ")
    assert set(known) == listed


# ---- operation with the recipe's rights ------------------------------------------------------------------


@cache
def _user(*more):
    return (*recipe(), *more)


@pytest.fixture
def limited(server):
    """The server with the page's user and an empty log of refusals."""
    server.empty()
    server.call(*_user())
    server.call("ACL", "LOG", "RESET")
    yield server
    server.call("ACL", "DELUSER", "firelock")


def url_of(server, path="0", options=""):
    """Return the URL of the page's user."""
    return f"redis://firelock:{SECRET}@{HOST}:{server.port}/{path}?{options}"


def refusals(server):
    """Return the commands that were refused to any user."""
    client = server.client()
    return {entry["object"].partition("|")[0].lower() for entry in client.acl_log()}


def live(fire):
    """Let jobs of every kind be stored, run, fail, wait and recur, and read them."""

    @fire.task(name="ship", tags=["order:{order}"])
    def ship(job: JobContext, order: int) -> int:
        job.log("on its way")
        job.progress(1, 2)
        return order

    @fire.task(name="fail", retry=Retry(attempts=1, waits=[0.05]))
    def fail() -> None:
        raise ValueError("as it was asked to")

    @fire.task(name="tick")
    def tick() -> None: ...

    job = ship.enqueue(1)
    later = ship.schedule(timedelta(milliseconds=200), 2)
    child = job.then(ship, 3)
    failed = fail.enqueue()
    many = ship.enqueue_many([(number,) for number in range(4, 20)])
    tick.recur("ticking", Cron("* * * * * *"))
    fire.queues.pause("idle", note="a test's")
    kept = tick.using(queue="idle").enqueue()
    with fire.server(workers=3):
        assert [1, 2, 3] == [one.result(timeout=20) for one in (job, later, child)]
        assert 19 == many[-1].result(timeout=20)
        eventually(lambda: failed.refresh().state == "failed", within=20)
        eventually(lambda: fire.jobs.find(state="succeeded", recurring="ticking").jobs, within=20)
        eventually(lambda: fire.storage.read_log(job.id), within=20)
        (server,) = fire.servers.list()
        assert server.is_alive
        fire.servers.order(server.id, "quiet")
    with fire.lock("door", timeout=5) as lock:
        assert lock.fence
    fire.recurring.remove("ticking")
    fire.queues.resume("idle")
    kept.delete()
    kept.refresh().requeue()
    kept.refresh().delete()
    read_everything(fire, job.id, failed.id)


def read_everything(fire, succeeded, failed):
    """Read all data that people can look up, and prune everything."""
    assert succeeded in [one.id for one in fire.jobs.find(tag="order:1")]
    assert succeeded in [one.id for one in fire.jobs.find(task="ship", limit=100)]
    assert fire.jobs.counts().by_state["failed"] == 1
    assert fire.storage.failure_groups(limit=5)
    assert len(fire.storage.history(failed).errors) == 2
    assert fire.storage.history(failed).entries
    assert [one and one.progress for one in fire.storage.get([succeeded])] != [None]
    assert fire.storage.timeline(0, 1 << 60)
    fire.storage.clock_offset = int(timedelta(days=40).total_seconds() * 1_000_000)
    while fire.storage.prune(1_000):
        pass
    fire.storage.clock_offset = 0
    fire.storage.release(10)
    assert not fire.jobs.counts().by_state.get("succeeded")
    assert fire.storage.schema().found == fire.storage.schema().wanted
    assert fire.storage.describe()
    assert fire.storage.diagnose()


def test_recipe_suffices_for_all_jobs_and_reads(limited):
    """Only one command is refused, and it is documented as optional."""
    fire = Firelock(url_of(limited))

    live(fire)

    fire.close()
    assert refusals(limited) == {"config"}


def test_additional_commands_let_the_storage_read_settings(limited):
    """If the user may also use the additional commands on the page, no command is refused."""
    limited.call(*_user(*addition("persistence")))
    fire = Firelock(url_of(limited))

    durability = fire.storage.describe()["durability"]

    fire.close()
    assert durability == "none: a restart loses every job"
    assert refusals(limited) == set()


def test_clearing_the_storage_needs_additional_commands(limited):
    """Only tests clear the storage. Without these commands, nothing is deleted."""
    fire = Firelock(url_of(limited))
    fire.storage.migrate()

    with pytest.raises(StorageError, match=REFUSED):
        fire.storage.clear()
    limited.call(*_user(*addition("tests")))
    fire.storage.clear()

    fire.close()


def test_another_database_needs_additional_commands(limited):
    """The driver selects the database on each connection."""
    refused, chosen = Firelock(url_of(limited, "3")), Firelock(url_of(limited, "3"))

    with pytest.raises(StorageError):
        refused.storage.migrate()
    limited.call(*_user(*addition("a database")))
    chosen.storage.migrate()

    refused.close()
    chosen.close()


def test_waiting_for_replicas_needs_additional_commands(limited):
    """With these commands, the error is about missing replicas and not about a refused command."""
    fire = Firelock(url_of(limited, options="durability=replicated"))

    @fire.task(name="task")
    def task() -> None: ...

    with pytest.raises(StorageError, match=REFUSED):
        task.enqueue()
    limited.call(*_user(*addition("`?durability=replicated`")))
    with pytest.raises(StorageUnavailable, match="0 of 1 replicas"):
        task.enqueue()

    fire.close()


def test_cluster_needs_additional_commands(cluster):
    """The driver requests the nodes of the slots, and the positions of the keys in a command."""
    cluster.empty()
    for node in cluster.nodes:
        node.call(*_user(*addition("a Cluster"), *addition("persistence")))
        node.call("ACL", "LOG", "RESET")
    hosts = ",".join(f"{HOST}:{node.port}" for node in cluster.nodes)
    fire = Firelock(f"redis+cluster://firelock:{SECRET}@{hosts}")

    live(fire)

    fire.close()
    refused = {command for node in cluster.nodes for command in refusals(node)}
    for node in cluster.nodes:
        node.call("ACL", "DELUSER", "firelock")
    assert refused == set()


def test_user_of_the_sentinels_needs_one_command(group):
    """The user for the Sentinels is not the user for the servers."""
    group.empty()
    (rule,) = re.findall(r"On the Sentinels, the user needs `(\+\S+)`", PAGE)
    for sentinel in group.sentinels:
        sentinel.call("ACL", "SETUSER", "looker", "reset", "on", f">{SECRET}", rule)
    login = f"sentinel_username=looker&sentinel_password={SECRET}"
    fire = Firelock(group.url(options=login))

    fire.storage.migrate()

    fire.close()
    for sentinel in group.sentinels:
        sentinel.call("ACL", "DELUSER", "looker")


def login(server):
    """Return a client of the page's user."""
    return redis.Redis(HOST, server.port, username="firelock", password=SECRET, protocol=2)


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "other", "1"),
        ("GET", "firelocks"),
        ("HGETALL", "firelock:other:{0}:jobs"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", "other:{0}"),
        ("EVAL", "return redis.call('DEL', 'other')", "1", "firelock:{0}"),
        ("EVAL", "return redis.call('PUBLISH', 'other', 'x')", "1", "firelock:{0}"),
        ("SUBSCRIBE", "other"),
        ("PUBLISH", "firelocks", "x"),
    ],
    ids=" ".join,
)
def test_keys_outside_the_prefix_are_refused(limited, command):
    """Keys and channels outside the prefix are refused, in plain commands and in scripts."""
    with login(limited) as client, pytest.raises(redis.ResponseError, match=REFUSED):
        client.execute_command(*command)


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "ACL LIST", "SHUTDOWN", "MONITOR", "SCAN 0"])
def test_commands_that_the_package_does_not_use_are_refused(limited, command):
    """A person who obtains the password can neither stop the server nor read other data."""
    with login(limited) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
