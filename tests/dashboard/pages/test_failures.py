"""Failures: each cause has one row, one traceback, and operations on all of its jobs."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Firelock, Retry, State
from firelock.control.findings import muted_shares
from firelock.storage import JobFilter
from firelock_dashboard import Dashboard
from firelock_dashboard.stats.causes import HOURS, KEPT, Cause, Causes, Mute, strips
from tests.core.fakes import Worker
from tests.dashboard.browser import Browser
from tests.dashboard.flows import claim, end


@pytest.fixture
def failing(fire):
    """Return a function that creates failed jobs, such as `failing(3, "no answer")`."""

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge(message: str) -> None:
        raise TimeoutError(message)

    @fire.task(name="shop.build", queue="reports", retry=Retry.never())
    def build(message: str) -> None:
        raise KeyError(message)

    worker = Worker(fire)
    tasks = {"charge": charge, "build": build}

    def fail(count, message="no answer", task="charge", **options):
        jobs = [tasks[task].using(**options).enqueue(message) for _ in range(count)]
        worker.run()
        return [job.id for job in jobs]

    return fail


def fingerprint_of(fire, job_id):
    return fire.jobs.get(job_id).error.fingerprint


def actions(fire):
    return [(entry.action, entry.by) for entry in fire.audit.list()]


def test_failed_batches_are_counted_separately_from_failed_jobs(fire, client, failing):
    """The navigation counts a failed batch as a failed job, so the page states the number of such batches."""
    before = client.part("/failures", "rows").text
    task = fire.task(name="shop.pack", retry=Retry.never())(never_packs)
    with fire.batch("import of November") as batch:
        batch.add(task)
    Worker(fire).run()
    client.app.invalidate()

    after = client.part("/failures", "rows").text

    assert "failed batch" not in before
    assert 2 == fire.jobs.counts().by_state[State.FAILED]
    assert "1 failed job has this cause." in after
    assert "The failed count in the navigation includes 1 failed batch." in after
    assert "recorded error" not in after
    assert 'href="/batches?state=failed"' in after


def test_failed_job_without_a_recorded_error_is_counted(fire, client, failing):
    """The job has no cause, so the page counts it separately, even if no other job has failed."""

    @fire.task(name="shop.load")
    def load() -> None: ...

    load.enqueue()
    (job,) = claim(fire)
    end(fire, job, State.FAILED)
    alone = client.part("/failures", "rows").text
    failing(2)
    client.app.invalidate()
    both = client.part("/failures", "rows").text

    assert ">No failed jobs<" not in alone
    assert "1 other failed job has no recorded error, or has just failed." in alone
    assert "2 failed jobs have these causes." in both
    assert "1 other failed job has no recorded error, or has just failed." in both


def never_packs() -> None:
    raise OSError("the printer is on fire")


# ---- the list --------------------------------------------------------------------------------------------


def test_page_without_failures_shows_the_number_of_succeeded_jobs(fire, client):

    @fire.task(name="shop.add")
    def add() -> None: ...

    for _ in range(3):
        add.enqueue()
    Worker(fire).run()

    page = client.get("/failures").text

    assert ">No failed jobs<" in page
    assert "3 stored jobs have succeeded." in page


def test_equal_failures_are_shown_in_one_row(fire, client, failing):
    """The most frequent cause is first, with its number of jobs, its share, and its error."""
    rare = failing(1, "missing", "build")
    often = failing(3)

    page = client.part("/failures", "rows").text

    first, second = page.split('id="cause-')[1:]
    assert (fingerprint_of(fire, often[0]), fingerprint_of(fire, rare[0])) == (
        first.split('"')[0],
        second.split('"')[0],
    )
    assert all(part in first for part in ("TimeoutError", "no answer", "charge", "<span>3</span>", "75 %"))
    assert all(part in second for part in ("KeyError", "missing", "build", "<span>1</span>", "25 %"))
    assert "<span>4 failed jobs have these causes.</span>" in page


def test_shares_add_up(client, failing):
    """The shares add up to 100 %. If one share needs a decimal, all of them have one."""
    failing(23)
    failing(1, "missing", "build")

    page = client.part("/failures", "rows").text
    shares = re.findall(r'<span class="more">([\d.]+)\s%</span>', page)

    assert ["95.8", "4.2"] == shares


def test_requeue_outcome_is_shown_on_the_row_of_its_cause(fire, client, failing, dashboard):
    """The row shows the result of one of the newest operations for an hour.

    The rows of other causes show no result.
    """
    often, _ = failing(3), failing(1, "missing", "build")
    fingerprint = fingerprint_of(fire, often[0])
    client.act("/failures/requeue", {"fingerprint": fingerprint})
    dashboard.runner.join(30)
    on_the_way = client.part("/failures", "rows").text
    Worker(fire).run()
    dashboard.invalidate()

    first, second = client.part("/failures", "rows").text.split('id="cause-')[1:]

    text = re.sub(r"<[^>]+>", "", first)
    assert re.search(r"Requeued\s+(now|\d+\s+s ago)\s+by local: 3 failed again", text)
    assert "Requeued" not in second
    assert "failed again" not in on_the_way


@pytest.mark.parametrize("path", ["/failures", "/"])
def test_fully_succeeded_requeue_is_listed_without_a_cause_row(fire, client, dashboard, path):
    """For an hour, the requeue is listed under the exception class, as no failed job has this cause now."""
    is_down = [True]

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge() -> None:
        if is_down[0]:
            raise TimeoutError

    jobs = [charge.enqueue() for _ in range(2)]
    Worker(fire).run()
    fingerprint = fingerprint_of(fire, jobs[0].id)
    client.get("/failures")
    client.act("/failures/requeue", {"fingerprint": fingerprint})
    dashboard.runner.join(30)
    is_down[0] = False
    Worker(fire).run()
    dashboard.invalidate()

    page = client.part(path, {"/failures": "rows", "/": "places"}[path]).text

    text = re.sub(r"<[^>]+>", "", page.partition("gone-causes")[2])
    assert re.search(r"TimeoutError\s+Requeued\s+(now|\d+\s+s ago)\s+by local: 2 succeeded", text)
    assert f"cause-{fingerprint}" not in page
    assert "gone-causes" not in client.part("/failures?task=shop.none", "rows").text


def test_cause_with_failed_jobs_of_another_task_is_not_reported_as_resolved(fire, client, failing, dashboard):
    """The list of one task has no row for the cause, but the cause still has failed jobs."""
    ids, _ = failing(2), failing(1, "missing", "build")
    client.act("/failures/requeue", {"fingerprint": fingerprint_of(fire, ids[0])})
    dashboard.runner.join(30)
    Worker(fire).run()
    dashboard.invalidate()

    assert "gone-causes" not in client.part("/failures?task=shop.build", "rows").text


def test_overview_shows_the_outcome_of_a_requeue(fire, client, failing, dashboard):
    """The row links to the operation and is next to the button that started it."""
    often, _ = failing(3), failing(1, "missing", "build")
    client.act("/failures/requeue", {"fingerprint": fingerprint_of(fire, often[0])})
    dashboard.runner.join(30)
    Worker(fire).run()
    dashboard.invalidate()
    operation = fire.operations.list().operations[0]

    first, second = client.part("/", "places").text.split('id="overview-cause-')[1:]

    text = re.sub(r"<[^>]+>", "", first)
    assert re.search(r"Requeued\s+(now|\d+\s+s ago)\s+by local: 3 failed again", text)
    assert f"/activity#operation-{operation.id}" in first
    assert "Requeued" not in second


@pytest.mark.parametrize("path", ["/failures", "/"])
def test_requeue_confirmation_names_cause_and_task(client, failing, path):
    """The question is complete without the row: it contains the number of jobs, the error and the task."""
    failing(3)
    failing(1, "missing", "build")

    page = client.get(path).text

    question = (
        "Requeue the 3 jobs that failed with TimeoutError? All of them failed at the same place in the code."
    )
    assert f"{question} The newest one is a charge job." in page
    assert "Requeue the build job that failed with KeyError?" in page


def test_overview_links_to_the_confirmation_for_many_jobs(fire, client, failing, monkeypatch):
    """The form of a button would always be refused, so the overview has a link, like the list of failures."""
    monkeypatch.setattr("firelock_dashboard.pages.overview.MANY", 2)
    jobs = failing(3)

    page = client.part("/", "places").text

    address = f"/jobs/all?verb=requeue&amp;state=failed&amp;fingerprint={fingerprint_of(fire, jobs[0])}"
    assert f'href="{address}"' in page


def test_failures_footer_does_not_count_failed_batches(fire, client):
    """The footer counts only jobs, as the rows do."""

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge() -> None:
        raise TimeoutError

    with fire.batch("import") as batch:
        batch.add(charge)
    Worker(fire).run()
    assert State.FAILED is batch.refresh().state

    assert "<span>1 failed job has this cause.</span>" in client.part("/failures", "rows").text


def test_causes_are_filtered_by_task(client, failing):
    """A banner about a task links to this list.

    Other causes are left out, and a link leads back to all causes.
    """
    failing(1)
    failing(1, "missing", "build")

    page = client.get("/failures?task=shop.build").text
    nothing = client.get("/failures?task=shop.none").text

    assert ("KeyError" in page, "TimeoutError" in page) == (True, False)
    assert 'class="drop" href="/failures"' in page
    assert 'href="/jobs?state=failed&amp;task=shop.none"' in nothing


# ---- first failure, hours and mutes ------------------------------------------------------------------------


def causes_at(fire, later=timedelta(0), **options):
    """Return the causes by exception class after this delay, and the time at that point."""
    now = datetime.fromtimestamp(fire.client.clock.now() / 1_000_000, UTC) + later
    found = Causes(fire, **options).list(fire.jobs.failure_groups(), strips(fire, now), now)
    return {one.type: one for one in found}, now


def causes_list(fire):
    return Causes(fire).list(fire.jobs.failure_groups(), {}, datetime.now(UTC))


def test_cause_keeps_the_time_when_it_was_first_seen(fire, failing):
    """A cause was first seen at the time of its oldest job.

    The time stays the same if its jobs are requeued and fail again, and if the first of them is deleted.
    """
    first, second = failing(2)
    seen, now = causes_at(fire, timedelta(minutes=5))
    first_at = fire.jobs.get(first).ended_at
    fire.jobs.requeue([first, second])
    fire.jobs.delete([first, second])
    failing(1)

    later, _ = causes_at(fire, timedelta(hours=30))

    assert first_at == seen["TimeoutError"].first_at == later["TimeoutError"].first_at
    assert (True, False) == (
        seen["TimeoutError"].is_new(now), later["TimeoutError"].is_new(now + timedelta(hours=30)),
    )  # fmt: skip


def test_cause_chart_has_one_bar_per_hour(fire, failing):
    """Jobs that failed three hours ago are in the fourth bar from the end; a day later they are in no bar."""
    failing(2)
    failing(1, "missing", "build")

    known, _ = causes_at(fire, timedelta(hours=3, minutes=1))
    quiet, _ = causes_at(fire, timedelta(hours=25))

    assert (*[0] * 20, 2, 0, 0, 0) == known["TimeoutError"].hours
    assert (*[0] * 20, 1, 0, 0, 0) == known["KeyError"].hours
    assert (0,) * HOURS == quiet["TimeoutError"].hours


@pytest.mark.parametrize("counts", [(3,), (100, 100, 1)], ids=["few", "more than are examined"])
def test_cause_chart_includes_new_failures(fire, client, dashboard, failing, counts):
    """New failures are included even if the hours were read shortly before for another cause.

    The hours are not read again immediately.
    """
    failing(1, "missing", "build")
    client.get("/failures")
    ids = [job_id for count in counts for job_id in failing(count)]
    dashboard.invalidate()

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text
    rows = client.part("/failures", "rows").text

    expected = f"{sum(counts)} of the failed jobs failed in the last 24 hours"
    assert (True, True) == (expected in page, expected in rows)
    assert "quiet" not in re.findall(r'<span class="muted">(.*?)</span>', page + rows)


def test_cause_chart_counts_a_requeued_job_once(fire, client, dashboard, failing, monkeypatch):
    """Jobs that were requeued and failed again count once, at their last failure."""
    monkeypatch.setattr("firelock_dashboard.stats.watch._WRITTEN_LATE", timedelta())  # avoids a wait of 10 s
    ids = failing(3)
    client.get("/failures")
    client.act("/failures/requeue", {"fingerprint": fingerprint_of(fire, ids[0])})
    dashboard.runner.join(30)
    Worker(fire).run()
    dashboard.invalidate()

    rows = client.part("/failures", "rows").text

    assert "3 of the failed jobs failed in the last 24 hours" in rows


def test_chart_of_an_unlisted_cause_is_shown(fire, client, failing):
    """The cause appeared after the list was last read, but its page already shows its hours."""
    failing(1, "missing", "build")
    client.get("/failures")
    ids = failing(1)

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text

    assert "1 of the failed jobs failed in the last 24 hours." in page
    assert "Last failures, 24 h" in page


def test_read_only_dashboard_stores_no_cause_records(fire, failing):
    """A read-only dashboard shows when a cause was first seen, but writes no records."""
    (first,) = failing(1)
    causes = Causes(fire, is_read_only=True)
    now = datetime.now(UTC)

    seen = [causes.list(fire.jobs.failure_groups(), {}, now)[0].first_at for _ in range(2)]

    assert [fire.jobs.get(first).ended_at] * 2 == seen
    assert [] == fire.storage.list_records("cause")


def test_cause_with_an_unreadable_record_is_shown(fire, failing):
    """The record may be from another version or edited by hand; the cause is shown as if it had no record."""
    (first,) = failing(1)
    for number, text in enumerate(("no JSON", "[]", '{"mute": 7}')):
        fire.storage.put_record("cause", f"other-{number}", text)
    fire.storage.put_record("cause", fingerprint_of(fire, first), '{"first_at": "never"}')

    known, _ = causes_at(fire)

    assert fire.jobs.get(first).ended_at == known["TimeoutError"].first_at


def test_least_recently_seen_causes_are_forgotten_except_muted_ones():
    """The causes that have not been seen for the longest time are forgotten; muted ones are kept.

    At most a thousand causes are remembered.
    """
    with closing(Firelock("memory://")) as fire:
        causes, now = Causes(fire), datetime.now(UTC)
        mute = Mute("ada", now, None, None)
        for number in range(KEPT + 2):
            seen_at = now + timedelta(minutes=number)
            causes.mute(Cause(f"f{number:05}", "E", "", "t", 1, seen_at, now, (), None), mute)
            if number:
                causes.unmute(f"f{number:05}")

        causes.muted(now)

        kept = {record.key for after in ("", "f00600") for record in fire.storage.list_records(
            "cause", after=after, limit=600)}  # fmt: skip
        assert KEPT == len(kept)
        assert {"f00000", f"f{KEPT + 1:05}"} <= kept
        assert {"f00001", "f00002"}.isdisjoint(kept)


def muted_rows(page):
    """Return the ids of the muted rows, and those of the other rows."""
    others, _, muted = page.partition('id="muted"')
    return re.findall(r'id="cause-(\w+)"', muted), re.findall(r'id="cause-(\w+)"', others)


def test_muted_cause_is_listed_separately(fire, client, failing):
    """The separate list shows who muted the cause, the reason, and when the mute ends.

    The audit contains the mute, and the overview no longer shows the cause.
    """
    muted, shown = failing(3)[0], failing(1, "missing", "build")[0]
    muted, shown = fingerprint_of(fire, muted), fingerprint_of(fire, shown)

    answer = client.act("/failures/mute", {"fingerprint": muted, "for": "24h", "note": "bank is down"})

    page = client.part("/failures", "rows").text
    assert "TimeoutError muted." == answer.json()["message"]
    assert ([muted], [shown]) == muted_rows(page)
    assert all(part in page for part in ("Muted by", "bank is down", "until"))
    assert f"overview-cause-{muted}" not in client.get("/").text
    assert f"overview-cause-{shown}" in client.get("/").text
    (entry,) = fire.audit.list()
    assert ("cause.mute", "TimeoutError") == (entry.action, entry.target)
    assert f"Muted by {entry.by}" in page
    assert (muted, "bank is down") == (entry.detail["fingerprint"], entry.detail["note"])


def test_mute_expires_or_is_undone(fire, client, failing):
    """A mute ends when its period ends or when it is undone by hand, which the audit also records."""
    quiet = fingerprint_of(fire, failing(1)[0])
    client.act("/failures/mute", {"fingerprint": quiet, "for": "1h"})
    within, _ = causes_at(fire, timedelta(minutes=59))
    over, _ = causes_at(fire, timedelta(minutes=61))
    assert (True, False) == (bool(within["TimeoutError"].mute), bool(over["TimeoutError"].mute))

    client.act("/failures/unmute", {"fingerprint": quiet})

    assert ([], [quiet]) == muted_rows(client.part("/failures", "rows").text)
    assert ["cause.unmute", "cause.mute"] == [action for action, _ in actions(fire)]
    assert "no longer muted" in client.act("/failures/unmute", {"fingerprint": quiet}).json()["message"]


def test_muted_cause_without_failed_jobs_can_be_unmuted(fire, client, failing):
    """If the cause occurred again, it would still be muted, so it stays in the list of muted causes."""
    ids = failing(1)
    quiet = fingerprint_of(fire, ids[0])
    client.act("/failures/mute", {"fingerprint": quiet, "for": "ever"})
    fire.jobs.delete(ids)
    client.app.invalidate()

    page = client.part("/failures", "rows").text

    assert ([quiet], []) == muted_rows(page)
    assert f"/failures/{quiet}" not in page
    assert "until it is unmuted" in page


def test_cause_page_has_a_mute_form(fire, client, failing):
    """After the cause is muted, the page has a button that unmutes it."""
    quiet = fingerprint_of(fire, failing(1)[0])
    before = client.get(f"/failures/{quiet}").text

    client.post("/failures/mute", {"fingerprint": quiet})
    after = client.get(f"/failures/{quiet}").text

    assert ('action="/failures/mute"' in before, 'action="/failures/unmute"' in before) == (True, False)
    assert ('action="/failures/mute"' in after, 'action="/failures/unmute"' in after) == (False, True)
    assert 400 == client.post("/failures/mute", {"fingerprint": quiet, "for": "soon"}).status


def test_muted_cause_is_not_counted_in_banners(fire, failing, dashboard):
    """Muted failures are subtracted from the task's failure rate.

    If all failures of a task are muted, none of them counts.
    """
    now = datetime.now(UTC)
    muted, shown = failing(3), failing(1, "another bank")
    failing(4, "missing", "build")
    known = {one.fingerprint: one for one in causes_list(fire)}
    dashboard.watch.cause_records.mute(known[fingerprint_of(fire, muted[0])], Mute("ada", now, None, None))

    tasks, at = ("shop.charge", "shop.build", "none"), fire.storage.clock()
    shares = muted_shares(fire.storage, tasks, at)
    fire.jobs.delete(shown)

    assert {"shop.charge": 0.75, "shop.build": 0.0, "none": 0.0} == shares
    assert 1.0 == muted_shares(fire.storage, tasks, at)["shop.charge"]


# ---- one cause -------------------------------------------------------------------------------------------


def test_cause_page_shows_newest_traceback_tasks_and_queues(fire, client, failing):
    """The newest traceback represents all jobs.

    The page also lists the jobs, and the tasks and queues among the newest five hundred.
    """
    ids = failing(2) + failing(1, queue="urgent")

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text

    assert "TimeoutError" in page
    assert "raise TimeoutError(message)" in page
    assert "Requeue these 3 jobs" in page
    assert "Delete these 3 jobs" in page
    assert all(f'id="job-{job_id}"' in page for job_id in ids)
    assert "queue=urgent" in page
    assert "In all of these jobs." in page


def test_jobs_of_a_cause_are_listed_with_arguments(fire, client, failing):
    """The list shows more than ids; a visitor without `view_args` sees no arguments."""
    failing(2)
    job = fire.jobs.find(state=State.FAILED).jobs[0]
    address = f"/failures/{job.error.fingerprint}"
    dashboard = Dashboard(fire, auth=lambda request: {"read"})

    with closing(dashboard), closing(Browser(dashboard)) as reader:
        hidden = reader.get(address).text
    rows = client.get(address).text.partition('id="jobs-title"')[2]

    call = re.search(r'<span class="more mono two-lines">([^<]+)</span>', rows)[1]
    assert "=" in call
    assert call not in hidden


def test_navigation_on_a_cause_page_does_not_search_failed_jobs(client):
    """The page of a cause searches the failed jobs, but the navigation on it does not.

    The navigation is the page's only live region, so it is requested again and again.
    """
    answer = client.get("/failures/0123456789abcdef")

    assert 404 == answer.status
    assert "No failed job has this fingerprint" in answer.text
    assert 200 == client.part("/failures/0123456789abcdef", "nav").status


def test_cause_report_is_markdown(fire, client, failing):
    """The report is Markdown with the error, the number of jobs, tasks, queues and a fenced traceback."""
    ids = failing(2)

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text

    report = page.split('<pre id="report" hidden>')[1].split("</pre>")[0]
    assert report.startswith("### ")
    assert all(
        part in report for part in ("Failed jobs: 2", "`shop.charge` (2)", "`default` (2)", ids[1], "```")
    )


# ---- actions on all jobs of a cause ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        (
            "requeue",
            (
                ("Requeuing 3 jobs that failed with TimeoutError. Their results appear below the cause."),
                State.ENQUEUED,
            ),
        ),
        ("delete", ("Deleting 3 jobs that failed with TimeoutError.", State.DELETED)),
    ],
)
def test_one_operation_acts_on_all_jobs_of_a_cause(client, dashboard, failing, verb, after):
    """The response contains the number of jobs and a link to the operation, and the audit has an entry.

    Jobs with other causes are not changed.
    """
    fire, (message, state) = dashboard.fire, after
    ids, others = failing(3), failing(1, "missing", "build")
    fingerprint = fingerprint_of(fire, ids[0])

    reply = client.act(f"/failures/{verb}", {"fingerprint": fingerprint}).json()
    dashboard.runner.join()

    (operation,) = fire.operations.list().operations
    assert (message, f"/activity#operation-{operation.id}") == (reply["message"], reply["link"])
    assert JobFilter(state=State.FAILED, fingerprint=fingerprint) == attrs.evolve(operation.where, until=None)
    assert {state} == {fire.jobs.get(job_id).state for job_id in ids}
    assert State.FAILED is fire.jobs.get(others[0]).state
    assert [(f"jobs.{verb}", "local")] == actions(fire)


@pytest.mark.parametrize("done_by", ["the dashboard", "another process"])
def test_counts_are_current_after_an_operation_ends(fire, dashboard, client, failing, done_by):
    """The counts include an operation's changes as soon as it has ended, whichever process has run it."""
    failing(3)
    group = fire.jobs.failure_groups()[0]
    dashboard.live.read()
    assert [3] == [one.count for one in dashboard.watch.failure_groups()]

    if done_by == "the dashboard":
        client.act("/failures/delete", {"fingerprint": group.fingerprint})
        dashboard.watch.failure_groups()
        dashboard.runner.join()
    else:
        where = JobFilter(fingerprint=group.fingerprint, state=State.FAILED)
        fire.operations.run(fire.operations.start("delete", where, by="ada").id)
        dashboard.live.read()
        dashboard.live.read()

    assert [] == dashboard.watch.failure_groups()


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_cause_action_without_a_script_requires_confirmation(fire, dashboard, client, failing, verb):
    """The confirmation page shows the number of jobs.

    After the confirmation, the action redirects to the list, because the cause may no longer exist.
    """
    fingerprint = fingerprint_of(fire, failing(2)[0])
    page = client.get(f"/failures/{fingerprint}").text
    back = re.search(rf'action="/failures/{verb}".*?name="back" value="([^"]*)"', page, re.DOTALL)[1]
    form = {"fingerprint": fingerprint, "back": back}

    confirmation = client.post(f"/failures/{verb}", form)
    started = len(fire.operations.list().operations)
    done = client.post(f"/failures/{verb}", {**form, "sure": "1"})
    dashboard.runner.join()

    assert (200, 0) == (confirmation.status, started)
    assert f"{verb.capitalize()} the 2 jobs that failed with TimeoutError?" in confirmation.text
    assert (303, "/failures") == (done.status, done.location)
    assert 1 == len(fire.operations.list().operations)


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_action_on_many_jobs_of_a_cause_requires_their_number(fire, client, failing, verb):
    """Above a thousand jobs, the buttons lead to a page that requires the number.

    A form that bypasses this page is redirected to it.
    """
    failed = [job_id for _ in range(11) for job_id in failing(100)]
    fingerprint = fingerprint_of(fire, failed[0])
    address = f"/jobs/all?verb={verb}&state=failed&fingerprint={fingerprint}"
    form = {"fingerprint": fingerprint, "sure": "1"}

    page = client.get(f"/failures/{fingerprint}").text
    by_form = client.post(f"/failures/{verb}", form)
    by_script = client.act(f"/failures/{verb}", form)

    assert address.replace("&", "&amp;") in page
    assert f'action="/failures/{verb}"' not in page
    assert (303, address) == (by_form.status, by_form.location)
    assert 400 == by_script.status
    assert [] == fire.operations.list().operations
    assert 'name="typed"' in client.get(address).text


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_missing_fingerprint_is_refused(fire, client, verb):
    """The error names the field; an unknown fingerprint starts no operation."""
    missing = client.post(f"/failures/{verb}", {})
    unknown = client.act(f"/failures/{verb}", {"fingerprint": "0123456789abcdef"}).json()

    assert 400 == missing.status
    assert "fingerprint is missing" in missing.text
    assert ("note", "No failed jobs with this cause are left.") == (unknown["kind"], unknown["message"])
    assert [] == fire.operations.list().operations
