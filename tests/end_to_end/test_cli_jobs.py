"""`firelock jobs`: listing, showing and changing jobs, and the jobs that stay unchanged."""

from __future__ import annotations

import json
import math
import shlex
from datetime import timedelta

import pytest

from firelock import Firelock, Limit, Unique
from firelock.cli import main
from firelock.model import lifecycle
from firelock.model.job import ErrorInfo, LogLine, Progress
from firelock.model.state import State
from firelock.storage import HeldClaim
from tests.end_to_end.cli_run import Terminal, begin_session, claim, fail

RIVALS = """
from firelock import Firelock
from firelock.storage.memory import MemoryStorage


class Contested(MemoryStorage):
    calls = 0

    is_filled = False

    def schema(self):  # the first method that is called
        if not self.is_filled:
            self.is_filled = True
            jobs = add.enqueue_many([(1,), (2,), (3,)])
            fire.jobs.delete([job.id for job in jobs])
        return super().schema()

    def find(self, where, **page):
        found = super().find(where, **page)
        self.calls += 1
        if self.calls == 1:  # the number is read first
            return found
        fire.jobs.requeue([job.id for job in found.jobs[1:]])
        return found


fire = Firelock(Contested())
add = fire.task(name="add")(lambda number: None)
"""


LEAVING = """
from firelock import Firelock, StorageUnavailable
from firelock.storage.memory import MemoryStorage


class Leaving(MemoryStorage):
    answers = 0
    is_filled = False

    def schema(self):  # the first method that is called
        if not self.is_filled:
            self.is_filled = True
            add.enqueue_many([(number,) for number in range(501)])
        return super().schema()

    def apply(self, transitions, *, within=None):
        self.answers += 1
        if self.answers > 1:
            raise StorageUnavailable("The database at db.example has gone away.")
        return super().apply(transitions)


fire = Firelock(Leaving())
add = fire.task(name="add")(lambda number: None)
"""


@pytest.fixture
def app(request):
    """An app in a storage that the commands open by its name."""
    with Firelock(f"memory://{request.node.originalname}") as app:

        @app.task(name="shop.add", tags=["user:{user}"])
        def add(user: int, note: str = ""): ...

        app.add = add
        yield app


@pytest.fixture
def command(run, app):
    """Return a function that runs a command about the app's jobs."""
    return lambda words, *more: run(f"jobs {words}", *more, "--storage", app.storage.url)


def listed(ran):
    return [job["id"] for job in ran.json["jobs"]]


def states(jobs):
    return [str(job.refresh().state) for job in jobs]


# ---- list ------------------------------------------------------------------------------------------------


def test_list_in_a_pipe_is_aligned_text(command, app):
    """Titles and values are aligned. The last column contains the reason."""
    parent = app.add.enqueue(1)
    child = parent.then(app.add, 2)

    ran = command("list --oldest-first")

    title, first, second = ran.out.splitlines()
    assert title.split() == ["ID", "STATE", "TASK", "QUEUE", "CHANGED", "NOTE"]
    assert first.split()[:4] == [parent.id, "enqueued", "shop.add", "default"]
    assert second.split()[:4] == [child.id, "awaiting", "shop.add", "default"]
    assert second.endswith(f"runs when {parent.id} has succeeded")
    assert first.index("shop.add") == second.index("shop.add") == title.index("TASK")


def test_missing_match_is_reported_on_standard_error(command):
    """If the list is empty, standard output is empty and the exit code is 0."""
    ran = command("list")

    assert (ran.code, ran.out, ran.error) == (0, "", "No jobs match.\n")


def test_list_shows_reasons_and_holders(command, app):
    """The last column contains the due time, retry, server or error, depending on the job's state."""
    now = app.storage.clock()
    error = ErrorInfo("builtins.ValueError", "no ink", "f1", None)
    app.add.enqueue(1)
    fail(app, message="no paper\nin tray 1")
    app.add.schedule(timedelta(hours=2), 2)
    app.add.enqueue(3)
    holder = begin_session(app)
    again = lifecycle.retried(
        claim(app, holder), holder, at=now, started_at=now, wait=7_200_000_000, reason="", error=error
    )
    app.storage.apply([again])
    app.add.enqueue_many([(4,), (5,)])
    running, _ = claim(app, holder), claim(app, holder)
    app.storage.reconcile(holder.session, [HeldClaim(running.id, running.fence, now)])

    ran = command("list --oldest-first")

    title, *lines = ran.out.splitlines()
    assert [line[title.index("NOTE") :] for line in lines] == [
        "builtins.ValueError: no paper in tray 1",
        "due in 2 h",
        "retry 1, due in 2 h",
        "on vm:1, attempt 1",
        "claimed by vm:1, attempt 1",
    ]


