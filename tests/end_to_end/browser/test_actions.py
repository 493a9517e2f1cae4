"""Every action and its effect: with a click and its toast, and with the plain form and its banner."""

from __future__ import annotations

import re

import attrs
import pytest
from playwright.sync_api import expect

from firelock import State
from firelock.storage import JobFilter
from firelock.testing import eventually
from firelock_dashboard.app import TABLE
from tests.dashboard import flows
from tests.dashboard.worker import Worker
from tests.end_to_end.browser.visitors import Visitor

ACTIONS = {route.path for route in TABLE if route.method == "POST" and not route.path.startswith("/api/")}
acted = set()  # the paths to which tests declare that they post


def acts(*paths):
    """Declare that the test posts to these paths, both with JavaScript and with the plain form.

    `visitor` checks this.
    """

    def marked(test):
        test.acts = paths
        acted.update(paths)
        return test

    return marked


@pytest.fixture(params=[True, False], ids=["script", "form"])
def visitor(request, served, open_context):
    """A visitor with JavaScript, and one without."""
    context = open_context(served, java_script_enabled=request.param)
    visitor = Visitor(context.new_page(), has_script=request.param)
    yield visitor
    assert set(request.function.acts) <= visitor.posted


def test_every_action_is_tested_here():
    """Every action in the table is tested in a browser, with and without JavaScript."""
    assert ACTIONS == acted


def states(fire, *ids):
    return [fire.jobs.get(one).state for one in ids]


def one_in(fire, state):
    """Return the newest job in this state."""
    return next(iter(fire.jobs.find(state=state, limit=1)))


def last_act(fire):
    """Return the action and the author of the newest audit entry."""
    entry = next(iter(fire.audit.list(limit=1)))
    return entry.action, entry.by


def row_of(page, job):
    return page.locator(f"tr#job-{job.id}")


# ---- one job ---------------------------------------------------------------------------------------------


@acts("/jobs/requeue")
def test_failed_job_is_requeued(visitor, stocked):
    """The button is on the job's own page."""
    job = one_in(stocked, State.FAILED)

    visitor.go(f"/jobs/{job.id}").press("Requeue").shows_result("1 job requeued")

    assert State.ENQUEUED == job.refresh().state
    assert ("jobs.requeue", "local") == last_act(stocked)
    expect(visitor.page.locator("#region-head .badge")).to_have_text("Enqueued")


@acts("/jobs/delete")
def test_job_is_deleted_after_a_confirmation(visitor, stocked):
    """The job's own page requires confirmation."""
    job = one_in(stocked, State.SUCCEEDED)

    visitor.go(f"/jobs/{job.id}").press("Delete").is_sure("Delete this job?", None).shows_result(
        "1 job deleted"
    )

    assert State.DELETED == job.refresh().state


@acts("/jobs/restore")
def test_delete_can_be_undone(visitor, stocked):
    """The undo button is next to the message and, later, on the job's page."""
    job = one_in(stocked, State.FAILED)
    place = visitor.page.locator(".toast" if visitor.has_script else "main > .banner")

    visitor.go(f"/jobs/{job.id}").press("Delete").is_sure("You can restore it afterwards.", None)
    visitor.press("Undo", within=place).shows_result("1 job restored")
    assert State.FAILED == job.refresh().state
    job.delete()
    visitor.go(f"/jobs/{job.id}").press("Restore").shows_result("1 job restored")

    assert State.FAILED == job.refresh().state
    assert ("jobs.restore", "local") == last_act(stocked)


@pytest.mark.parametrize("visitor", [True], ids=["script"], indirect=True)
@acts("/jobs/delete")
def test_running_job_is_kept_or_stopped(visitor, stocked):
    """The labels of the two buttons must not both sound like "cancel"."""
    job = stocked.jobs.get(Worker(stocked, timeout=3_600.0).claim().id)
    dialog = visitor.page.locator("dialog[open]")

    visitor.go(f"/jobs/{job.id}").press("Stop").press("Keep running", within=dialog)
    kept = job.refresh().state
    visitor.press("Stop").press("Stop and delete", within=dialog).shows_result("1 job deleted")

    assert (State.PROCESSING, State.DELETED) == (kept, job.refresh().state)


