"""The public methods that join the caller's transaction, and those that act immediately."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from firelock import Applied
from tests.core.test_aio import verbs
from tests.sql.connections.test_within_relations import Shop

# Every method that stores jobs, or values that jobs wait for: each joins the surrounding transaction.
JOINS = {
    "TaskVerbs": {"enqueue", "enqueue_many", "schedule"},
    "Firelock": {"batch", "enqueue_many", "enqueue_text"},
    "Job": {"then"},
    "Batch": {"add", "add_many", "batch", "then"},
    "Jobs": {"copy"},
    "Recurring": {"trigger"},
    "Signal": {"send"},
}
# These join a transaction only if it is passed to them.
JOINS_WHAT_IT_IS_GIVEN = {"JobContext": {"complete_within", "within"}}
# Every method that writes to the storage in its own transaction.
IMMEDIATE = {
    "TaskVerbs": {"recur"},
    "Job": {"delete", "move", "requeue", "restore"},
    "Batch": {"delete", "move", "requeue", "restore"},
    "Jobs": {"delete", "move", "requeue", "reschedule", "restore"},
    "Operations": {"cancel", "outcome", "run", "start"},
    "Queues": {"pause", "resume"},
    "Servers": {"end_process", "order"},
    "Audit": {"record"},
    "Limits": {"pause", "reset", "resume", "set", "spend", "sync"},
    "Recurring": {"add_or_update", "create", "edit", "pause", "remove", "reset", "resume", "sync"},
    "Signal": {"link"},
    "JobContext": {"emit", "gather", "join", "log", "progress", "receive", "run", "sleep", "step"},
    "Lock": {"renew"},
    "EmbeddedServer": {"run", "start", "stop"},
}
# These write nothing.
READS = {
    "TaskVerbs": {"call", "using"},
    "Firelock": {
        "arguments_from_text", "close", "declared_limits", "diagnose", "load_imports", "lock", "parameters",
        "resource", "server", "signal", "signal_named", "task", "task_named", "tasks", "texts_from_arguments",
        "published_task", "use_storage",
    },
    "Job": {
        "as_source", "errors", "explain", "history", "log", "progress", "record", "refresh",
        "require_visible", "result", "steps", "stream",
    },
    "Batch": {
        "as_source", "became", "depth", "errors", "explain", "history", "log", "members", "of", "progress",
        "record", "refresh", "require_visible", "result", "results", "steps", "stream", "counts",
    },
    "Jobs": {
        "counts", "failure_groups", "find", "get", "held_by", "iterate", "page", "progress", "timeline",
        "why_not_moved", "why_not_requeued", "why_not_restored",
    },
    "Batches": {"get", "list"},
    "Operations": {"get", "list", "resumable"},
    "Queues": {"list"},
    "Servers": {"list"},
    "Audit": {"list"},
    "Catalogue": {"get", "list", "unknown"},
    "Limits": {"get", "line", "list", "names", "places"},
    "Recurring": {"get", "list", "next_instants", "runs", "upcoming"},
    "Signal": {"decode", "encode", "named", "parameters", "payload_from_text"},
    "JobContext": {"cancel", "fake", "key", "raise_if_cancelled", "resource", "served_by"},
    "EmbeddedServer": {"status"},
}  # fmt: skip


def test_every_public_method_is_classified_once():
    """A new method must either join the caller's transaction or be documented as not joining it."""
    classified = [
        (kind, name)
        for classes in (JOINS, JOINS_WHAT_IT_IS_GIVEN, IMMEDIATE, READS)
        for kind, names in classes.items()
        for name in names
    ]

    assert sorted(classified) == sorted({(kind.__name__, name) for kind, name in verbs()})