def test_deleted_job_is_shown_as_stopping_while_it_runs(command, app):
    """The list and the details name the server whose run has not ended."""
    running = app.add.enqueue(1)
    holder = begin_session(app)
    claimed = claim(app, holder)
    app.storage.reconcile(holder.session, [HeldClaim(claimed.id, claimed.fence, app.storage.clock())])
    running.delete()

    shown, listed = command(f"show {running.id}"), command("list --state deleted")

    assert shown.out.splitlines()[0] == f"Job {running.id}  deleted, stopping on vm:1"
    assert listed.out.splitlines()[1].endswith("stopping on vm:1")


def test_list_in_json_contains_stored_values(command, app):
    """Arguments are JSON values, times are in ISO 8601 and UTC, and missing values are null."""
    job = app.add.using(meta={"tenant": "acme"}).enqueue(1, "x")

    ran = command("list --json")

    only = ran.json["jobs"][0]
    assert only["id"] == job.id
    assert only["arguments"] == {"user": 1, "note": "x"}
    assert only["created_at"] == job.created_at.isoformat().replace("+00:00", "Z")
    assert only["tags"] == ["user:1"]
    assert only["meta"] == {"tenant": "acme"}
    assert only["error"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--state scheduled", {"later"}),
        ("--queue mail", {"mail"}),
        ("--tag user:2", {"mail"}),
        ("--task shop.add", {"plain", "mail", "later"}),
        ("--task shop.other", set()),
        ("--server vm:9", set()),
        ("--recurring nightly", set()),
        ("--fingerprint f1", set()),
        ("--since 1h", {"plain", "mail", "later"}),
        ("--until 1h", set()),
        ("--since 2999-01-01", set()),
        ("--until 2999-01-01T00:00+03:00 --queue mail", {"mail"}),
    ],
)
def test_filters_are_combined(command, app, words, expected):
    """A job must match all given filters."""
    jobs = {
        "plain": app.add.enqueue(1),
        "mail": app.add.using(queue="mail").enqueue(2),
        "later": app.add.schedule(timedelta(hours=1), 3),
    }

    ran = command(f"list --json {words}")

    assert set(listed(ran)) == {jobs[name].id for name in expected}


def test_invalid_time_is_a_usage_error(command):
    """The error lists the valid formats."""
    ran = command("list --since yesterday")

    assert ran.code == 2
    assert "--since must be a time or a duration, got 'yesterday'." in ran.error


def test_cursor_opens_the_next_page(command, app):
    """The cursor of each page leads to the next one. Together, the pages contain all jobs."""
    jobs = app.add.enqueue_many([(number,) for number in range(3)])

    first = command("list --json --limit 2 --oldest-first")
    second = command("list --json --oldest-first --cursor", first.json["cursor"])

    assert listed(first) + listed(second) == [job.id for job in jobs]
    assert second.json["cursor"] is None


def test_partial_list_prints_a_hint_for_the_next_page(command, app):
    """Without --json, standard error contains a hint with the cursor."""
    app.add.enqueue_many([(number,) for number in range(3)])

    ran = command("list --limit 2")

    assert len(ran.out.splitlines()) == 3
    assert "--cursor " in ran.error


def test_counts_include_every_state(command, app):
    """All seven states are counted in total and per queue, including states without jobs."""
    app.add.enqueue(1)
    app.add.schedule(60, 2)

    ran = command("counts --json")

    every = {
        "enqueued": 1, "processing": 0, "scheduled": 1, "awaiting": 0, "failed": 0, "succeeded": 0,
        "deleted": 0,
    }  # fmt: skip
    assert ran.json == {"by_state": every, "by_queue": {"default": every}}