@acts("/jobs/copy")
def test_job_is_copied(visitor, stocked):
    """The copy is a new job, and the message links to it."""
    job = one_in(stocked, State.FAILED)

    visitor.go(f"/jobs/{job.id}").press("Duplicate").shows_result("1 copy enqueued")

    visitor.page.get_by_role("link", name="Show", exact=True).first.click()
    expect(visitor.page.locator("#region-head .badge")).to_have_text("Enqueued")
    assert job.id not in visitor.page.url


@acts("/jobs/reschedule")
def test_scheduled_job_is_rescheduled(visitor, stocked):
    """The visitor types a duration or a time."""
    job = next(one for one in stocked.jobs.find(state=State.SCHEDULED) if one.task.endswith("add"))
    due_at = job.next_due_at

    page = visitor.go(f"/jobs/{job.id}").page
    page.get_by_role("link", name="Reschedule…").click()
    form = page.locator("form:has([name=when]):visible")
    form.get_by_label("Run in, or at").fill("3d")
    visitor.press("Reschedule", form).shows_result("1 job rescheduled")

    assert (job.refresh().next_due_at - due_at).days in {2, 3}


@acts("/jobs/move")
def test_waiting_job_is_moved(visitor, stocked):
    """The job's page has a field for the queue, and the job keeps its id."""
    job = one_in(stocked, State.ENQUEUED)

    page = visitor.go(f"/jobs/{job.id}").page
    page.get_by_role("link", name="Move…").click()
    form = page.locator("form:has([name=to_queue]):visible")
    form.get_by_label("Queue").fill("elsewhere")
    visitor.press("Move", form).shows_result("1 job moved")

    assert "elsewhere" == job.refresh().queue


@acts("/jobs/requeue")
def test_menu_of_a_row_contains_actions(visitor, stocked):
    """The action is in the menu of the row."""
    job = one_in(stocked, State.FAILED)

    visitor.go("/jobs?state=failed")
    menu = visitor.open_menu(row_of(visitor.page, job))
    visitor.press("Requeue", menu).shows_result("1 job requeued")

    assert State.ENQUEUED == job.refresh().state


@pytest.mark.parametrize("visitor", [False], ids=["form"], indirect=True)
@acts()
def test_row_without_javascript_links_to_the_actions(visitor, stocked):
    """The menu is a plain link to the job's page, which has all actions."""
    job = one_in(stocked, State.FAILED)

    head = visitor.open_menu(row_of(visitor.go("/jobs?state=failed").page, job))

    for action in ("Requeue", "Duplicate", "Delete"):
        expect(head.get_by_role("button", name=re.compile(rf"^{action}"))).to_be_visible()


@pytest.mark.parametrize("visitor", [True], ids=["script"], indirect=True)
@acts()
def test_menu_shows_the_current_actions_of_the_job(visitor, stocked):
    """The menu is requested again each time it is opened."""
    job = one_in(stocked, State.FAILED)
    row = row_of(visitor.go("/jobs?state=failed").page, job)
    requeue = visitor.open_menu(row).get_by_role("button", name="Requeue")
    expect(requeue).to_be_visible()

    job.requeue()
    visitor.page.keyboard.press("Escape")
    menu = visitor.open_menu(row)

    expect(menu.get_by_role("button", name="Delete")).to_be_visible()
    expect(requeue).to_have_count(0)


# ---- many jobs -------------------------------------------------------------------------------------------


