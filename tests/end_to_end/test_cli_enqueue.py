"""`firelock enqueue`: a job from JSON, with the task's code or the description that a server stored."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from datetime import datetime

import pytest

from firelock import Firelock
from firelock.control.catalogue import publish_tasks
from firelock.storage import Record
from tests.end_to_end.cli_run import Terminal


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def app(request):
    """The app of a server that has stored the description of its task."""
    with Firelock(f"memory://{request.node.originalname}") as app:

        @app.task(name="shop.notify", queue="mail", priority=3, tags=["user:{user_id}"], aliases=["notify"])
        def notify(user_id: int, text: str = "hello"): ...

        publish_tasks(app.client)
        yield app


@pytest.fixture
def enqueue(run, app):
    """Return a function that runs the command without the code."""
    return lambda *words: run("enqueue", *words, "--storage", app.storage.url)


def test_job_is_created_without_the_code(enqueue, app):
    """The job has the queue, priority and tags of its task. Standard output contains only the id."""
    ran = enqueue("shop.notify", "--args", '{"user_id": 42}')

    job = app.jobs.get(ran.out.strip()).record()
    assert (0, "") == (ran.code, ran.error)
    assert ("shop.notify", "mail", 3, ("user:42",), {"user_id": 42}) == (
        job.task, job.queue, job.priority, job.tags, json.loads(job.arguments),
    )  # fmt: skip
    (entry,) = app.audit.list()
    assert ("task.run", "shop.notify", "cli", {"job": job.id}) == (
        entry.action, entry.target, entry.origin, entry.detail,
    )  # fmt: skip


def test_options_of_the_command_override_the_task(enqueue, app):
    """The options are the queue, the priority, the tags and the time."""
    ran = enqueue(
        "notify", "--args", '[42, "x"]', "--queue", "bulk", "--priority", "-5", "--tags", "eu, slow",
        "--at", "2126-11-25T14:30+03:00", "--meta", "tenant=acme", "--meta", "note=a=b", "--json",
    )  # fmt: skip

    job = ran.json
    assert ("bulk", -5, "scheduled", "2126-11-25T11:30:00.000000Z", {"user_id": 42, "text": "x"}) == (
        job["queue"], job["priority"], job["state"], job["due_at"], job["arguments"],
    )  # fmt: skip
    assert ["user:42", "eu", "slow"] == job["tags"]
    assert {"tenant": "acme", "note": "a=b"} == app.jobs.get(job["id"]).meta
    assert "shop.notify" == job["task"] == app.jobs.get(job["id"]).record().task


def test_delay_counts_from_the_time_of_the_storage(enqueue, app):
    before = app.storage.clock()

    job = enqueue("shop.notify", "--args", "[1]", "--in", "10m", "--json").json

    due = datetime.fromisoformat(job["due_at"]).timestamp() * 1_000_000
    assert before + 600_000_000 <= due <= app.storage.clock() + 600_000_000


@pytest.mark.parametrize(
    ("text", "before"), [("2h", {"start_within_seconds": 7200.0}),
                         ("2126-11-25T14:30Z", {"start_before": "2126-11-25T14:30:00.000000Z"})],
)  # fmt: skip
def test_start_deadline_is_a_duration_or_a_time(enqueue, app, text, before):
    """If the job has not started by this time, it is deleted without running."""
    ran = enqueue("notify", "--args", "[42]", "--start-before", text, "--json")

    assert (0, True) == (ran.code, ran.json["is_new"])
    assert before.items() <= ran.json["admission"].items()


def test_duplicate_is_reported(run, app, tmp_path, monkeypatch):
    """Standard output contains the id of the job that has this key.

    A note states that no other job was created.
    """
    code = """
    from firelock import Firelock, Unique
    fire = Firelock("memory://")
    fire.task(name="day", unique=Unique("day"))(lambda: None)
    """
    (tmp_path / "unique_app.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    words = ("enqueue day --app unique_app:fire --storage", app.storage.url)

    first, second = run(*words), run(*words)
    answer = run(*words, "--json").json

    assert first.out == second.out
    assert ("", f"Job {first.out.strip()} already has unique key day; no new job was created.\n") == (
        first.error, second.error,
    )  # fmt: skip
    assert not answer["is_new"]


def test_arguments_are_read_from_standard_input(enqueue, app, monkeypatch):
    """Secret arguments can be passed in this way, because they are not visible in the list of processes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"user_id": 7}'))

    ran = enqueue("shop.notify", "--args", "-")

    assert {"user_id": 7} == json.loads(app.jobs.get(ran.out.strip()).record().arguments)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--args", "{"], 2, "firelock: --args must be JSON: "),
        (["--args", "{}"], 2, "firelock: notify(user_id: int, text: str = ...) was called without 'user_id'"),
        (["--args", '["x"]'], 2, "firelock: Argument 'user_id' of notify: str where int is annotated"),
        (["--args", "[1]", "--queue", "A B"], 2, "firelock: Queue name must be 1 to 64 characters"),
        (["--args", "[1]", "--priority", "101"], 2, "firelock: Priority must be an integer"),
        (["--in", "soon"], 2, "firelock enqueue: argument --in: must be a duration such as 30s, "),
        (["--at", "2026-11-25"], 2, "firelock enqueue: argument --at: must be a time with a UTC "),
        (["--meta", "acme"], 2, "firelock enqueue: argument --meta: must be NAME=TEXT, "),
        (["--at", "2026-11-25T10:00Z", "--in", "5m"], 2, "firelock enqueue: argument --in: not allowed with"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused_before_the_job_is_stored(enqueue, app, words, code, error):
    """The error is one sentence about the cause, and the exit code is 2."""
    ran = enqueue("shop.notify", *words)

    assert (code, "") == (ran.code, ran.out)
    assert ran.error.startswith(error), ran.error
    assert 0 == sum(app.jobs.counts().values())


def test_resource_is_refused_as_an_argument(run, app, tmp_path, monkeypatch):
    """A resource cannot be passed as an argument, with or without the code, by name or by position."""
    (tmp_path / "enqueue_pool.py").write_text(
        textwrap.dedent(f"""
        from firelock import Firelock

        fire = Firelock({app.storage.url!r})

        @fire.resource
        def pool():
            yield "pool"

        @fire.task
        def count(table: str, pool: str = pool): ...
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import enqueue_pool

    publish_tasks(enqueue_pool.fire.client)

    def enqueue(place, arguments):
        sys.modules.pop("enqueue_pool", None)  # each command is its own process
        return run(f"enqueue {place} enqueue_pool.count --args", arguments)

    with_code = enqueue("--app enqueue_pool:fire", '{"table": "t", "pool": "x"}')
    by_position = enqueue("--app enqueue_pool:fire", '["t", "x"]')
    without = enqueue(f"--storage {app.storage.url}", '{"table": "t", "pool": "x"}')

    assert (2, 2, 2) == (with_code.code, by_position.code, without.code)
    assert "'pool' is a resource, which the worker opens for the job: omit it" in with_code.error
    assert "1 positional argument, but 2 were given; 'pool' is a resource" in by_position.error
    assert "count(table: str) has no parameter 'pool'" in without.error


def test_unknown_task_suggests_similar_names(enqueue):
    """The hint contains similar names, and the exit code is 4."""
    ran = enqueue("shop.notfy")

    assert 4 == ran.code
    assert "Task 'shop.notfy' is not registered" in ran.error
    assert "Did you mean shop.notify? Known tasks: shop.notify." in ran.error


def test_task_described_by_an_older_release_is_refused(enqueue, app):
    """The task's parameters are unknown, so the job is not stored."""
    record = app.storage.get_record("task", "shop.notify")
    assert isinstance(record, Record)
    older = {name: value for name, value in json.loads(record.value).items() if name != "parameters"}
    app.storage.put_record("task", "shop.notify", json.dumps(older))

    ran = enqueue("shop.notify", "--args", "[1]")

    assert 4 == ran.code
    assert "it was published by a server of an older release" in ran.error


def test_available_code_is_used_to_check_arguments(run, app, tmp_path, monkeypatch):
    """The code contains details that a stored description lacks, for example the fields of a class."""
    (tmp_path / "enqueue_shop.py").write_text(
        textwrap.dedent(f"""
        import attrs
        from firelock import Firelock

        fire = Firelock({app.storage.url!r})

        @attrs.frozen
        class Point:
            x: int

        @fire.task
        def draw(point: Point): ...
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)

    def enqueue(task, arguments):
        sys.modules.pop("enqueue_shop", None)  # each command is its own process
        return run("enqueue --app enqueue_shop:fire", task, "--args", arguments)

    drawn = enqueue("enqueue_shop.draw", '{"point": {"x": 1}}')
    refused = enqueue("enqueue_shop.draw", '{"point": {"y": 1}}')
    elsewhere = enqueue("shop.notify", "[1]")

    assert (0, 2, 0) == (drawn.code, refused.code, elsewhere.code)
    assert "Argument 'point' of draw: " in refused.error
    assert "shop.notify" == app.jobs.get(elsewhere.out.strip()).record().task


def test_message_about_the_created_job_is_on_standard_error(enqueue, monkeypatch):
    """Standard output contains only the id, so scripts can use it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    ran = enqueue("shop.notify", "--args", "[1]")

    assert "A job of shop.notify is enqueued in queue mail.\n" == ran.error
    assert 36 == len(terminal.getvalue().strip())