# ---- failures --------------------------------------------------------------------------------------------


@pytest.fixture
def causes(app):
    """Two failed jobs of one cause and one of another cause; their ids, oldest first."""
    failed = []
    pack = app.task(name="shop.pack", remote=True)(lambda number: None)
    for task, message, fingerprint in (
        (app.add, "no ink in tray 1", "f1"),
        (pack, "no box", "f2"),
        (app.add, "no ink in tray 2", "f1"),
    ):
        task.enqueue(1)
        failed.append(fail(app, message=message, fingerprint=fingerprint))
    return failed


def test_failures_are_grouped_by_cause(command, causes):
    """The most frequent cause comes first, with the error of its newest job."""
    ran = command("failures")

    title, first, second = ran.out.splitlines()
    assert title.split() == ["JOBS", "NEWEST", "FINGERPRINT", "TASK", "ERROR", "NOTE"]
    assert first.split()[0] == "2"
    assert "f1" in first.split()
    assert "shop.add" in first.split()
    assert first.endswith("ValueError: no ink in tray 2")
    assert (second.split()[0], second.endswith("ValueError: no box")) == ("1", True)
    assert "firelock jobs requeue --all --fingerprint FINGERPRINT" in ran.error


def test_failures_in_json_contain_the_whole_groups(command, app, causes):
    """The names are the same as in the code. `failed` includes failed batches."""
    app.storage.put_record("cause", "f2", json.dumps({"mute": {"until": None}}))

    ran = command("failures --json")

    first, second = ran.json["failures"]
    assert first.pop("newest_at").endswith("Z")
    assert first == {
        "fingerprint": "f1", "type": "builtins.ValueError", "message": "no ink in tray 2",
        "task": "shop.add", "count": 2, "sample_id": causes[2], "is_muted": False,
    }  # fmt: skip
    assert (second["count"], second["is_muted"]) == (1, True)
    assert (ran.json["failed"], ran.json["is_cut"]) == (3, False)
    assert ran.error == ""


@pytest.mark.parametrize(
    ("words", "fingerprints", "is_cut"),
    [
        ("failures --limit 1", ["f1"], True),
        ("failures --limit 2", ["f1", "f2"], False),
        ("failures --task shop.pack", ["f2"], False),
        ("failures --task shop.none", [], False),
    ],
)
def test_failures_are_limited(command, causes, words, fingerprints, is_cut):
    """The limit applies after the filter. If the list is truncated, a hint follows it."""
    ran, text = command(f"{words} --json"), command(words)

    assert [one["fingerprint"] for one in ran.json["failures"]] == fingerprints
    assert ran.json["is_cut"] == is_cut == ("use --limit" in text.error)
    assert bool(fingerprints) != ("No causes match." in text.error)


def test_muted_cause_is_marked(command, app, causes):
    """Causes are muted on the dashboard. Its banners and the findings do not mention muted causes."""
    app.storage.put_record("cause", "f2", json.dumps({"mute": {"until": None}}))

    _, first, second = command("failures").out.splitlines()

    assert (first.endswith("muted"), second.endswith("muted")) == (False, True)


def test_more_failed_jobs_than_a_storage_groups_are_reported(command, app, causes, monkeypatch):
    monkeypatch.setattr("firelock.cli.job_failures._GROUPED", 2)

    ran = command("failures")

    assert "Only the newest 2 of 3 failed jobs are grouped." in ran.error


def test_list_without_failed_jobs_is_reported_on_standard_error(command):
    ran = command("failures")

    assert (ran.code, ran.out, ran.error) == (0, "", "No failed jobs have a recorded cause.\n")


# ---- show ------------------------------------------------------------------------------------------------


def test_show_prints_all_details_of_a_job(command, app):
    """The output contains the arguments, error, traceback, history, log, progress and continuations."""
    job = app.add.using(meta={"tenant": "acme", "trace": "00-1"}).enqueue(1, "ş")
    child = job.then(app.add, 2)
    fail(app, traceback="Traceback:\n→ File shop.py\n\tadd(1)")
    now = app.storage.clock()
    app.storage.append_logs(
        {job.id: [LogLine(0, now, "info", "half way")]}, {job.id: Progress(1, 2, now, "page 1")}
    )

    ran = command("show", job.id)

    for part in (
        f"Job {job.id}  failed", '{"user":1,"note":"ş"}', "user:1", "tenant=acme, trace=00-1",
        "builtins.ValueError: no such file",
        "→ File shop.py", "    add(1)", "half way", "1 of 2: page 1", f"{child.id} (awaiting)", "History",
    ):  # fmt: skip
        assert part in ran.out