@acts("/jobs/requeue")
def test_selected_jobs_are_requeued(visitor, stocked):
    """Only the selected jobs change."""
    jobs = list(stocked.jobs.find(state=State.FAILED))

    visitor.go("/jobs?state=failed")
    for job in jobs[:2]:
        row_of(visitor.page, job).locator("input[type=checkbox]").check()
    bar = visitor.page.locator(".bulk:visible")
    if visitor.has_script:
        expect(bar).to_contain_text("2 selected on this page")
    visitor.press("Requeue" if visitor.has_script else "Requeue selected jobs", bar)
    visitor.shows_result("2 jobs requeued")

    ids = [job.id for job in jobs]
    assert [State.ENQUEUED, State.ENQUEUED, State.FAILED] == states(stocked, *ids)


def ask_for_everything(visitor, verb):
    """Select all matching jobs in the list of failed jobs, and request this action for them."""
    visitor.go("/jobs?state=failed")
    if not visitor.has_script:
        visitor.page.get_by_role("link", name=f"{verb} all matching jobs").click()
        return
    visitor.page.get_by_label("Select all on this page").check()
    bar = visitor.page.locator(".bulk:visible")
    visitor.press("Select all 3 matching jobs", bar)
    expect(bar).to_contain_text("All matching jobs selected")
    visitor.press(verb, bar)


def is_done_to_everything(visitor, stocked, verb, state):
    """Assert that an operation applies to the three failed jobs, and is shown until its end."""
    jobs = list(stocked.jobs.find(state=State.FAILED))
    ask_for_everything(visitor, verb)
    expect(visitor.page.locator("main")).to_contain_text("3 jobs match.")
    visitor.press(f"{verb} jobs")

    expect(visitor.page.locator("main > .banner")).to_contain_text("all matching jobs in the background.")
    eventually(lambda: not stocked.operations.resumable())
    if not visitor.has_script:
        visitor.page.reload()
    expect(visitor.page.locator(".operations li").first).to_contain_text("3 changed")
    assert {state} == set(states(stocked, *(job.id for job in jobs)))


@acts("/jobs/all/requeue")
def test_all_matching_jobs_are_requeued(visitor, stocked):
    """A confirmation page shows the number of jobs."""
    is_done_to_everything(visitor, stocked, "Requeue", State.ENQUEUED)


@acts("/jobs/all/delete")
def test_all_matching_jobs_are_deleted(visitor, stocked):
    """A confirmation page shows the number of jobs."""
    is_done_to_everything(visitor, stocked, "Delete", State.DELETED)


@acts("/jobs/all/move")
def test_all_waiting_jobs_are_moved(visitor, stocked):
    """The confirmation page has a field for the queue."""
    page = visitor.go("/jobs/all?verb=move&state=enqueued").page
    page.get_by_label("Queue").fill("elsewhere")
    visitor.press("Move jobs")

    expect(page.locator("main > .banner")).to_contain_text("all matching jobs in the background.")
    eventually(lambda: not stocked.operations.resumable())
    assert {"elsewhere"} == {job.queue for job in stocked.jobs.find(state=State.ENQUEUED)}


@acts("/activity/cancel")
def test_operation_is_cancelled(visitor, stocked):
    """Jobs that the operation has not reached do not change.

    The test locks the operation so that it cannot end first.
    """
    where = JobFilter(state=State.FAILED)
    operation = stocked.operations.start("requeue", where, by="ada")

    with stocked.lock(f"operation:{operation.id}"):
        visitor.go("/activity").press("Cancel").shows_result(
            "Operation cancelled. Jobs that it had not reached stay as they are."
        )

    assert "cancelled" == stocked.operations.get(operation.id).state
    assert 3 == stocked.jobs.counts().by_state[State.FAILED]


@acts("/failures/requeue")
def test_jobs_of_a_failure_cause_are_requeued(visitor, stocked):
    """All jobs with this cause are requeued after a confirmation."""
    visitor.go("/failures").press("Requeue")
    visitor.is_sure("Requeue the 3 jobs that failed with ValueError?", "Requeue")
    visitor.shows_result("Requeuing 3 jobs")

    eventually(lambda: stocked.jobs.counts().by_state.get(State.FAILED, 0) == 0)


