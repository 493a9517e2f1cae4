"""Actions on jobs: by their ids, on all matching jobs, and the export of lists."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import closing
from datetime import timedelta

import pytest

from firelock import State
from firelock.storage import JobFilter
from firelock_dashboard import Dashboard
from firelock_dashboard.pages.jobs import defused
from tests.dashboard.browser import Browser
from tests.dashboard.worker import Worker


@pytest.fixture
def send(fire):
    """A task."""

    @fire.task(name="shop.mail.send", queue="mail")
    def send(number: int, note: str = "") -> None: ...

    return send


@pytest.fixture
def failed(fire, send):
    """The ids of three failed jobs."""
    jobs = send.enqueue_many([(number, f"note {number}") for number in range(3)])
    worker = Worker(fire)
    for _ in jobs:
        worker.fail(worker.claim())
    return [job.id for job in jobs]


def states(fire, ids):
    return [fire.jobs.get(job_id).state for job_id in ids]


def audited(fire):
    return [(entry.action, entry.target, entry.detail) for entry in fire.audit.list()]


# ---- actions by id ---------------------------------------------------------------------------------------


def test_requeue_of_selected_jobs_reports_counts(client, fire, failed, send):
    """The message contains the numbers of requeued, skipped and missing jobs."""
    waiting = send.enqueue(9).id

    answer = client.act("/jobs/requeue", {"id": [*failed, waiting, "gone"]})

    assert answer.json()["message"] == (
        "3 jobs requeued · 1 skipped (already enqueued or running) · 1 no longer stored"
    )
    assert [State.ENQUEUED] * 3 == states(fire, failed)


def test_action_is_audited_with_count_and_first_ids(client, fire, failed):
    """The job's history also names the person who requeued the job."""
    client.post("/jobs/requeue", {"id": failed})

    action, target, detail = audited(fire)[0]
    assert ("jobs.requeue", "3 jobs") == (action, target)
    assert (3, failed) == (detail["count"], list(detail["ids"]))
    assert "requeued by local" == fire.jobs.get(failed[0]).history()[-1].reason


def test_row_action_ignores_the_selection(client, fire, failed):
    """The menu of a row acts on that row, regardless of the selection."""
    client.post("/jobs/delete", {"one": failed[0], "id": failed})

    assert [State.DELETED, State.FAILED, State.FAILED] == states(fire, failed)
    assert failed[0] == audited(fire)[0][1]


def test_running_job_is_cancelled_by_delete(client, fire, send):
    """The job is asked to stop, and the response does not offer to undo the delete."""
    job = send.enqueue(1)
    Worker(fire).claim()

    reply = client.act("/jobs/delete", {"one": job.id}).json()

    assert ("1 job deleted", None) == (reply["message"], reply["undo"])
    assert fire.jobs.get(job.id).record().is_stopping


def test_delete_is_undone(client, fire, failed, send):
    """The response contains a form that restores the deleted jobs, except those that cannot be restored.

    The audit contains both actions.
    """
    later, done = send.schedule(timedelta(hours=5), 1), send.enqueue(2)
    worker = Worker(fire)
    worker.succeed(worker.claim())
    due_at = later.record().due_at

    reply = client.act("/jobs/delete", {"id": [failed[0], later.id, done.id]}).json()
    back = client.act(reply["undo"]["path"], reply["undo"]["fields"]).json()

    assert {"path": "/jobs/restore", "fields": {"id": [failed[0], later.id]}} == reply["undo"]
    assert ("good", "2 jobs restored") == (back["kind"], back["message"])
    assert [State.FAILED, State.SCHEDULED, State.DELETED] == states(fire, [failed[0], later.id, done.id])
    assert due_at == fire.jobs.get(later.id).record().due_at
    assert ["jobs.restore", "jobs.delete"] == [action for action, _, _ in audited(fire)][:2]
    assert "restored by local" == fire.jobs.get(failed[0]).history()[-1].reason


def test_undo_without_a_script_is_a_form_above_the_page(client, fire, send):
    """The message above the page contains the undo form.

    The form works without a script and is shown only once.
    """
    job = send.enqueue(1)
    client.post("/jobs/delete", {"one": job.id, "back": "/jobs"})

    page, again = client.get("/jobs").text, client.get("/jobs").text

    assert 'action="/jobs/restore"' in page
    assert f'name="id" value="{job.id}"' in page
    assert 'action="/jobs/restore"' not in again


def test_cookie_can_only_produce_an_undo_form(client, send):
    """Whatever a cookie contains, the page offers only an undo action that this dashboard supports."""
    job = send.enqueue(1)
    client.post("/jobs/delete", {"one": job.id, "back": "/jobs"})
    message = ["good", "1 job deleted", None, {"path": "/jobs/all/delete", "fields": {"state": ["failed"]}}]
    client.cookies["firelock_flash"] = json.dumps(message).encode().hex()

    page = client.get("/jobs").text

    assert "1 job deleted" in page
    assert 'action="/jobs/all/delete"' not in page


