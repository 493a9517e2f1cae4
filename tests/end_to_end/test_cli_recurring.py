"""`firelock recurring`, `queues` and `servers`: showing and changing them."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from firelock import Cron, Every, Firelock
from firelock.schedules.recurring_job import put_recurring
from firelock.storage import Renewal
from tests.end_to_end.cli_run import begin_session


@pytest.fixture
def app(request):
    """An app with one recurring job, in a storage that the commands open by its name."""
    with Firelock(f"memory://{request.node.originalname}") as app:

        @app.task(name="shop.report")
        def report(day: str = ""): ...

        report.recur("nightly", Cron.daily(2, tz="Europe/Istanbul"), "x")
        app.report = report
        yield app


@pytest.fixture
def command(run, app):
    """Return a function that runs a command on the app's storage."""
    return lambda *words: run(*words, "--storage", app.storage.url)


def test_recurring_jobs_are_listed_in_words(command, app):
    """The list shows the schedule in words.

    A note reports that the definition is paused, has an error, or is no longer declared in the code.
    """
    for name, change in (("gone", {"is_gone": True}), ("wrong", {"error": "no such zone"})):
        one = app.report.recur(name, Every(timedelta(minutes=5)))
        put_recurring(app.storage, attrs.evolve(one.record, **change), keep_progress=False)
    app.recurring.pause("nightly")

    ran = command("recurring list")

    lines = {line.split()[0]: line for line in ran.out.splitlines()}
    assert "at 02:00 every day, Europe/Istanbul" in lines["nightly"]
    assert lines["nightly"].endswith("paused")
    assert "every 5 minutes" in lines["gone"]
    assert lines["gone"].endswith("no longer in code")
    assert lines["wrong"].endswith("no such zone")


def test_recurring_jobs_in_json_have_their_schedule_as_a_value(command):
    """The schedule and the arguments are JSON values, not strings that contain JSON."""
    ran = command("recurring list --json")

    only = ran.json["recurring"][0]
    assert only["schedule"]["cron"] == "0 2 * * *"
    assert only["arguments"] == {"day": "x"}
    assert only["next_at"].endswith("Z")


def test_trigger_enqueues_a_job(command, app):
    """The output contains the id of the new job. The schedule does not change."""
    before = app.recurring.get("nightly").next_at

    ran = command("recurring trigger nightly --json")

    job = app.jobs.get(ran.json["jobs"][0]["id"])
    assert (job.task, str(job.state)) == ("shop.report", "enqueued")
    assert app.recurring.get("nightly").next_at == before


def test_pause_resume_and_remove_change_the_definition(command, app):
    """Each command changes the definition, and the output confirms it."""
    paused = command("recurring pause nightly")
    is_paused = app.recurring.get("nightly").is_paused
    resumed = command("recurring resume nightly")
    is_still_paused = app.recurring.get("nightly").is_paused
    removed = command("recurring remove nightly --json")

    assert (paused.out, is_paused) == ("nightly  paused\n", True)
    assert (resumed.out, is_still_paused) == ("nightly  resumed\n", False)
    assert removed.json == {"removed": ["nightly"]}
    assert app.recurring.list() == []


def test_empty_list_of_recurring_jobs_prints_a_message(run):
    """Standard output is empty, and the exit code is 0."""
    listed = run("recurring list --storage memory://")
    upcoming = run("recurring next --storage memory://")

    assert (listed.code, listed.out, listed.error) == (0, "", "No recurring jobs exist.\n")
    assert (upcoming.code, upcoming.out, upcoming.error) == (0, "", "No due times.\n")


def test_unreadable_schedule_does_not_hide_the_others(command, app):
    """The list reports the problem, and the agenda contains the other definitions.

    The unreadable definition can be removed.
    """
    strange = app.report.recur("strange", Cron.daily(3)).record
    put_recurring(app.storage, attrs.evolve(strange, schedule='{"when": "often"}'), keep_progress=False)

    listed = command("recurring list")
    alone = command("recurring next strange")
    together = command("recurring next --json")
    removed = command("recurring remove strange")

    assert "cannot be read" in listed.out.splitlines()[2]
    assert (alone.code, alone.out, alone.error) == (0, "", "No due times.\n")
    assert {one["id"] for one in together.json["next"]} == {"nightly"}
    assert removed.code == 0


def test_change_of_a_definition_has_an_audit_entry(command, app, monkeypatch):
    """In the audit, each action has the same name as on the dashboard."""
    monkeypatch.setenv("LOGNAME", "ada")

    for verb in ("trigger", "pause", "resume", "remove"):
        command(f"recurring {verb} nightly")

    entries = list(app.audit.list())[::-1]
    assert [
        ("recurring.trigger", "nightly", "ada", "cli"), ("recurring.pause", "nightly", "ada", "cli"),
        ("recurring.resume", "nightly", "ada", "cli"), ("recurring.remove", "nightly", "ada", "cli"),
    ] == [(entry.action, entry.target, entry.by, entry.origin) for entry in entries]  # fmt: skip
    assert {"job": app.jobs.find().jobs[0].id} == entries[0].detail


def test_pause_of_a_queue_has_an_audit_entry(command, app, monkeypatch):
    """The entry contains the note. The queue also stores who paused it."""
    monkeypatch.setenv("LOGNAME", "ada")

    command("queues pause mail --note down")
    paused_by = app.queues.list()[0].paused_by
    command("queues resume mail")

    resume, pause = app.audit.list()
    assert ("queue.pause", "mail", "ada", "cli") == (pause.action, pause.target, pause.by, pause.origin)
    assert ({"note": "down"}, "ada") == (pause.detail, paused_by)
    assert ("queue.resume", "mail", "ada") == (resume.action, resume.target, resume.by)