@acts("/failures/delete")
def test_jobs_of_a_failure_cause_are_deleted(visitor, stocked):
    """The button is on the page of the cause, and the action requires confirmation."""
    page = visitor.go("/failures").page
    page.locator("td.cause a").click()
    visitor.press("Delete these 3 jobs").is_sure("Delete the 3 jobs that failed with ValueError?", "Delete")
    visitor.shows_result("Deleting 3 jobs")

    eventually(lambda: {State.DELETED: 4}.items() <= stocked.jobs.counts().by_state.items())


@acts("/failures/mute", "/failures/unmute")
def test_failure_cause_is_muted_and_unmuted(visitor, stocked):
    """A cause is muted for a period on its page, and unmuted in the list of muted causes."""
    visitor.go("/failures").page.locator("td.cause a").click()
    visitor.page.locator("form[action$='/failures/mute'] button:not([type=button])").click()
    visitor.page.get_by_text("ValueError muted.").wait_for()
    assert ("cause.mute", "local") == last_act(stocked)

    visitor.go("/failures").press("Unmute").shows_result("Cause unmuted.")
    assert ("cause.unmute", "local") == last_act(stocked)


# ---- queues ----------------------------------------------------------------------------------------------


def queue(fire, name):
    return next(view for view in fire.queues.list() if view.name == name)


@acts("/queues/pause", "/queues/resume")
def test_queue_is_paused_with_a_note_and_resumed(visitor, stocked):
    """The note is shown wherever the queue is shown."""
    page = visitor.go("/queues").page

    page.locator("tr#queue-mail").get_by_text("Pause").first.click()
    page.get_by_label("Note").locator("visible=true").fill("the provider is down")
    visitor.press("Pause", page.locator("dialog[open]") if visitor.has_script else page.locator("main"))
    visitor.shows_result("Queue mail paused")

    assert (True, "the provider is down") == (queue(stocked, "mail").is_paused, queue(stocked, "mail").note)
    visitor.go("/queues")
    expect(page.locator("tr#queue-mail")).to_contain_text("the provider is down")

    visitor.press("Resume", page.locator("tr#queue-mail")).shows_result("Queue mail resumed")
    assert not queue(stocked, "mail").is_paused


@acts("/limits/set", "/limits/reset")
def test_settings_of_a_limit_are_changed_and_reset(visitor, stocked):
    """The page of the name has the form and shows the current settings."""
    page = visitor.go("/limits/key?key=tenant").page

    page.get_by_label("Concurrent jobs", exact=True).fill("3")
    visitor.press("Save").shows_result("Limit tenant changed to 3 at once.")
    assert 3 == stocked.limits.get("tenant").concurrent

    visitor.go("/limits/key?key=tenant").press("Reset to the code's settings").shows_result(
        "Limit tenant reset to the code's settings"
    )
    assert stocked.limits.get("tenant").concurrent is None
    assert ("limit.reset", "local") == last_act(stocked)


@acts("/limits/set")
def test_limit_is_changed_in_its_row_with_enter(visitor, stocked):
    """The form is in the list, so the limit's page does not have to be opened."""
    stocked.limits.set("tenant", concurrent=3)
    page = visitor.go("/limits").page

    page.get_by_label("tenant: concurrent jobs", exact=True).fill("6")
    page.keyboard.press("Enter")

    visitor.shows_result("Limit tenant changed to 6 at once.")
    assert 6 == stocked.limits.get("tenant").concurrent