def test_job_that_cannot_be_restored_shows_the_reason(client, fire, send):
    """For a single job, the message contains the reason.

    For several jobs, it contains the number of jobs that cannot be restored.
    """
    parent, waiting = send.enqueue(1), send.enqueue(2)
    parent.then(send, 3)
    client.post("/jobs/delete", {"id": [parent.id, waiting.id]})

    one = client.act("/jobs/restore", {"one": parent.id})
    several = client.act("/jobs/restore", {"id": [parent.id, waiting.id]}).json()

    assert 400 == one.status
    assert "continuations waited for it" in one.json()["message"]
    assert "1 job restored · 1 cannot be restored" == several["message"]
    assert [State.DELETED, State.ENQUEUED] == states(fire, [parent.id, waiting.id])


def test_scheduled_job_is_rescheduled_by_duration_or_time(client, fire, send):
    """Jobs that are not scheduled are skipped."""
    job = send.schedule(timedelta(hours=5), 1)

    answer = client.act("/jobs/reschedule", {"one": job.id, "when": "15m"})

    assert "1 job rescheduled" == answer.json()["message"]
    soon = fire.jobs.get(job.id).next_due_at
    client.post("/jobs/reschedule", {"one": job.id, "when": "2031-01-01T00:00:00+03:00"})
    assert 2030 == fire.jobs.get(job.id).next_due_at.year
    assert soon < job.next_due_at
    other = send.enqueue(2)
    answer = client.act("/jobs/reschedule", {"one": other.id, "when": "15m"}).json()
    assert ("note", "0 jobs rescheduled · 1 skipped (not scheduled)") == (answer["kind"], answer["message"])


def test_waiting_jobs_are_moved_and_others_report_the_reason(client, fire, send, failed):
    """A selection is moved as one action with one audit entry.

    If a single job cannot be moved, the reason is shown.
    """
    job, later = send.enqueue(1), send.schedule(timedelta(hours=5), 1)

    answer = client.act(
        "/jobs/move", {"id": [job.id, later.id, failed[0]], "to_queue": "bulk", "to_priority": "7"}
    )
    refused = client.act("/jobs/move", {"one": failed[0], "to_queue": "bulk"})

    assert "2 jobs moved · 1 skipped (not waiting, or already there)" == answer.json()["message"]
    assert [("bulk", 7)] * 2 == [(one.refresh().queue, one.priority) for one in (job, later)]
    assert job.history()[-1].reason.startswith(
        "moved from queue mail, priority 0, to queue bulk, priority 7: moved by "
    )
    why = "it is failed; only awaiting, scheduled and enqueued jobs can be moved"
    assert (400, f"The job cannot be moved: {why}.") == (
        refused.status, refused.json()["message"],
    )  # fmt: skip
    (entry,) = fire.audit.list()
    assert ("jobs.move", "bulk", 7) == (entry.action, entry.detail["to_queue"], entry.detail["to_priority"])


def test_move_without_a_script_has_a_form_for_the_target(client, send):
    """The list sends only the ids. The form sends them again with a target, which must not be empty."""
    jobs = [send.enqueue(number) for number in range(2)]
    ids = [job.id for job in jobs]

    listed = client.get("/jobs?state=enqueued").text
    confirmation = client.post("/jobs/move", {"id": ids, "back": "/jobs?state=enqueued"})
    empty = client.post("/jobs/move", {"id": ids, "to_queue": "", "to_priority": ""})
    client.post("/jobs/move", {"id": ids, "to_queue": "bulk", "to_priority": ""})

    assert 'formaction="/jobs/move">Move selected jobs…' in listed
    assert 200 == confirmation.status
    assert "2 jobs are selected." in confirmation.text
    assert all(f'name="id" value="{one}"' in confirmation.text for one in ids)
    assert 'name="back" value="/jobs?state=enqueued"' in confirmation.text
    assert (400, True) == (empty.status, "A move needs a target" in empty.text)
    assert ["bulk"] * 2 == [job.refresh().queue for job in jobs]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "A move needs a target"),
        ({"to_queue": "A b"}, "to_queue"),
        ({"to_priority": "101"}, "to_priority"),
    ],
)
def test_move_without_a_valid_target_is_refused(client, send, target, message):
    """The error names the field, and the job stays in its queue."""
    job = send.enqueue(1)

    answer = client.act("/jobs/move", {"one": job.id, **target})

    assert 400 == answer.status
    assert message in answer.text
    assert "mail" == job.refresh().queue


