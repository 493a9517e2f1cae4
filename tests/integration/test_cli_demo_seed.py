"""`firelock demo --seed` at the command line: what it says, what it refuses, how it is broken off."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys

import pytest

from firelock import Firelock
from firelock.cli import main
from firelock.plugins import open_storage
from firelock.storage import JobFilter, NewSession
from firelock.values import State
from tests.integration.cli_run import run

DEADLINE = 90.0


@pytest.fixture
def url(tmp_path):
    """A storage that is not there yet."""
    return f"sqlite:///{tmp_path / 'shop.db'}?synchronous=normal"


@pytest.fixture
def app(url):
    """The same storage, with a task that has nothing to do with the shop's."""
    with Firelock(url) as app:
        yield app


def add(a: int) -> int:
    return a


def end_all(app):
    """Whatever the app has enqueued has been deleted."""
    app.jobs.delete([job.id for job in app.jobs.find(state="enqueued")])


def test_a_seed_says_what_it_made_and_how_to_look_at_it(url, capsys):
    """Numbers by state, then commands with the storage's address; other commands find it all."""
    ran = run(capsys, "demo", "--seed", "1_000", "--storage", url)

    assert (ran.code, ran.error) == (0, "")
    assert "1,000 jobs in " in ran.out
    assert "30 recurring jobs, 3 servers, 1 paused queue, " in ran.out
    assert f"firelock dashboard --storage {shlex.quote(open_storage(url).url)}" in ran.out
    listed = run(capsys, "jobs", "list", "--state", "failed", "--storage", url)
    assert "shop." in listed.out
    assert "web-1" in run(capsys, "servers", "list", "--storage", url).out
    assert "paused" in run(capsys, "queues", "list", "--storage", url).out


def test_a_seed_answers_in_json(url, capsys):
    """Programs read what was made."""
    ran = run(capsys, "demo", "--seed", "1000", "--storage", url, "--json")

    answer = json.loads(ran.out)
    assert (ran.code, answer["jobs"], answer["recurring"], answer["is_whole"]) == (0, 1_000, 30, True)
    assert sum(answer["stored"].values()) == 1_000


def test_the_default_is_a_file_here_whatever_the_environment_says(tmp_path, monkeypatch, capsys, url):
    """A storage that is in use is never filled since a variable names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRELOCK_STORAGE", url)

    ran = run(capsys, "demo", "--seed", "1000")

    assert ran.code == 0
    assert "FIRELOCK_STORAGE was not looked at" in ran.out
    assert [path.name for path in tmp_path.glob("*.db")] == ["firelock-demo.db"]


def test_a_storage_that_has_jobs_is_filled_only_where_that_is_meant(app, url, capsys):
    """Without --yes it is refused and nothing is written; with it the old jobs stay beside the new ones."""
    old = app.task(name="add")(add).enqueue(1)
    end_all(app)

    refused = run(capsys, "demo", "--seed", "1000", "--storage", url)
    before = sum(app.jobs.counts().by_state.values())
    done = run(capsys, "demo", "--seed", "1000", "--storage", url, "--yes")

    assert (refused.code, before, done.code) == (1, 1, 0)
    assert "has 1 job already." in refused.error
    assert "--yes adds to them" in refused.error
    assert sum(app.jobs.counts().by_state.values()) == 1_001
    assert app.jobs.get(old.id).state == "deleted"


def test_a_seed_never_takes_enqueued_jobs_of_others(app, url, capsys):
    """It claims what is enqueued, so a storage with such jobs is refused even with --yes."""
    job = app.task(name="add")(add).enqueue(1)

    ran = run(capsys, "demo", "--seed", "1000", "--storage", url, "--yes")

    assert ran.code == 1
    assert "has 1 enqueued job, which" in ran.error
    assert app.jobs.get(job.id).state == "enqueued"


def test_a_storage_on_which_a_server_works_is_not_filled(app, url, capsys):
    """The server would run what is made up."""
    app.storage.begin_session(NewSession("s", "i", "vm:1", "vm", 1, app.storage.clock(), 30.0))

    ran = run(capsys, "demo", "--seed", "1000", "--storage", url, "--yes")

    assert ran.code == 1
    assert "A server works on" in ran.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "999"], "'999' is no whole number from 1,000 to 10,000,000"),
        (["--seed", "many"], "'many' is no whole number"),
        (["--seed", "10000001"], "'10000001' is no whole number"),
        (["--seed", "1000", "--storage", "memory://"], "would be gone with it"),
        (["--yes"], "--yes and --random-seed go with --seed."),
        (["--random-seed", "3"], "--yes and --random-seed go with --seed."),
    ],
)
def test_a_seed_that_cannot_be_is_refused(arguments, said, capsys):
    """The value and what to do instead are named."""
    ran = run(capsys, "demo", *arguments)

    assert ran.code == 2
    assert said in ran.error


def test_progress_is_shown_to_people_only(url, capsys, monkeypatch):
    """On a terminal a line says how many jobs a second and how long it will take."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    main(["demo", "--seed", "3000", "--storage", url])

    assert " of 3,000 jobs, " in capsys.readouterr().err


def test_a_seed_that_is_interrupted_leaves_whole_jobs(url):
    """Ctrl-C ends it after the step under way: nobody holds a job, and it says so."""
    seeding = subprocess.Popen(
        [sys.executable, "-m", "firelock", "demo", "--seed", "1000000", "--storage", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = seeding.stdout.readline()

    seeding.send_signal(signal.SIGINT)
    out, error = seeding.communicate(timeout=DEADLINE)

    assert "Ctrl-C breaks off at whole jobs" in first
    assert (seeding.returncode, error) == (130, "")
    assert "no server holds any" in out
    storage = open_storage(url)
    assert storage.find(JobFilter(state=State.PROCESSING), limit=10).jobs == []
    assert not any(record.is_alive for record in storage.list_sessions())
    storage.close()