@acts("/limits/pause", "/limits/resume")
def test_limit_is_paused_with_a_note_and_resumed(visitor, stocked):
    """The note is shown wherever the limit is shown."""
    page = visitor.go("/limits/key?key=tenant:7").page

    page.get_by_text("Pause tenant:7").click()
    page.get_by_label("Note").fill("their mailbox is full")
    visitor.press("Pause").shows_result("Limit tenant:7 paused")

    assert (True, "their mailbox is full") == (
        stocked.limits.get("tenant:7").is_paused,
        stocked.limits.get("tenant:7").note,
    )
    visitor.go("/limits")
    row = page.get_by_role("row").filter(has_text="tenant:7")
    expect(row).to_contain_text("their mailbox is full")

    visitor.press("Resume", row).shows_result("Limit tenant:7 resumed")
    assert not stocked.limits.get("tenant:7").is_paused


@acts("/queues/delete")
def test_queue_is_emptied_after_its_name_was_typed(visitor, stocked):
    """An operation deletes the waiting jobs."""
    page = visitor.go("/queues/mail").page

    page.get_by_label("Type the queue's name").fill("mail")
    visitor.press("Delete waiting jobs").shows_result("Deleting 5 waiting jobs in mail.")

    eventually(lambda: queue(stocked, "mail").enqueued == 0)


# ---- recurring jobs --------------------------------------------------------------------------------------


@acts("/recurring/trigger")
def test_recurring_job_is_run_now(visitor, stocked):
    """The action enqueues a job of the definition, and the message links to it."""
    visitor.go("/recurring/view?id=nightly").press("Run now").shows_result("Run of nightly enqueued.")

    assert 1 == len(stocked.recurring.runs("nightly"))


@acts("/recurring/pause", "/recurring/resume")
def test_recurring_job_is_paused_and_resumed(visitor, stocked):
    """The list of recurring jobs offers both actions."""
    row = visitor.go("/recurring").page.locator("tr", has_text="hand-made")

    visitor.press("Pause", visitor.open_menu(row)).shows_result("hand-made paused")
    assert stocked.recurring.get("hand-made").is_paused
    visitor.go("/recurring")
    visitor.press("Resume", visitor.open_menu(row)).shows_result("hand-made resumed")
    assert not stocked.recurring.get("hand-made").is_paused


@acts("/recurring/edit", "/recurring/reset")
def test_recurring_job_is_edited_and_reset(visitor, stocked):
    """The edit applies until it is reset to the definition in the code."""
    page = visitor.go("/recurring/edit?id=nightly").page

    page.get_by_label("Schedule").fill("30 3 * * *")
    if visitor.has_script:
        expect(page.locator("#preview")).to_contain_text("03:30")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main > .banner").first).to_contain_text("nightly changed.")
    edited = stocked.recurring.get("nightly")
    assert ("EDITED", "30 3 * * *") == (edited.origin.name, edited.schedule.expression)

    page.locator("main details.menu > summary").click()
    visitor.press("Reset to code").is_sure("Discard the edit of nightly", None)
    visitor.shows_result("nightly reset to its definition in code.")
    assert "0 2 * * *" == stocked.recurring.get("nightly").schedule.expression


@acts("/recurring/create", "/recurring/remove")
def test_recurring_job_is_created_and_removed(visitor, stocked, guard):
    """Errors are shown next to their fields, and the typed values are kept."""
    guard.allow("status of 400")
    page = visitor.go("/recurring").page
    page.locator("main").get_by_role("link", name="Create").first.click()
    page.get_by_label("Name").fill("weekly-sum")
    page.get_by_label("Task").fill("shop.orders.add")
    page.get_by_label("Schedule").fill("0 99 * * *")
    page.get_by_label("Arguments").fill('{"order": 12}')
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#error-schedule")).to_be_visible()
    expect(page.get_by_label("Arguments")).to_have_value('{"order": 12}')

    page.get_by_label("Schedule").fill("0 9 * * 1")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("main > .banner").first).to_contain_text("weekly-sum created.")
    assert "shop.orders.add" == stocked.recurring.get("weekly-sum").task

    menu = visitor.open_menu(page.locator("tr", has_text="weekly-sum"))
    visitor.press("Remove", menu).is_sure("Remove weekly-sum?", "Remove")
    expect(page.get_by_text("weekly-sum removed").first).to_be_visible()
    assert "weekly-sum" not in [one.id for one in stocked.recurring.list()]