def test_all_matching_jobs_are_moved_in_the_background(client, fire, send, dashboard):
    """The confirmation page counts only the waiting jobs and has fields for the target."""
    jobs = [send.enqueue(number) for number in range(3)]

    confirmation = client.get("/jobs/all?verb=move&queue=mail").text
    bare = client.get("/jobs/all?verb=move")
    ended = client.get("/jobs/all?verb=move&state=failed")
    client.post("/jobs/all/move?queue=mail", {"to_queue": "bulk"})
    dashboard.runner.join(30)

    assert "<strong>3 jobs match.</strong>" in confirmation
    assert 'name="to_queue"' in confirmation
    assert 'name="to_priority"' in confirmation
    assert (400, 400) == (bare.status, ended.status)
    assert ["bulk"] * 3 == [job.refresh().queue for job in jobs]
    assert ("move", "bulk", 3) == next((one.verb, one.queue, one.changed) for one in fire.operations.list())


@pytest.mark.parametrize("when", ["", "soon", "15", "2031-01-01T00:00:00", "99999999999d", "-5m", "9999999w"])
def test_invalid_time_is_refused(client, send, when):
    """The error describes the expected format."""
    job = send.schedule(timedelta(hours=5), 1)

    answer = client.post("/jobs/reschedule", {"one": job.id, "when": when})

    assert 400 == answer.status
    assert "when" in answer.text


def test_copy_is_enqueued_and_linked(client, fire, failed):
    """The original job does not change."""
    answer = client.act("/jobs/copy", {"one": failed[0]}).json()

    copied = fire.jobs.get(answer["link"].rpartition("/")[2])
    assert "1 copy enqueued" == answer["message"]
    assert (State.ENQUEUED, "shop.mail.send") == (copied.state, copied.task)
    assert [State.FAILED] == states(fire, failed[:1])


@pytest.mark.parametrize("path", ["requeue", "delete", "copy"])
def test_action_without_a_selection_is_refused(client, path):
    """The error describes what to do."""
    answer = client.post(f"/jobs/{path}", {})

    assert 400 == answer.status
    assert "Select at least one" in answer.text


def test_more_ids_than_a_page_are_refused(client):
    """To change more jobs than a page shows, a visitor uses the action on all matching jobs."""
    assert 400 == client.post("/jobs/requeue", {"id": ["x"] * 501}).status
    assert 400 == client.post("/jobs/requeue", {"id": ["x" * 201]}).status


# ---- actions on all matching jobs ------------------------------------------------------------------------


def test_action_on_all_matching_jobs_is_an_operation(client, dashboard, fire, failed, send):
    """The operation shows its progress, has an audit entry, and is in the list of operations."""
    later = send.enqueue(9)

    answer = client.post("/jobs/all/requeue?state=failed", {})
    dashboard.runner.join(20)

    operation = next(iter(fire.operations.list()))
    assert (303, "/activity") == (answer.status, answer.location)
    assert (3, "done") == (operation.changed, operation.state)
    assert [State.ENQUEUED] * 3 == states(fire, failed)
    assert "jobs.requeue" == audited(fire)[0][0]
    assert State.ENQUEUED == later.refresh().state


def test_filter_that_operations_do_not_support_is_refused(client, failed):
    """If the filter were ignored, the action would affect more jobs than intended."""
    for query in ("tag=a&tag=b", "arg=number:1", "state=failed&created=%3E1h"):
        assert 400 == client.post(f"/jobs/all/delete?{query}", {}).status
        assert "data-bulk-all" not in client.get(f"/jobs?{query}").text


def test_delete_without_a_filter_is_refused(client, fire, failed):
    assert 400 == client.post("/jobs/all/delete", {}).status
    assert [State.FAILED] * 3 == states(fire, failed)


@pytest.mark.parametrize(("is_read_only", "state"), [(False, State.ENQUEUED), (True, State.FAILED)])
def test_interrupted_operation_continues_at_the_next_visit(fire, failed, is_read_only, state):
    """Any dashboard that is not read-only continues the operation."""
    fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")
    dashboard = Dashboard(fire, read_only=is_read_only)
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        browser.get("/jobs")
        dashboard.runner.join(20)

    assert [state] * 3 == states(fire, failed)


# ---- exports ---------------------------------------------------------------------------------------------


def test_list_is_exported_as_csv(client, failed):
    """The file has the columns of the list."""
    answer = client.get("/jobs/export?format=csv&state=failed")

    rows = [*csv.DictReader(io.StringIO(answer.text))]
    assert failed == [row["id"] for row in reversed(rows)]
    assert ("TimeoutError", "SMTP timed out") == (rows[0]["error"], rows[0]["message"])
    assert {"number": 2, "note": "note 2"} == json.loads(rows[0]["arguments"])
    assert 'attachment; filename="jobs.csv"' == answer.header("content-disposition")