def test_show_marks_an_error_of_an_earlier_attempt(command, app):
    """The output for a requeued job still contains the error, and names the attempt that caused it."""
    job = app.add.enqueue(1, "x")
    fail(app, traceback="here")
    failed = command("show", job.id).out
    job.requeue()
    requeued = command("show", job.id).out

    assert "\n  error " in failed
    assert "last error" not in failed
    assert "\n  last error (attempt 1)  builtins.ValueError: no such file\n" in requeued
    assert "\n  error " not in requeued


def test_show_prints_limits_keys_and_deadline(command, app):
    """The output contains the limits with their costs, the unique key and the start deadline.

    It also names the limit that blocks the job.
    """
    limits = [Limit("tenant:{user}", concurrent=0), Limit("api", rate=9, cost=3)]
    options = {"limits": limits, "unique": Unique("day"), "start_before": timedelta(hours=1)}
    job = app.task(name="shop.limited", **options)(app.add.info.function).enqueue(7)
    app.limits.sync()

    shown = command(f"show {job.id}").out
    answer = command(f"show {job.id} --json").json

    assert "needs api, tenant:7" in command("list --state enqueued").out
    assert "limits        api (cost 3), tenant:7" in shown
    assert "unique key    day" in shown
    assert "start before  " in shown
    assert "waits for     limit tenant:7" in shown
    assert answer["waits_for"].startswith("limit tenant:7")
    assert "admission_json" not in answer
    admission = answer["admission"]
    assert [("api", 3), ("tenant:7", 1)] == [(use["key"], use["cost"]) for use in admission["limits"]]
    assert ("day", "ended", 0.0) == tuple(
        admission["unique"][name] for name in ("key", "until", "at_least_seconds")
    )
    assert (None, 3600.0) == (admission["start_before"], admission["start_within_seconds"])


def test_requeue_with_a_unique_key_in_use_is_refused(command, app):
    """The exit code is that of a refusal, and the other job is not affected."""
    task = app.task(name="shop.unique", unique=Unique("day"))(lambda: None)
    first = task.enqueue()
    first.delete()
    second = task.enqueue()

    ran = command(f"requeue {first.id}")

    assert (1, f"{first.id}  not requeued: another job has its unique key\n") == (ran.code, ran.out)
    assert ["deleted", "enqueued"] == states([first, second])


def test_show_says_what_an_enqueued_job_waits_for(command, app):
    """Apart from a limit, the job may wait for a paused queue or for a server that claims from its queue."""
    job = app.add.using(queue="mail").enqueue(1)

    def waits_for():
        return command(f"show {job.id} --json").json["waits_for"]

    nobody = waits_for()
    begin_session(app, queues="billing")
    others = waits_for()
    begin_session(app, "s2", server="vm:2", queues="mail,billing")
    served = waits_for()
    app.queues.pause("mail", note="partner is down")
    paused = command(f"show {job.id}").out

    assert "a server; none is running" == nobody
    assert "a server for queue mail; the running servers have other queues: vm:1 (billing)" == others
    assert served is None
    assert "  waits for  a resume of queue mail, which is paused (partner is down)" in paused


def test_show_omits_empty_sections(command, app):
    """If a job has not run, failed or logged anything, the output has no sections for these."""
    job = app.add.enqueue(1)

    ran = command("show", job.id)

    assert "History" in ran.out
    for part in ("Failed attempts", "Log", "attempt", "progress", "result"):
        assert part not in ran.out


def test_long_history_states_the_number_of_dropped_entries(command, app):
    job = app.add.enqueue(1)
    for _ in range(150):
        app.jobs.delete([job.id])
        app.jobs.requeue([job.id])
    (left_out,) = [entry.elided for entry in app.storage.history(job.id).entries if entry.elided]

    ran = command("show", job.id)

    assert left_out > 0
    assert f"{left_out} entries are omitted\n" in ran.out