@pytest.fixture
def shop(tmp_path):
    """An app with a plugin whose transaction every job joins."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    shop = Shop("plugin", url, url)
    with closing(shop.fire):
        shop.committed = shop.add.enqueue()
        shop.add.recur("nightly", "0 2 * * *", 1)
        shop.batch = shop.fire.batch("open")
        with shop.batch as batch:
            batch.add(shop.add)
        yield shop


def fill(batch, shop):
    with batch:
        batch.add(shop.add)


JOINING = {
    "TaskVerbs.enqueue": lambda shop: shop.add.enqueue(),
    "TaskVerbs.enqueue_many": lambda shop: shop.add.enqueue_many([(1,), (2,)]),
    "TaskVerbs.schedule": lambda shop: shop.add.schedule(60),
    "Firelock.batch": lambda shop: fill(shop.fire.batch("b"), shop),
    "Firelock.enqueue_many": lambda shop: shop.fire.enqueue_many([shop.add.call(1)]),
    "Firelock.enqueue_text": lambda shop: shop.fire.enqueue_text("add", {"a": "1"}),
    "Job.then": lambda shop: shop.committed.then(shop.add),
    "Batch.add": lambda shop: shop.batch.add(shop.add),
    "Batch.add_many": lambda shop: shop.batch.add_many([shop.add.call()]),
    "Batch.batch": lambda shop: fill(shop.batch.batch("inner"), shop),
    "Batch.then": lambda shop: shop.batch.then(shop.add),
    "Jobs.copy": lambda shop: shop.fire.jobs.copy(shop.committed.id),
    "Recurring.trigger": lambda shop: shop.fire.recurring.trigger("nightly"),
    "Signal.send": lambda shop: shop.approval.send(shop.committed, True),
}


def test_every_joining_method_is_called_below():
    assert sorted(JOINING) == sorted(f"{kind}.{name}" for kind, names in JOINS.items() for name in names)


def seen(shop):
    """Return the number of committed jobs and signals."""
    return shop.fire.jobs.counts().total + len(shop.committed.steps())


@pytest.mark.parametrize("verb", JOINING)
def test_joining_method_leaves_nothing_after_a_rollback(shop, verb):
    """The method's changes are not visible before the commit either."""
    before = seen(shop)

    with shop.transaction(commits=False):
        JOINING[verb](shop)
        inside = seen(shop)
    rolled_back = seen(shop)
    with shop.transaction(commits=True):
        JOINING[verb](shop)

    assert inside == rolled_back == before
    assert seen(shop) > before


@pytest.mark.parametrize("way", ["session", "connection", "driver"])
@pytest.mark.parametrize("verb", ["copy", "trigger", "send"])
def test_copy_trigger_and_send_accept_a_transaction(shop, verb, way):
    shop.way = way
    before = seen(shop)
    calls = {
        "copy": lambda within: shop.fire.jobs.copy(shop.committed.id, within=within),
        "trigger": lambda within: shop.fire.recurring.trigger("nightly", within=within),
        "send": lambda within: shop.approval.send(shop.committed, True, within=within),
    }

    with shop.transaction(commits=False) as within:
        calls[verb](within)
    rolled_back = seen(shop)
    with shop.transaction(commits=True) as within:
        calls[verb](within)

    assert (rolled_back, seen(shop)) == (before, before + 1)


def test_other_methods_act_immediately(shop):
    """A rollback does not undo their changes."""
    jobs, later = shop.fire.jobs, shop.add.schedule(3_600)
    due_at = later.next_due_at

    with shop.transaction(commits=False):
        shop.committed.delete()
        deleted = jobs.get(shop.committed.id).state
        shop.committed.restore()
        jobs.reschedule([later.id], timedelta(minutes=1))
        shop.add.recur("weekly", "0 2 * * 1")
        shop.fire.recurring.pause("nightly")
        shop.fire.queues.pause("default")

    assert deleted == "deleted"
    assert shop.committed.refresh().state == "enqueued"
    assert later.refresh().next_due_at < due_at
    assert shop.fire.recurring.get("weekly").id == "weekly"
    assert shop.fire.recurring.get("nightly").is_paused
    assert jobs.requeue([later.id]) == [Applied.APPLIED]
    assert [queue.is_paused for queue in shop.fire.queues.list() if queue.name == "default"] == [True]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, name in verbs() if name in IMMEDIATE.get(kind.__name__, ())],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_docstring_states_that_a_method_acts_immediately(kind, name):
    """The docstring of the method or of its class must contain the word "immediately"."""
    if kind.__name__ in {"EmbeddedServer", "Lock"} or name == "add_or_update":
        pytest.skip("it is no change that a transaction could be thought to hold")

    assert "immediately" in f"{kind.__doc__} {getattr(kind, name).__doc__}"


def test_docs_name_every_method_that_joins_or_writes():
    """The methods are listed in the table on the Django page."""
    page = (Path(__file__).parents[3] / "docs" / "django.md").read_text(encoding="utf-8")
    table = page.partition("### Verbs and transactions")[2].partition("\n## ")[0]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", table))))

    unnamed = {
        name
        for classes in (JOINS, JOINS_WHAT_IT_IS_GIVEN, IMMEDIATE)
        for kind, names in classes.items()
        if kind not in {"EmbeddedServer", "Lock"}
        for name in names - {"add_or_update"}
    }

    assert unnamed - named == set()