def test_each_trigger_prints_its_own_line(command, app):
    """Each line contains the id of the definition and the id of the new job."""
    app.report.recur("weekly", Cron.daily(3))

    ran = command("recurring trigger nightly weekly")

    jobs = [job.id for job in app.jobs.find(oldest_first=True)]
    assert ran.out.splitlines() == [
        f"nightly  enqueued as job {jobs[0]}",
        f"weekly  enqueued as job {jobs[1]}",
    ]


def test_changes_in_json_are_one_value(command, app):
    """Standard output is a single JSON value, whatever the number of definitions."""
    app.report.recur("weekly", Cron.daily(3))

    ran = command("recurring pause nightly weekly --json")

    assert ran.json == {"paused": ["nightly", "weekly"]}
    assert [one.is_paused for one in app.recurring.list()] == [True, True]


def test_next_prints_the_times_of_one_definition(command):
    """The next times are printed in UTC and in the time zone of the schedule."""
    ran = command("recurring next nightly --count 2")

    _, first, second = ran.out.splitlines()
    assert " 23:00:00 UTC" in first
    assert " 02:00:00 Europe/Istanbul" in second


def test_next_prints_the_times_of_all_definitions(command, app):
    """If no id is given, the times of all running definitions are listed in order."""
    app.report.recur("often", Every(timedelta(hours=12)))
    app.report.recur("stopped", Every(timedelta(seconds=1)))
    app.recurring.pause("stopped")

    ran = command("recurring next --count 6 --json")

    agenda = ran.json["next"]
    assert {one["id"] for one in agenda} == {"nightly", "often"}
    assert [one["at"] for one in agenda] == sorted(one["at"] for one in agenda)
    assert len(agenda) == 6


def test_next_of_a_paused_definition_prints_a_hint(command, app):
    """The times are listed together with a hint that the definition does not run."""
    app.recurring.pause("nightly")

    ran = command("recurring next nightly")

    assert len(ran.out.splitlines()) == 11
    assert ran.error == "nightly is paused and does not run until it is resumed.\n"


@pytest.mark.parametrize("schedule", [Cron.daily(2), Every(timedelta(hours=1))])
def test_times_of_a_utc_schedule_are_printed_once(command, app, schedule):
    """If a schedule has no time zone, its times are printed only in UTC."""
    app.report.recur("plain", schedule)

    ran = command("recurring next plain --count 1")

    title, line = ran.out.splitlines()
    assert title.split() == ["AT", "LOCAL", "IN", "ID", "TASK"]
    assert line[title.index("LOCAL") : title.index("IN")].strip() == ""


def test_next_of_all_excludes_paused_definitions(command, app):
    """If every definition is paused, no times are listed, and each definition is named."""
    app.report.recur("weekly", Cron.daily(3))
    for name in ("nightly", "weekly"):
        app.recurring.pause(name)

    ran = command("recurring next")

    assert (ran.code, ran.out) == (0, "")
    assert ran.error.splitlines() == [
        "nightly is paused and does not run until it is resumed.",
        "weekly is paused and does not run until it is resumed.",
        "No due times.",
    ]


# ---- queues ----------------------------------------------------------------------------------------------


def test_queues_are_listed_with_their_job_counts(command, app):
    """The list shows the numbers of enqueued and scheduled jobs. A pause is shown with its note."""
    app.report.using(queue="mail").enqueue()
    app.report.using(queue="mail").schedule(60)

    command("queues pause mail --note down")
    ran = command("queues list")

    assert ran.out.splitlines()[1].split() == ["mail", "1", "0", "1", "paused", "down"]


def test_paused_queue_is_resumed(command, app):
    """The pause and its note are removed."""
    app.queues.pause("mail", note="down")

    ran = command("queues resume mail default --json")
    listed = command("queues list --json").json["queues"]

    assert ran.json == {"resumed": ["mail", "default"]}
    assert {(queue["name"], queue["is_paused"]) for queue in listed} == {("default", False), ("mail", False)}


# ---- servers ---------------------------------------------------------------------------------------------


def test_servers_are_listed_with_their_states(command, app):
    """A running server is listed with the state that it last reported.

    Ended and lost servers are listed for a day.
    """
    begin_session(app, "s1", server="vm:1", queues="critical:3,default:1")
    begin_session(app, "s2", server="vm:2")
    app.storage.renew([Renewal("s2", state="stopping")])
    app.storage.end_session("s2", (), reason="server stopped")
    begin_session(app, "s3", server="vm:3")
    app.storage.end_session("s3", None, reason="its session was lost")

    ran = command("servers list")
    answers = command("servers list --json").json["servers"]

    _, first, second, third = ran.out.splitlines()
    assert third.split()[:5] == ["vm:3", "lost", "vm", "*", "0"]
    assert [("vm:1", False), ("vm:2", False), ("vm:3", True)] == [
        (one["name"], one["is_lost"]) for one in answers
    ]
    assert first.split()[:6] == ["vm:1", "running", "vm", "critical:3,default:1", "4", "0"]
    assert second.split()[:5] == ["vm:2", "ended", "vm", "*", "0"]


def test_server_with_an_expired_session_is_silent(command, app):
    """The session has not been renewed in time, but no sweep has ended it yet."""
    begin_session(app, "s1", server="vm:1", timeout_seconds=-1.0)

    text = command("servers list").out
    answer = command("servers list --json").json["servers"][0]

    assert text.splitlines()[1].split()[:2] == ["vm:1", "silent"]
    assert (answer["name"], answer["is_alive"]) == ("vm:1", False)


def test_empty_list_of_servers_prints_a_hint(command, app):
    """The hint shows how to start a server."""
    ran = command("servers list")

    assert (ran.code, ran.out) == (0, "")
    assert "firelock server app:fire" in ran.error