def test_number_that_json_does_not_support_is_null(command, app):
    """The output of --json is valid JSON, whatever numbers a job reports."""
    job = app.add.enqueue(1)
    app.storage.append_logs({}, {job.id: Progress(math.inf, math.nan, 0)})

    ran = command("show", job.id, "--json")

    progress = json.loads(ran.out, parse_constant=pytest.fail)["progress"]
    assert (progress["done"], progress["total"]) == (None, None)


def test_show_in_json_contains_all_details(command, app):
    """The job's object contains its history, errors, log, progress and continuations."""
    job = app.add.enqueue(1)
    child = job.then(app.add, 2)
    fail(app, traceback="here")

    shown = command("show", job.id, "--json").json

    assert [entry["state"] for entry in shown["history"]] == ["enqueued", "failed"]
    assert shown["errors"][0]["error"]["traceback"] == "here"
    assert shown["continuations"] == [child.id]
    assert shown["log"] == []
    assert shown["progress"] is None


def test_arguments_that_are_not_json_stay_strings():
    """Arguments of another serializer, or with a number that JSON does not support, are not parsed."""
    from firelock.cli.json_output import json_text

    assert json_text('{"x":NaN}', "json") == '{"x":NaN}'
    assert json_text("[" * 100_000, "json") == "[" * 100_000
    assert json_text('{"x":1}', "sealed") == '{"x":1}'
    assert json_text('{"x":1}', "json") == {"x": 1}
    assert json_text(None, "json") is None


# ---- requeue and delete ----------------------------------------------------------------------------------


def test_requeue_by_id_reports_each_result(command, app):
    """One job is requeued, one is in the wrong state, and one does not exist.

    The exit code is that for the missing job.
    """
    app.add.enqueue(1)
    failed = fail(app)
    waiting = app.add.enqueue(2)

    ran = command("requeue", failed, waiting.id, "nowhere", failed)

    assert ran.code == 4
    assert ran.out.splitlines() == [
        f"{failed}  requeued",
        f"{waiting.id}  not requeued: it is already enqueued",
        "nowhere  not found",
    ]


def test_requeue_skips_a_batch_and_states_the_reason(command, app):
    """A batch has no task that could run.

    The output contains this reason for a single batch and for `--all`.
    """
    with app.batch("import") as batch:
        batch.add(app.add, 1)

    one = command("requeue", batch.id)
    every = command("requeue --all --state awaiting")

    assert (1, f"{batch.id}  not requeued: a batch itself does not run; requeue its members\n") == (
        one.code,
        one.out,
    )
    assert "1 skipped: a batch itself does not run, only its members do.\n0 jobs requeued.\n" == every.out


def test_refused_job_sets_exit_code_1(command, app):
    """The exit code is 1 if all jobs exist but some of them could not be changed."""
    job = app.add.enqueue(1)

    ran = command("requeue", job.id, "--json")

    assert ran.code == 1
    why = "it is already enqueued"
    assert ran.json == {"results": [{"id": job.id, "result": "refused", "why": why}]}


def test_requeue_all_selects_failed_jobs(command, app):
    """If no state is given, only failed jobs are requeued. Succeeded and waiting jobs are not."""
    app.add.enqueue(1)
    failed = fail(app)
    later = app.add.schedule(60, 2)

    ran = command("requeue --all --task shop.add")

    assert (ran.code, ran.out) == (0, "1 job requeued.\n")
    assert states([app.jobs.get(failed), later]) == ["enqueued", "scheduled"]


def test_delete_all_includes_every_page(command, app):
    """All matching jobs are deleted and counted, even if they fill more than one page."""
    app.add.enqueue_many([(number,) for number in range(1_100)])
    kept = app.add.using(queue="other").enqueue(0)

    ran = command("delete --all --queue default --expect 1100")

    assert ran.out == "1,100 jobs deleted.\n"
    assert states([kept]) == ["enqueued"]