# ---- tasks, servers, settings ----------------------------------------------------------------------------


@acts("/tasks/run")
def test_task_is_run_with_its_form(visitor, stocked, guard):
    """The typed values become the arguments. If one is invalid, an error is shown and the values are kept."""
    guard.allow("status of 400")
    page = visitor.go("/tasks/view?name=shop.orders.add").page
    page.get_by_role("link", name="Run…").click()
    page.locator("[name='args.order']").fill("77")
    page.locator("[name='args.price']").fill("cheap")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("main .banner.bad")).to_contain_text("price")
    expect(page.locator("[name='args.order']")).to_have_value("77")

    page.locator("[name='args.price']").fill("2.25")
    page.get_by_role("button", name="Enqueue").click()

    expect(page.locator("main > .banner")).to_contain_text("Job of shop.orders.add enqueued.")
    job = next(iter(stocked.jobs.find(state=State.ENQUEUED, task="shop.orders.add")))
    assert ("order:77",) == job.tags


def server_states(fire, name):
    """Return the states that the sessions of the server report."""
    return {one.renewal.state for view in fire.servers.list() if view.name == name for one in view.sessions}


@acts("/servers/order")
def test_server_is_made_quiet_and_resumed(visitor, stocked):
    """The server gets the order and does not claim any jobs until it is resumed."""
    with stocked.server(name="web-9", workers=1):
        card = visitor.go("/servers").page.locator("section.server", has_text="web-9")
        visitor.press("Make quiet", card).is_sure("Make the only server, web-9, quiet?", None).shows_result(
            "web-9 stops claiming jobs at its next heartbeat"
        )
        eventually(lambda: server_states(stocked, "web-9") == {"quiet"})

        visitor.go("/servers").press("Resume", card).shows_result("web-9 claims jobs again")
        eventually(lambda: server_states(stocked, "web-9") == {"running"})


@acts("/servers/order")
def test_server_is_stopped(visitor, stocked):
    """The action requires confirmation."""
    with stocked.server(name="web-9", workers=1) as server:
        card = visitor.go("/servers").page.locator("section.server", has_text="web-9")
        visitor.press("Stop", card).is_sure("Stop web-9, the only server? No jobs run", "Stop")
        visitor.shows_result("web-9 stops at its next heartbeat")

        eventually(lambda: not server.is_running)


@acts("/servers/end-process")
def test_worker_process_of_a_job_that_does_not_stop_is_ended(visitor, stocked):
    """The action is on the page of the deleted job. The question names the other jobs of the process."""
    worker = Worker(stocked, timeout=3_600.0)
    job, other = (stocked.jobs.get(worker.claim().id) for _ in range(2))
    job.delete()

    visitor.go(f"/jobs/{job.id}").press("End process now…").is_sure(
        f"1 other job runs in that process: {other.task.rpartition('.')[2]} {other.id[-8:]}. It has",
        "End process",
    )

    visitor.shows_result("at its next heartbeat")
    session = job.record().session
    (record,) = stocked.storage.list_records("server_order", limit=10)
    assert f'"end {session}"' == record.value


@acts("/settings")
def test_settings_are_stored_in_the_browser(visitor):
    """Each setting is stored and takes effect on other pages."""
    page = visitor.go("/settings").page

    for choice in ("Dark", "Compact", "Absolute", "Off"):
        page.get_by_role("radio", name=re.compile(f"^{choice}")).check()
    page.get_by_role("button", name="Save settings").click()

    expect(page.locator("main > .banner")).to_contain_text("Settings saved in this browser.")
    visitor.go("/queues")
    for name, value in (("theme", "dark"), ("density", "compact"), ("times", "absolute")):
        expect(page.locator("html")).to_have_attribute(f"data-{name}", value)
    expect(page.locator("#shortcuts")).to_have_attribute("data-are", "off")


