"""The pages Activity and System: operations, the audit, and the state of the installation."""

from __future__ import annotations

import html
import json
import re

import pytest

from firelock import State
from firelock.storage import JobFilter
from firelock_dashboard import Dashboard
from firelock_dashboard.security.redaction import MASK
from tests.dashboard.browser import Browser
from tests.dashboard.flows import claim, end, remember
from tests.dashboard.hostile_texts import assert_literal
from tests.dashboard.worker import Worker

JOB, OTHER = "01a21072-9d46-7c87-a484-8087cf5d557e", "01a21072-9d46-7c87-a484-8087cf5d557f"


CAME = re.compile(r"\d+ (?:succeeded|failed again|not ended yet|deleted)")


@pytest.fixture
def jobs(fire):
    @fire.task(name="shop.send", queue="mail")
    def send(number: int) -> None: ...

    return send.enqueue_many([(number,) for number in range(6)])


def test_empty_activity_page_explains_operations(client):
    """An empty page explains what would be listed."""
    page = client.get("/activity").text

    assert "No operations yet" in page
    assert "No actions yet" in page


def test_operation_row_shows_filter_and_result(fire, jobs):
    """The row of an operation shows its verb, filter, author and progress.

    A read-only dashboard does not run the operation.
    """
    client = Browser(Dashboard(fire, read_only=True))
    operation = fire.operations.start("delete", JobFilter(queue="mail", state=State.ENQUEUED), by="ada")

    running = client.part("/activity", "operations").text
    fire.operations.run(operation.id)
    done = client.part("/activity", "operations").text

    assert "ada" in running
    assert "mail" in running
    assert "<progress" in running
    assert "<progress" not in done
    assert "6 changed" in done
    client.close()


def test_requeue_row_counts_outcomes_of_its_jobs(fire, jobs, dashboard, client):
    """The row counts the jobs that succeeded, failed again or have not ended.

    The numbers are final when all jobs have ended.
    """
    worker = Worker(fire)
    for _ in jobs:
        worker.fail(worker.claim())
    operation = fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")
    fire.operations.run(operation.id)
    for ended in (worker.succeed, worker.succeed, worker.fail):
        ended(worker.claim())

    on_the_way = client.part("/activity", "operations").text
    for _ in range(3):
        worker.succeed(worker.claim())
    dashboard.watch.invalidate()
    at_the_end = client.part("/activity", "operations").text
    details = client.get(f"/api/operations/{operation.id}").json()

    assert ["2 succeeded", "1 failed again", "3 not ended yet"] == CAME.findall(on_the_way)
    assert ["5 succeeded", "1 failed again"] == CAME.findall(at_the_end)
    assert {"checked": 6, "by_state": {"succeeded": 5, "failed": 1}, "missing": 0} == details["outcome"]


def test_operation_is_cancelled(client, fire, jobs):
    """The button ends the operation, and the audit records who cancelled it."""
    operation = fire.operations.start("delete", JobFilter(queue="mail"), by="ada")

    answer = client.post("/activity/cancel", {"operation": operation.id})

    assert 303 == answer.status
    assert not fire.operations.get(operation.id).is_running
    assert "operation.cancel" == fire.audit.list().entries[0].action
    assert 404 == client.post("/activity/cancel", {"operation": "none"}).status


def test_audit_is_paged(client, fire):
    """A page has fifty entries, newest first; the error about an invalid cursor names the field."""
    for number in range(60):
        fire.audit.record("queue.pause", f"queue-{number}", by="ada")

    first = client.get("/activity").text
    cursor = first.split("cursor=")[1].split('"')[0]
    second = client.get(f"/activity?cursor={cursor}").text

    assert "queue-59" in first
    assert "queue-9<" not in first
    assert "queue-9<" in second
    assert 400 == client.get("/activity?cursor=nonsense").status


def test_system_page_shows_storage_settings_and_plugins(client, fire, monkeypatch):
    """The page shows the storage, each setting with its source, and the plugins; a switch is "on" or "off".

    The round trip is measured by reading one record, because not every storage needs a request to read its
    clock.
    """
    monkeypatch.setenv("FIRELOCK_POLL", "1")
    monkeypatch.setenv("FIRELOCK_LOG_FAILURES", "yes")

    page = client.get("/system").text
    row = page.partition(">log_failures<")[2].partition("</tr>")[0]

    expected = ("session_timeout", "register_storages", "time to read a record", fire.storage.url)
    assert [part for part in expected if part not in page] == []
    assert "environment" in page.partition(">poll<")[2].partition("</tr>")[0]
    assert ("on", "on", "environment") == tuple(re.findall(r">(on|off|environment)<", row))


def test_support_bundle_contains_no_job_data(client, fire, jobs):
    """The support bundle is a JSON download without ids or arguments of jobs."""
    answer = client.get("/system/bundle")

    assert "attachment" in answer.header("content-disposition")
    bundle = answer.json()
    assert 6 == bundle["jobs"]["enqueued"]
    assert jobs[0].id not in answer.text
    assert "findings" in bundle


# ---- entries in words ------------------------------------------------------------------------------------