def test_change_of_over_a_thousand_jobs_requires_expect(command, app):
    """If more jobs match than expected, no job is changed. `--dry-run` shows the number for `--expect`."""
    jobs = app.add.enqueue_many([(number,) for number in range(1_002)])
    words = "delete --all --queue default"

    refused = [command(words), command(words, "--expect", "1001")]

    assert [2, 2] == [ran.code for ran in refused]
    assert "More than 1,000 jobs would be deleted; no job was changed." in refused[0].error
    assert states(jobs[:1]) == ["enqueued"]
    assert command(words, "--dry-run").out == "1,002 jobs would be deleted.\n"
    assert command(words, "--expect", "1002").out == "1,002 jobs deleted.\n"


def test_requeue_of_a_single_deleted_job_requires_expect(command, app):
    """The error about one job uses the singular."""
    app.add.enqueue(1).delete()

    ran = command("requeue --all --state deleted")

    assert "The job has succeeded or been deleted; no job was changed." in ran.error


def test_requeue_of_deleted_jobs_requires_expect(command, app):
    """A requeue of deleted jobs requires their number; a requeue of failed jobs does not."""
    jobs = app.add.enqueue_many([(number,) for number in range(3)])
    command("delete", *(job.id for job in jobs))
    words = "requeue --all --state deleted"

    refused = command(words)
    done = command(words, "--expect", "3")

    assert (2, "") == (refused.code, refused.out)
    assert "--expect 3" in refused.error
    assert done.out == "3 jobs requeued.\n"


def test_delete_all_skips_deleted_jobs(command, app):
    """If the command is run again, it finds no jobs."""
    app.add.enqueue_many([(number,) for number in range(3)])
    command("delete --all --queue default")

    ran = command("delete --all --queue default --json")

    assert ran.json == {"is_dry_run": False, "done": 0, "refused": 0, "missing": 0}


def test_dry_run_changes_nothing(command, app):
    """--dry-run counts the jobs that would be changed."""
    jobs = app.add.enqueue_many([(number,) for number in range(3)])

    ran = command("delete --all --queue default --dry-run")

    assert ran.out == "3 jobs would be deleted.\n"
    assert states(jobs) == ["enqueued"] * 3


def test_concurrently_changed_jobs_are_refused(run, tmp_path):
    """Jobs that another operator requeued between the read and the change are counted as refused."""
    (tmp_path / "rivals.py").write_text(RIVALS)

    ran = run(
        "jobs requeue --all --state deleted --expect 3 --app",
        f"{tmp_path}/rivals.py:fire",
    )

    assert ran.code == 0
    assert ran.out == "1 job requeued.\n2 were not changed: their state has changed.\n"


@pytest.mark.parametrize(
    ("option", "expected"), [("", "500 jobs deleted.\n"), ("--json", '"done": 500')], ids=["text", "json"]
)
def test_outage_during_a_bulk_change_reports_the_changed_jobs(run, tmp_path, option, expected):
    """The jobs on the pages before the outage are counted.

    The exit code is that for an unreachable storage.
    """
    (tmp_path / "leaving.py").write_text(LEAVING)

    ran = run(f"jobs delete --all --state enqueued {option} --app {tmp_path}/leaving.py:fire")

    assert 3 == ran.code
    assert "The database at db.example has gone away." in ran.error
    assert expected in ran.out


@pytest.mark.parametrize("is_json", [False, True])
def test_outage_during_a_change_by_id_reports_each_result(run, tmp_path, is_json):
    """The ids without a result are listed, so that a person can check them later."""
    path = tmp_path / "leaving_too.py"
    path.write_text(LEAVING)
    ids = [f"nobody-{number}" for number in range(501)]

    ran = run("jobs delete", *ids, "--app", f"{path}:fire", *["--json"] * is_json)

    assert 3 == ran.code
    assert "The storage became unreachable after 500 of 501 results" in ran.error
    if is_json:
        answers = ran.json["results"]
        assert [{"id": ids[499], "result": "missing"}, {"id": ids[500], "result": "unknown"}] == answers[499:]
    else:
        lines = ran.out.splitlines()
        assert [f"{ids[499]}  not found", f"{ids[500]}  unknown: check this job again"] == lines[499:]