# ---- batches and steps -----------------------------------------------------------------------------------


@acts("/batches/requeue")
def test_failed_members_of_a_batch_are_requeued(visitor, stocked):
    batch = flows.new_batch(stocked)
    flows.add(stocked, batch, queue="flows")
    (job,) = flows.claim(stocked, queues=["flows"])
    flows.end(stocked, job, State.FAILED)

    visitor.go(f"/batches/{batch}").press("Requeue failed members").shows_result(
        "Requeuing the failed members"
    )

    eventually(lambda: stocked.jobs.get(job.id).state is State.ENQUEUED)


@acts("/jobs/signal")
def test_signal_is_sent_to_a_waiting_job(visitor, stocked):
    flows.add(stocked, flows.new_batch(stocked), queue="flows")
    (job,) = flows.claim(stocked, queues=["flows"])
    flows.end(stocked, job, State.AWAITING, waits_for="signal approval", gives_back=True)

    visitor.go(f"/jobs/{job.id}").page.get_by_label("Value", exact=True).fill("true")
    visitor.press("Send answer")
    expect(visitor.page.locator("main > .banner")).to_contain_text("Answer to approval sent.")

    assert State.ENQUEUED == stocked.jobs.get(job.id).state


@acts("/jobs/again")
def test_job_runs_again_from_a_step(visitor, stocked):
    flows.add(stocked, flows.new_batch(stocked), queue="flows")
    (job,) = flows.claim(stocked, queues=["flows"])
    for name in ("charge", "mail"):
        flows.remember(stocked, job, "step", name, "1")
    flows.end(stocked, job, State.FAILED)
    row = (
        visitor.page.locator("#steps-title").locator("xpath=ancestor::section").locator("tr", has_text="mail")
    )

    visitor.go(f"/jobs/{job.id}").press("Run again from here", within=row)
    visitor.is_sure("Run the job again from the step", "Run again from here").shows_result(
        "runs again from the step"
    )

    assert State.ENQUEUED == stocked.jobs.get(job.id).state
    assert ["charge"] == [memo.name for memo in stocked.storage.recall(job.id)]


@acts("/sign-out")
def test_visitor_session_is_ended(visitor, guard):
    """The button is on the settings page, which is also available on a phone."""
    guard.allow("401")
    visitor.go("/settings").press("Sign out")

    expect(visitor.page.locator("main")).to_contain_text("You are signed out")
    assert 401 == visitor.page.goto("/queues").status


@attrs.frozen
class Approval:
    """An answer with two fields."""

    ok: bool
    amount: int


def test_signal_is_sent_with_its_form_fields(stocked, served, open_page, guard):
    """If a field is invalid, an error is shown next to it and the other fields keep their values.

    With valid values, the job continues.
    """
    guard.allow("status of 400")
    stocked.signal("approval", Approval)
    batch = flows.new_batch(stocked, "orders")
    order = flows.add(stocked, batch, "shop.orders.approve", queue="workflows")
    (job,) = flows.claim(stocked, queues=["workflows"])
    flows.remember(stocked, job, "signal", "approval", None, is_done=False)
    flows.end(stocked, job, State.AWAITING, waits_for="signal approval", gives_back=True)
    page = open_page(served, f"/jobs/{order}")

    page.get_by_label("ok").select_option("true")
    page.get_by_label("amount").evaluate("(field) => { field.removeAttribute('pattern'); }")
    page.get_by_label("amount").fill("seven")
    page.get_by_role("button", name="Send answer").click()

    expect(page.locator(".field.is-wrong .error")).to_contain_text("enter a whole number")
    expect(page.get_by_label("amount")).to_have_value("seven")
    expect(page.get_by_label("ok")).to_have_value("true")
    page.get_by_label("amount").fill("7")
    page.get_by_role("button", name="Send answer").click()
    expect(page.locator("main > .banner")).to_contain_text("Answer to approval sent.")
    assert State.ENQUEUED is stocked.jobs.get(order).state