def details(page):
    """Return the texts of each entry's target and detail, newest first."""
    table = page.partition('id="region-audit"')[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)[3:] for row in table.split("<tr id=")[1:]]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in rows]


def test_audit_shows_limit_settings_before_and_after_a_change(fire, client):
    """The settings are in words, not in microseconds."""
    fire.limits.set("openai", concurrent=3)
    fire.limits.set("openai", concurrent=6, rate=90, per=60)

    newest = details(client.get("/activity").text)[0]

    assert ["openai", "3 at once → 6 at once, 90 per 60 s"] == newest


def test_audit_shows_a_signal_answer_only_with_view_args(fire, client, jobs):
    """The entry contains the redacted answer and the task of its job.

    Visitors who may not see arguments see only that the signal was answered; this also applies to the API.
    """
    (job,) = claim(fire, limit=1)
    remember(fire, job, "signal", "manager", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal manager", gives_back=True)
    value = '{"approved": true, "note": "ok by phone", "password": "hunter2", "paid": false}'
    client.act("/jobs/signal", {"one": job.id, "signal": "manager", "value": value})
    dashboard = Dashboard(fire, auth=lambda request: {"read"})
    reader = Browser(dashboard)

    page, hidden = (one.get("/activity").text for one in (client, reader))
    api, hidden_api = (one.get("/api/audit").json()["entries"][0]["detail"] for one in (client, reader))

    expected = f"signal manager: approved, note: ok by phone, password: {MASK}, not paid"
    assert [f"send {job.id[-8:]}", expected] == details(page)[0]
    assert [f"/jobs/{job.id}"] == targets(page)
    assert "signal manager" == details(hidden)[0][1]
    assert ("answer" in api, "answer" in hidden_api) == (True, False)
    assert "hunter2" not in page + json.dumps(api)
    reader.close()


def test_audit_truncates_a_long_signal_answer(fire, client, jobs):
    """A long answer is truncated, so that a page of entries stays small."""
    (job,) = claim(fire, limit=1)
    remember(fire, job, "signal", "manager", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal manager", gives_back=True)
    client.act("/jobs/signal", {"one": job.id, "signal": "manager", "value": json.dumps("x" * 100_000)})

    assert len(details(client.get("/activity").text)[0][1]) < 250
    assert len(fire.audit.list().entries[0].detail["answer"]) < 600


def test_requeue_whose_jobs_failed_again_is_not_green(fire, client, jobs):
    """The operation has ended, but its jobs did not succeed; the row names the cause."""
    worker = Worker(fire)
    for _ in jobs:
        worker.fail(worker.claim())
    operation = fire.operations.start("requeue", JobFilter(state=State.FAILED, fingerprint="f1"), by="ada")
    fire.operations.run(operation.id)
    for _ in jobs:
        worker.fail(worker.claim())

    page = client.part("/activity", "operations").text
    badge = re.search(r'badge state-(\w+)">(?:(?!</span>).)*Done', page, re.DOTALL)

    assert "6 failed again" in page
    assert "failed" == badge[1]
    assert '<span class="muted">cause</span> <a class="clip" href="/failures/f1">TimeoutError</a>' in page


def action_texts(page):
    """Return the text of each entry's action, newest first."""
    table = page.partition('id="region-audit"')[2].partition("</table>")[0]
    found = re.findall(r'<td data-label="Action"><span[^>]*>(.*?)</span>', table)
    return [html.unescape(one) for one in found]


def test_audit_shows_actions_as_verbs_and_jobs_by_task(fire, client, jobs):
    """A job is named once, by its task, and an operation by the end of its id; zero counts are left out."""

    @fire.task(name="shop.load")
    def load() -> None: ...

    job = jobs[0]
    with fire.batch("import") as batch:
        batch.add(load)
    fire.audit.record("jobs.requeue", f"batch {batch.id}", by="ada")
    fire.audit.record("operation.cancel", "9f" * 20, by="ada")
    fire.audit.record("plugin.own", "thing", by="ada")
    client.act("/jobs/delete", {"one": job.id})

    page = client.get("/activity").text

    assert ["Deleted", "plugin.own", "Cancelled operation", "Requeued"] == action_texts(page)
    assert [
        [f"send {job.id[-8:]}", ""], ["thing", ""], ["9f9f9f9f", ""], [f"import {batch.id[-8:]}", ""],
    ] == details(page)  # fmt: skip
    assert f"/batches/{batch.id}" in targets(page)
    assert 'title="operation.cancel"' in page


def test_delete_of_running_jobs_is_shown_as_a_stop(fire, client, jobs):
    """If all deleted jobs were running, the action is called a stop; if some were, their number is shown."""
    worker = Worker(fire)
    running = [worker.claim().id for _ in range(2)]
    waiting = next(job.id for job in jobs if job.id not in running)

    client.act("/jobs/delete", {"one": running[0]})
    client.act("/jobs/delete", {"id": [running[1], waiting]})

    page = client.get("/activity").text
    assert ["Deleted", "Stopped and deleted"] == action_texts(page)
    assert "stopped 1" in details(page)[0][1]
    assert "" == details(page)[1][1]


def test_system_page_shows_findings_in_words(fire, client, jobs):
    """The codes of findings are only for programs."""
    page = client.part("/system", "findings").text
    text = re.sub(r"<[^>]+>", " ", page)

    assert "no_server" in page
    assert "no_server" not in text


def test_every_action_of_the_dashboard_and_the_command_line_has_a_verb(client, fire):
    """An action without a verb would be shown by its stored name, which is meant for programs."""
    actions = [
        *(f"jobs.{verb}" for verb in ("requeue", "delete", "restore", "move", "copy", "reschedule")),
        *(f"job.{verb}" for verb in ("requeue", "delete", "restore", "copy")),
        *(f"operation.{verb}" for verb in ("requeue", "delete", "move", "cancel")),
        *(f"server.{verb}" for verb in ("quiet", "resume", "stop", "end_process")),
        *(f"queue.{verb}" for verb in ("pause", "resume")),
        *(f"limit.{verb}" for verb in ("set", "reset", "pause", "resume")),
        *(f"cause.{verb}" for verb in ("mute", "unmute")),
        *(
            f"recurring.{verb}"
            for verb in ("create", "edit", "pause", "resume", "remove", "reset", "trigger")
        ),
        "signal.send", "task.run",
    ]  # fmt: skip
    for action in actions:
        fire.audit.record(action, "x", by="ada")

    assert [] == [what for what in action_texts(client.get("/activity").text) if "." in what]


# ---- links ------------------------------------------------------------------------------------------------


def targets(page):
    """Return the URLs in the audit's table, in order."""
    table = page.partition('id="region-audit"')[2]
    return [
        html.unescape(address) for address in re.findall(r'href="([^"]+)"', table.partition("</table>")[0])
    ]


@pytest.mark.parametrize(
    ("entry", "addresses"),
    [
        (("queue.pause", "mail", {"note": "why"}), ["/queues/mail"]),
        (("recurring.trigger", "nightly", {"job": JOB}), ["/recurring/view?id=nightly", f"/jobs/{JOB}"]),
        (("recurring.remove", "nightly", None), []),
        (("server.quiet", "web-1", {"server_id": "s1"}), ["/servers#server-s1"]),
        (("server.stop", "s1", None), ["/servers#server-s1"]),
        (("task.run", "shop.send", {"job": JOB}), ["/tasks/view?name=shop.send", f"/jobs/{JOB}"]),
        (("operation.cancel", "o1", None), ["/activity#operation-o1"]),
        (("jobs.requeue", JOB, {"count": 1, "ids": [JOB]}), [f"/jobs/{JOB}"]),
        (("jobs.delete", "2 jobs", {"ids": [JOB, OTHER]}), [f"/jobs/{JOB}", f"/jobs/{OTHER}"]),
        (
            (
                "jobs.delete",
                "all matching jobs",
                {"operation": "o1", "filter": {"state": "failed", "tag": "eu"}},
            ),
            ["/activity#operation-o1", "/jobs?state=failed&tag=eu"],
        ),
        (("jobs.requeue", "TimeoutError (f00)", {"fingerprint": "f00"}), ["/failures/f00"]),
        (("limit.pause", "customer:12", None), ["/limits/key?key=customer%3A12"]),
        (("something.else", JOB, {"note": "free"}), []),
    ],
)  # fmt: skip
def test_audit_targets_are_links(client, fire, entry, addresses):
    """Jobs, queues, recurring jobs, servers, tasks, operations and causes are links.

    Removed objects and unknown actions are plain text.
    """
    action, target, detail = entry
    fire.audit.record(action, target, by="ada", detail=detail)

    page = client.get("/activity").text

    assert addresses == targets(page)


def test_operation_filter_values_are_links(client, fire):
    """The row links to the queue, task, server, recurring job, parent and cause in the filter."""
    where = JobFilter(
        queue="mail", task="shop.send", server="web-1", recurring_id="nightly", parent_id=JOB,
        fingerprint="f00", state=State.FAILED, tag="eu",
    )  # fmt: skip
    fire.operations.start("delete", where, by="ada")

    page = html.unescape(client.part("/activity", "operations").text)

    for address in (
        "/queues/mail", "/tasks/view?name=shop.send", "/servers", "/recurring/view?id=nightly",
        f"/jobs/{JOB}", "/failures/f00", "/jobs?state=failed", "/jobs?tag=eu",
    ):  # fmt: skip
        assert f'href="{address}"' in page


@pytest.mark.parametrize(
    "action", ["queue.pause", "server.stop", "recurring.edit", "jobs.delete", "task.run"]
)
def test_links_of_hostile_targets_stay_in_the_dashboard(client, fire, hostile, action):
    """Whatever a target or detail contains, its link never leads out of the dashboard."""
    fire.audit.record(action, hostile, by="ada", detail={"job": hostile, "ids": [hostile], "filter": hostile})

    page = client.get("/activity").text

    assert_literal(page)
    assert all(re.match(r"/(queues|servers|recurring|jobs|tasks)[/?#]", one) for one in targets(page))