def test_restore_by_id_reports_each_result(command, app):
    """One job is restored, one is refused with a reason, and one does not exist."""
    app.add.enqueue(0)
    failed, parent = fail(app), app.add.enqueue(1)
    parent.then(app.add, 2)
    app.jobs.delete([failed, parent.id])

    ran = command("restore", failed, parent.id, "nowhere")

    assert ran.code == 4
    assert ran.out.splitlines() == [
        f"{failed}  restored",
        f"{parent.id}  not restored: continuations waited for it, and its delete decided whether they run",
        "nowhere  not found",
    ]
    assert app.jobs.get(failed).reason == "restored from the command line"


def test_refused_restore_has_a_reason_in_json(command, app):
    """The result is "refused", and the reason is a sentence."""
    job = app.add.enqueue(1)

    ran = command("restore", job.id, "--json")

    assert ran.code == 1
    assert ran.json == {
        "results": [{"id": job.id, "result": "refused", "why": "it is enqueued, not deleted"}]
    }


def test_restore_all_selects_only_deleted_jobs(command, app):
    """The filters apply to deleted jobs. Jobs that cannot be restored are counted."""
    jobs = app.add.enqueue_many([(number,) for number in range(3)])
    jobs[0].then(app.add, 9)
    app.jobs.delete([job.id for job in jobs[:2]])

    ran = command("restore --all --task shop.add")

    assert (ran.code, ran.out) == (0, "1 job restored.\n2 were not changed.\n")  # the parent and its child
    assert states(jobs) == ["deleted", "enqueued", "enqueued"]


def test_dry_run_of_restore_counts_jobs_that_stay_deleted(command, app):
    """The dry run prints the same numbers as the command, but does not restore any job."""
    jobs = app.add.enqueue_many([(number,) for number in range(2)])
    jobs[0].then(app.add, 9)
    app.jobs.delete([job.id for job in jobs])
    words = "restore --all --task shop.add --dry-run"

    printed, as_json = command(words), command(f"{words} --json")

    assert ["deleted", "deleted"] == states(jobs)
    assert {"is_dry_run": True, "done": 1, "refused": 2, "missing": 0} == as_json.json
    assert "1 job would be restored.\n2 would not be changed.\n" == printed.out


def test_refusal_during_a_bulk_change_reports_the_changed_jobs(run, tmp_path):
    """The jobs changed before the refusal are counted.

    A refusal is not an outage, so the exit code differs.
    """
    (tmp_path / "full.py").write_text(LEAVING.replace("StorageUnavailable", "StorageError"))

    ran = run("jobs delete --all --state enqueued --app", f"{tmp_path}/full.py:fire")

    assert (1, "500 jobs deleted.\n") == (ran.code, ran.out)


def test_until_selects_earlier_jobs(command, app):
    job = app.add.enqueue(1)

    before = command("delete --all --until 1h")
    after = command("delete --all --until 2999-01-01")

    assert (before.out, after.out) == ("0 jobs deleted.\n", "1 job deleted.\n")
    assert states([job]) == ["deleted"]


def test_terminal_shows_the_progress_of_a_long_change(app, monkeypatch):
    """The last line of the terminal shows the number of jobs after each page, and is cleared at the end."""
    app.add.enqueue_many([(number,) for number in range(1_100)])
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    words = "jobs delete --all --queue default --expect 1100"
    code = main([*words.split(), "--storage", app.storage.url])

    assert code == 0
    assert terminal.getvalue() == ("\rdeleted: 500\x1b[K\rdeleted: 1,000\x1b[K\rdeleted: 1,100\x1b[K\r\x1b[K")


def test_reason_of_a_deleted_job_names_the_command_line(command, app):
    """The history of the job states that it was deleted from the command line."""
    job = app.add.enqueue(1)

    command("delete", job.id)

    assert job.refresh().reason == "deleted from the command line"