def test_list_is_exported_as_json_lines_and_ids(client, failed):
    """The file has one job per line."""
    lines = client.get("/jobs/export?format=ndjson").text.splitlines()
    ids = client.get("/jobs/export?format=ids").text.split()

    assert failed == [json.loads(line)["id"] for line in reversed(lines)]
    assert failed == ids[::-1]


def test_export_of_a_selection_contains_only_selected_jobs(client, failed):
    """Selected jobs that no longer exist are left out."""
    answer = client.get(f"/jobs/export?format=ids&selected={failed[1]}&selected=gone")

    assert f"{failed[1]}\n" == answer.text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "=cmd|' /C calc'!A1"])
def test_csv_cells_never_begin_like_a_formula(client, fire, text):
    """A spreadsheet must show such a value as text instead of evaluating it as a formula."""

    @fire.task(name="x.y")
    def run(note: str) -> None: ...

    run.using(queue="default", tags=[text.strip()]).enqueue(text)

    for row in csv.reader(io.StringIO(client.get("/jobs/export").text)):
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize("target", ["export?format=xml", "export?format=csv&created=never", "all?verb=purge"])
def test_invalid_export_is_refused(client, target):
    """The response is an error before any data is sent. An unknown verb causes an error as well."""
    assert 400 == client.get(f"/jobs/{target}").status


# ---- actions on everything, and their numbers ------------------------------------------------------------


@pytest.fixture
def ended(fire, send):
    """Two jobs that have succeeded, and one that waits."""
    worker = Worker(fire)
    send.enqueue_many([(1,), (2,)])
    for _ in range(2):
        worker.succeed(worker.claim())
    send.enqueue(3)
    assert {"succeeded": 2, "enqueued": 1} == {
        str(state): count for state, count in fire.jobs.counts().by_state.items() if count
    }


@pytest.mark.parametrize("query", ["", "queue=mail", "task=shop.mail.send", "since=2020-01-01T00:00:00Z"])
def test_requeue_of_all_jobs_without_a_state_is_refused(fire, client, ended, query):
    """Pages neither offer nor accept a requeue without a state, and the API does not accept it either.

    The error contains no Python names.
    """
    page = client.get(f"/jobs?{query}").text
    refused = [
        client.get(f"/jobs/all?verb=requeue&{query}"), client.post(f"/jobs/all/requeue?{query}"),
        client.post("/api/operations", {"verb": "requeue", **dict([query.split("=")] if query else [])}),
    ]  # fmt: skip

    assert "/jobs/all?verb=requeue" not in page
    assert [400, 400, 400] == [answer.status for answer in refused]
    assert {True} == {"Choose a state" in answer.text for answer in refused}
    assert {False} == {"JobFilter" in answer.text for answer in refused}
    assert [] == list(fire.operations.list())


def test_delete_confirmation_counts_jobs_by_state(client, ended):
    """If no state is selected, the confirmation page lists each affected state with its number of jobs."""
    text = client.get("/jobs/all?verb=delete&task=shop.mail.send").text

    states = re.findall(r'state-icon state-(\w+)"', text.partition("<main")[2].partition("</main>")[0])
    assert ["enqueued", "succeeded"] == states
    assert "3 jobs match." in text
    assert "Type 3 to confirm" in text


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 400), ({"counted": "2"}, 400), ({"typed": "2"}, 400), ({"counted": "2", "typed": "3"}, 400),
        ({"counted": "2", "typed": "x"}, 400), ({"counted": "2", "typed": " 2 "}, 303),
    ],
)  # fmt: skip
def test_ended_jobs_are_affected_after_their_number_is_typed(fire, client, ended, form, status):
    """The typed number must be the number that is shown.

    Otherwise, the confirmation page is shown again with the current number.
    """
    answer = client.post("/jobs/all/requeue?state=succeeded", form)

    assert status == answer.status
    assert (1 if status == 303 else 0) == len(list(fire.operations.list()))
    if status == 400:
        assert "Type 2 to confirm" in answer.text


def test_action_on_over_a_thousand_jobs_requires_their_number(fire, client, send):
    """For more than a thousand waiting jobs, the number must be typed.

    Up to a thousand, a button is sufficient. If many more jobs match when the form is sent, the confirmation
    page is shown again.
    """
    send.enqueue_many([(number,) for number in range(1_000)])
    few = client.get("/jobs/all?verb=delete&state=enqueued").text
    send.enqueue_many([(number,) for number in range(200)])

    without = client.post("/jobs/all/delete?state=enqueued", {})
    by_script = client.act("/jobs/all/delete?state=enqueued")
    long_ago = client.post("/jobs/all/delete?state=enqueued", {"counted": "900", "typed": "900"})
    typed = client.post("/jobs/all/delete?state=enqueued", {"counted": "1200", "typed": "1,200"})

    assert "to confirm" not in few
    assert (400, 400, 303) == (without.status, long_ago.status, typed.status)
    assert "1200" in by_script.json()["message"]