def test_change_of_a_job_has_an_audit_entry(command, app, monkeypatch):
    """The audit entry equals that of the dashboard's action, but contains the name of the shell's user.

    If a reason is given, it is also in the job's history.
    """
    monkeypatch.setenv("LOGNAME", "ada")
    one, two = app.add.enqueue(1), app.add.enqueue(2)

    command("move", one.id, "--to-queue", "vip", "--reason", "the buyer has called")
    command("delete --all --queue vip")
    # deleting a deleted job is not an action, so it has no entry
    command("delete", one.id)
    command("delete --all --task add --dry-run")

    delete, move = app.audit.list()
    assert ("jobs.move", one.id, "ada", "cli") == (move.action, move.target, move.by, move.origin)
    counts = {"count": 1, "skipped": 0, "missing": 0}
    assert {**counts, "ids": [one.id], "reason": "the buyer has called", "queue": "vip"} == move.detail
    assert ("jobs.delete", "1 job", "ada", "cli") == (delete.action, delete.target, delete.by, delete.origin)
    assert {**counts, "where": {"queue": "vip"}} == delete.detail
    assert any("the buyer has called" in (entry.reason or "") for entry in one.history())
    assert State.ENQUEUED is two.refresh().state


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("requeue", "needs job ids or --all"),
        ("requeue --all", None),
        ("delete --all", "--all needs a filter"),
        ("delete --all x", "accepts ids or --all, not both"),
        ("delete x --state failed", "accepts filters, --dry-run and --expect only with --all"),
        ("restore --all", "--all needs a filter"),
        ("restore x --state deleted", "accepts filters, --dry-run and --expect only with --all"),
        ("restore --all --state failed", "accepts only deleted jobs, got --state failed"),
        ("delete x --dry-run", "accepts filters, --dry-run and --expect only with --all"),
    ],
)
def test_bulk_change_without_ids_or_filter_is_a_usage_error(command, words, message):
    """Passing both ids and a filter is a usage error too. `requeue --all` alone selects the failed jobs."""
    ran = command(words)

    assert ran.code == (2 if message else 0)
    assert message is None or message in ran.error


def test_move_by_id_reports_each_result(command, app):
    """Waiting jobs are moved, and a running job is refused with a reason.

    The exit code is that for the unknown job.
    """
    second = app.add.enqueue(1)
    claim(app, begin_session(app))
    first = app.add.enqueue(2)

    ran = command("move --to-queue bulk --to-priority -3", first.id, second.id, "nowhere")

    assert ran.code == 4
    why = "it is processing, so a server already has it; only waiting jobs can be moved"
    assert ran.out.splitlines() == [
        f"{first.id}  moved", f"{second.id}  not moved: {why}", "nowhere  not found"
    ]  # fmt: skip
    assert ("bulk", -3) == (first.refresh().queue, first.priority)
    assert first.history()[-1].reason.endswith(": moved from the command line")


def test_move_all_moves_matching_waiting_jobs(command, app):
    """A dry run only counts the jobs. Ended jobs stay in their queue."""
    app.add.enqueue(0)
    failed = fail(app)
    jobs = app.add.enqueue_many([(1,), (2,)])

    dry = command("move --all --queue default --to-queue bulk --dry-run")
    ran = command("move --all --queue default --to-queue bulk")

    assert ("2 jobs would be moved.\n", "2 jobs moved.\n") == (dry.out, ran.out)
    assert ["bulk", "bulk", "default"] == [one.refresh().queue for one in (*jobs, app.jobs.get(failed))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("move x", "firelock jobs move needs a target."),
        ("move x --to-priority 200", "must be an integer from -100 to 100, got '200'"),
        ("move x --to-priority high", "must be an integer from -100 to 100, got 'high'"),
        ("move x --to-queue 'A b'", "Queue name must be 1 to 64 characters"),
        ("move --all --to-queue bulk", "--all needs a filter"),
    ],
)
def test_move_without_required_options_is_a_usage_error(command, words, message):
    """The usage error names the missing or wrong option."""
    ran = command(*shlex.split(words))

    assert ran.code == 2
    assert message in ran.error


def test_control_characters_of_a_job_are_escaped(command, app):
    """Control sequences, bidi marks and line ends in job data are always written as escape sequences."""
    hostile = "\x1b[2J \u202egpj.exe \x07 [red]no[/red] \r\n\u2028 \x9b"
    job = app.add.enqueue(1, hostile)
    app.storage.append_logs({job.id: [LogLine(0, app.storage.clock(), "info", hostile)]}, {})
    fail(app, message=hostile, traceback=hostile)

    shown = command("show", job.id).out + command("list").out

    assert [character for character in shown if not character.isprintable() and character != "\n"] == []
    assert "\\x1b[2J \\u202egpj.exe \\x07 [red]no[/red]" in shown
