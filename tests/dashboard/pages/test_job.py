"""A job's page: call, history, tracebacks, log, result, related jobs, and the reason why it waits."""

from __future__ import annotations

import html
import json
import re
from contextlib import closing
from datetime import timedelta
from urllib.parse import quote

import attrs
import pytest

from firelock import Retry, State
from firelock.model import lifecycle
from firelock.storage import HeldClaim, NewJob, Progress, Renewal, Rollup
from firelock_dashboard import Dashboard
from firelock_dashboard.pages.job import JobView, entries_of, phases_of
from firelock_dashboard.pages.tracebacks import markdown, read_traceback
from firelock_dashboard.security.redaction import MASK
from firelock_dashboard.web.payloads import call_of, literal, pieces, summary, tree
from tests.core import fakes
from tests.dashboard.browser import Browser
from tests.dashboard.hostile_texts import assert_literal
from tests.dashboard.worker import TRACE, Worker, failure, job_in


@pytest.fixture
def send(fire):
    """A task with its own options."""

    @fire.task(name="shop.mail.send", queue="mail", tags=["user:{user_id}"])
    def send(user_id: int, locale: str = "en") -> dict[str, object]: ...

    return send


def seen(answer):
    """Return the text of a page without its markup."""
    text = re.sub(r"<[^>]+>", "", answer.text)
    return html.unescape(re.sub(r"\s+", " ", text))


# ---- the page --------------------------------------------------------------------------------------------


def test_job_is_shown_as_its_call(client, send):
    """The call includes only the options that differ from the task's own."""
    job = send.using(queue="slow", priority=3).enqueue(42, locale="tr")

    text = seen(client.get(f"/jobs/{job.id}"))

    assert 'send.using(queue="slow", priority=3).enqueue(user_id=42, locale="tr")' in text
    assert job.id in text
    assert "user:42" in text


def test_job_metadata_is_shown_and_masked(client, fire, send):
    """The metadata is among the facts, with sensitive names masked.

    Visitors who may not see arguments see none of it.
    """
    job = send.using(meta={"tenant": "acme", "session-token": "hunter2"}).enqueue(42)
    dashboard = Dashboard(fire, auth=lambda request: {"read"})

    text = seen(client.get(f"/jobs/{job.id}"))
    with closing(dashboard), closing(Browser(dashboard)) as reader:
        hidden = seen(reader.get(f"/jobs/{job.id}"))

    assert [] == [word for word in ("Meta", "tenant acme", f"session-token {MASK}") if word not in text]
    assert "Meta" in hidden
    assert [] == [word for word in ("acme", "session-token", "hunter2") if word in hidden]
    assert "hunter2" not in text
    assert "Meta" not in seen(client.get(f"/jobs/{send.enqueue(42).id}"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("enqueued", (["Duplicate", "Delete"], ["Requeue", "Run now"], "You can restore it")),
        ("processing", (["Duplicate", "Stop"], ["Requeue", "Run now", "Delete"],
                        "If it is still running after the server's grace time (usually 25 s)")),
        ("scheduled", (["Run now", "Reschedule…", "Delete"], ["Requeue"], "You can restore it")),
        ("succeeded", (["Requeue", "Duplicate", "Delete"], ["Run now"], "Its result is deleted too")),
        ("failed", (["Requeue", "Duplicate", "Delete"], ["Run now"], "You can restore it")),
        ("deleted", (["Requeue", "Duplicate"], ["Run now"], "")),
        ("awaiting", (["Delete"], [],
                      "a signal or its batch. You cannot undo the deletion, because it also ends this wait")),
        ("parent", (["Delete"], [],
                    "The deletion decides what happens to the jobs that wait for it, so it cannot")),
    ],
)  # fmt: skip
def test_job_page_offers_the_actions_of_its_state(client, fire, send, state, words):
    """Impossible actions are not offered, and the question before a delete states whether it can be undone.

    For a running job, the two answers do not both sound like "cancel".
    """
    does, does_not, warning = words
    job = job_in(fire, send, state)

    answer = client.part(f"/jobs/{job.id}", "head")

    head, text = seen(answer), html.unescape(answer.text)
    assert [word for word in does if word in head] == does
    assert [word for word in does_not if word in head] == []
    assert warning in text
    assert ('data-yes="Stop and delete" data-no="Keep running"' in text) is (state == "processing")
    assert ('data-no="Keep job"' in text) is (state not in {"processing", "deleted"})


def test_page_of_a_deleted_job_offers_restore_or_states_why_not(client, fire, send):
    """If the deletion can be undone, the page offers to restore the job.

    Otherwise, it states why this is not possible.
    """
    waiting, done = send.enqueue(1), send.enqueue(2)
    waiting.delete()
    worker = Worker(fire)
    worker.succeed(worker.claim())
    done.delete()

    offered, refused = (client.part(f"/jobs/{job.id}", "head") for job in (waiting, done))

    assert 'action="/jobs/restore"' in offered.text
    assert 'action="/jobs/restore"' not in refused.text
    assert "The deletion cannot be undone: it had succeeded" in seen(refused)


def test_deleted_job_has_no_due_time_or_remaining_attempts(client, send):
    """A deleted job has no due time and no remaining attempts.

    The time for which it was scheduled is shown as a date.
    """
    job = send.schedule(timedelta(days=2), 1)
    before = seen(client.part(f"/jobs/{job.id}", "facts"))
    job.delete()

    after = seen(client.part(f"/jobs/{job.id}", "facts"))

    assert "Attemptsnone yet" in before
    assert "Attemptsnone Created" in after
    assert "Duein" not in after.replace(" ", "")
    assert re.search(r"Scheduled for20\d\d-", after)


@pytest.mark.parametrize(
    ("seconds", "warning"),
    [
        (None, "but the job might still be running on web-1:42"),
        (2, "is still running on web-1:42 (last sign of life"),
        (90, "The job's function does not check for cancellation"),
    ],
)
def test_deleted_job_that_still_runs_has_a_warning(client, fire, send, seconds, warning):
    """A deleted job has a warning while progress or a log line is newer than the delete.

    Long after the delete, the warning includes advice.
    """
    worker = Worker(fire)
    job = send.enqueue(1)
    claimed = worker.claim()
    worker.log(claimed, "before")
    job.delete()
    if seconds is not None:
        at = fire.storage.clock() + seconds * 1_000_000
        fire.storage.append_logs({}, {job.id: Progress(3, 10, at)})

    head, now, facts = (seen(client.part(f"/jobs/{job.id}", part)) for part in ("head", "now", "facts"))

    assert warning in now
    assert "its worker process 42 is replaced. The old process ends when its other jobs have ended." in now
    assert ("Stop requested" in facts, "Ended" in facts) == (True, False)
    assert "Deleted, still running" in seen(client.get("/jobs?state=deleted"))
    assert "Deleted, still running" in head
    assert ("job.raise_if_cancelled()" in now and 'executor="process"' in now) is (seconds == 90)
    assert "may have done part of its work. Requeue the job to run it again from the start." in head


@pytest.mark.parametrize(
    ("replaced", "warning"),
    [
        (("retired", 0), "and claims no jobs. The process is ending, which also ends this job."),
        (("retired", 1), "It ends when this job has ended: send"),
        (("retired", 7), "It ends when these 7 jobs have ended: send"),
        (
            ("ending", 2),
            "It is ending. These 2 jobs have a grace time of 25 s; those that still run then return to",
        ),
    ],
)
def test_deleted_job_names_the_jobs_that_keep_its_worker_process(client, fire, send, replaced, warning):
    """The other jobs of the process are links.

    The page offers to end the process until the process is ending.
    """
    state, others = replaced
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    worker.claim()
    job.delete()
    kept = [send.enqueue(number).id for number in range(others)]
    for _ in kept:
        worker.claim()
    fire.storage.clock_offset += 60_000_000
    Worker(fire, timeout=600.0)
    fire.storage.renew([Renewal(worker.holder.session, others + 1, state)])
    fire.storage.clock_offset += 120_000_000

    answer = client.part(f"/jobs/{job.id}", "now")

    assert "Worker process 42 was replaced 2 min" in seen(answer)
    assert warning in seen(answer)
    assert kept[::-1][:5] == re.findall(r'<a href="/jobs/([^"]+)"', answer.text)
    assert ("+2" in seen(answer)) is (others == 7)
    assert ("End process now" in seen(answer)) is (state == "retired")


def test_embedded_worker_process_is_not_expected_to_be_replaced(client, fire, send):
    """The worker process of an embedded server cannot be replaced."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    worker.claim()
    job.delete()
    fire.storage.clock_offset += 120_000_000

    text = seen(client.part(f"/jobs/{job.id}", "now"))

    assert "A stop was requested 2 min" in text
    assert "Worker process 42 has not been replaced." in text


def test_history_of_a_deleted_running_job_grows(client, fire, send):
    """The bar of the history grows, and no end of the run is shown."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    worker.claim()
    fire.storage.clock_offset += 85_000_000
    job.delete()
    fire.storage.clock_offset += 120_000_000

    life = seen(client.part(f"/jobs/{job.id}", "life"))

    assert "Running 3 min 2" in life
    assert "The job is still running, although a stop was requested." in life
    assert re.search(r"ran 1 min 2\d s before the request", life)


def test_stopped_run_shows_its_last_activity_instead_of_an_end(client, fire, send):
    """The deletion does not end the run.

    The page shows when the job was ordered to stop, and when it was last active.
    """
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    claimed = worker.claim()
    fire.storage.clock_offset += 250_000_000
    job.delete()
    fire.storage.clock_offset += 380_000_000
    worker.log(claimed, "page 40 of 40")
    now = fire.storage.clock()
    fire.storage.apply(
        [
            lifecycle.succeeded(
                claimed, worker.holder, at=now, started_at=now, result=None, result_absent=None,
                expires_at=now,
            )
        ]
    )  # fmt: skip

    life, facts = (seen(client.part(f"/jobs/{job.id}", part)) for part in ("life", "facts"))

    assert re.search(
        r"stop requested after 4 min \d+ s; the end of the run is not stored \(last sign of life", life
    )
    assert "Running at least 10 min" in life
    assert ("Stop requested" in facts, "Ended" in facts, "This run" in facts) == (True, False, False)


def test_job_deleted_before_its_run_has_no_end(client, send):
    """The last time in the facts is the time of the delete."""
    job = send.enqueue(1)
    job.delete()

    facts = seen(client.part(f"/jobs/{job.id}", "facts"))

    assert ("Stop requested" in facts, "Ended" in facts) == (False, False)
    assert "Deleted" in facts


def test_facts_and_history_show_the_same_enqueue_time(client, fire, send):
    """A job that was handed back keeps its place in the queue, but has a new enqueue time."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    fire.storage.clock_offset += 7_200_000_000
    claimed = worker.claim()
    now = fire.storage.clock()
    back = lifecycle.handed_back(claimed, worker.holder, at=now, started_at=now, reason="server stops")
    assert fire.storage.apply([back])[0].is_applied

    facts = client.part(f"/jobs/{job.id}", "facts").text
    life = client.part(f"/jobs/{job.id}", "life").text

    at = re.search(r'<dt>Last enqueued</dt><dd><time datetime="([^"]+)"', facts)[1]
    assert at == re.search(r'<span class="nowrap"><time datetime="([^"]+)"', life)[1]


def test_log_shows_the_date_when_it_changes(client, fire, send):
    """Log lines contain only the time of day, so the day is shown before the first line of each day."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    claimed = worker.claim()
    worker.log(claimed, "one", "two")
    fire.storage.clock_offset += 86_400_000_000
    worker.log(claimed, "three")

    days = re.findall(r'data-day="([^"]+)".*?class="message">([^<]+)', client.get(f"/jobs/{job.id}").text)

    assert ["one", "three"] == [text for _, text in days]
    assert days[0][0] < days[1][0]


def test_awaiting_job_can_run_without_its_parents(client, fire, send):
    """The button's label mentions the parents; next to a failed parent, "Run now" would be misleading."""
    job = job_in(fire, send, "awaiting")

    assert "Run without parents" in seen(client.part(f"/jobs/{job.id}", "head"))


@pytest.mark.parametrize(
    ("busy", "warning"),
    [
        (1, "That process is not running any other jobs."),
        (2, "That process first finishes its other job."),
        (4, "That process first finishes its 3 other jobs."),
    ],
)
def test_stop_confirmation_counts_other_jobs_of_the_process(client, fire, send, busy, warning):
    """The number is from the last heartbeat; the page and the menu of a row contain the same question."""
    worker, job = Worker(fire), send.enqueue(1)
    worker.claim()
    fire.storage.renew([Renewal(worker.holder.session, busy)])

    for part in ("head", "menu"):
        assert warning in html.unescape(client.part(f"/jobs/{job.id}", part).text)


def test_button_that_ends_a_process_is_hidden_for_half_a_minute(client, fire, send):
    """If the request has had no effect after half a minute, the button returns with an explanation."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    worker.claim()
    job.delete()
    form = {"session": worker.holder.session}

    before = seen(client.part(f"/jobs/{job.id}", "now"))
    client.act("/servers/end-process", form)
    now = seen(client.part(f"/jobs/{job.id}", "now"))
    fire.storage.clock_offset += 40_000_000
    later = seen(client.part(f"/jobs/{job.id}", "now"))

    button, order = "End process now", "End requested"
    assert [(button in text, order in text) for text in (before, now, later)] == [
        (True, False), (False, True), (True, True),
    ]  # fmt: skip
    assert "The request had no effect" in later


def test_process_past_its_grace_time_is_about_to_be_replaced(client, fire, send):
    """After the grace time has passed, the page no longer mentions it."""
    worker, job = Worker(fire, timeout=600.0), send.enqueue(1)
    worker.claim()
    job.delete()
    fire.storage.clock_offset += int((fire.settings.grace + 10) * 1_000_000)

    text = seen(client.part(f"/jobs/{job.id}", "now"))

    assert "Worker process 42 is about to be replaced" in text
    assert "is still running after" not in text


def test_deleted_job_that_has_stopped_has_no_warning(client, fire, send):
    """The job has stopped when its outcome is sent, even though the storage refuses the outcome."""
    worker = Worker(fire)
    job = send.enqueue(1)
    claimed = worker.claim()
    job.delete()
    now = fire.storage.clock() + 60_000_000
    fire.storage.append_logs({}, {job.id: Progress(3, 10, now)})
    ended = lifecycle.succeeded(
        claimed, worker.holder, at=now, started_at=now, result=None, result_absent=None, expires_at=now
    )
    assert not fire.storage.apply([ended])[0].is_applied

    head, now = (seen(client.part(f"/jobs/{job.id}", part)) for part in ("head", "now"))

    assert "still running" not in head + now


def test_only_unfinished_parents_are_named(client, fire, send):
    """Parents are named by their calls, without arguments for visitors who may not see them.

    The parents that have succeeded are only counted.
    """
    parents = [send.enqueue(number) for number in range(12)]
    child = send.using(after=parents).enqueue(99)
    worker = Worker(fire)
    for claimed in [worker.claim() for _ in parents]:
        (worker.fail if claimed.id == parents[6].id else worker.succeed)(claimed)
    dashboard = Dashboard(fire, auth=lambda request: {"read"})

    with closing(dashboard), closing(Browser(dashboard)) as reader:
        hidden = seen(reader.part(f"/jobs/{child.id}", "now"))
    now = seen(client.part(f"/jobs/{child.id}", "now"))

    assert "send(user_id=6) has failed. This job can start only after send(user_id=6) is requeued" in now
    assert "11 other parents have succeeded." in now
    assert "which is succeeded" not in now
    assert f"send {parents[6].id[-8:]} has failed" in hidden
    assert "user_id" not in hidden


def test_attempts_are_numbered_consistently(client, fire):
    """The number of an attempt is shown with the maximum number of attempts.

    After a requeue, which the page mentions, the numbers continue and all retries are available again.
    """

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge() -> None: ...

    worker = Worker(fire)
    job = charge.enqueue()
    waiting = seen(client.part(f"/jobs/{job.id}", "facts"))
    worker.fail(worker.claim())
    first = [seen(client.part(f"/jobs/{job.id}", part)) for part in ("facts", "life")]
    job.requeue()
    worker.claim()
    second = [seen(client.part(f"/jobs/{job.id}", part)) for part in ("facts", "life")]
    row = seen(client.part("/jobs", "rows"))

    assert "Attemptsnone yet, at most 1" in waiting
    assert ("Attempts1 of 1" in first[0], "attempt 1 of 1" in first[1]) == (True, True)
    assert ("Attempts2 (requeued)" in second[0], "attempt 2 (requeued)" in second[1]) == (True, True)
    assert "attempt 1 of 1" in second[1]
    assert ("2 (requeued)" in row, "2/1" in row, "Time" in row) == (True, False, True)


def test_traceback_folds_library_frames(client, fire, send):
    """Chained exceptions follow each other, and can be copied as text or Markdown."""
    answer = client.get(f"/jobs/{job_in(fire, send, 'failed').id}")

    for part in ("2 library frames", "shop/mail.py:12", "That caused the following:"):
        assert part in seen(answer)
    assert "### TimeoutError: SMTP timed out" in html.unescape(answer.text)


def test_reason_for_not_retrying_is_only_in_the_head(client, fire):
    """The error comes before the reason why it was not retried; the history repeats only the error."""

    @fire.task(name="shop.invoice", retry=Retry.never())
    def invoice() -> None:
        raise KeyError("no address")

    job = invoice.enqueue()
    fakes.Worker(fire).run()

    page = client.get(f"/jobs/{job.id}")

    assert 1 == seen(page).count("KeyError: 'no address' (not retried)")
    assert "KeyError" in seen(page).partition("History")[2]


def test_retry_step_shows_its_error_once(client, fire):
    """The entry contains the number of the retry; the error is below it, with its traceback."""

    @fire.task(name="shop.invoice", retry=Retry.fixed(60, attempts=2))
    def invoice() -> None:
        raise KeyError("no address")

    job = invoice.enqueue()
    fakes.Worker(fire).run()

    life = seen(client.part(f"/jobs/{job.id}", "life"))

    assert "retry 1 of 2" in life
    assert "retry 1 of 2: KeyError" not in life
    assert "KeyError'no address'" in life


def test_failed_attempts_keep_their_tracebacks(client, fire, send):
    """The traceback is in the entry of the history with which the attempt ended."""
    job = send.enqueue(1)
    worker = Worker(fire)
    worker.retry(worker.claim(), failure("first"))
    client.post("/jobs/requeue", {"one": job.id})
    worker.fail(worker.claim(), failure("second"))

    life = client.part(f"/jobs/{job.id}", "life").text

    assert life.index("second") < life.index("first")
    assert 2 == life.count('class="trace"')


def test_log_is_continued_after_a_line_number(client, fire, send):
    """The response for this part of the page contains the lines after the last shown line."""
    job = send.enqueue(1)
    worker = Worker(fire)
    claimed = worker.claim()
    worker.log(claimed, "one", "two")

    assert re.findall(r'class="message">(\w+)<', client.get(f"/jobs/{job.id}").text) == ["one", "two"]
    last = re.findall(r'data-number="(\d+)"', client.part(f"/jobs/{job.id}", "log").text)[-1]
    worker.log(claimed, "three")
    assert ["three"] == re.findall(
        r'class="message">(\w+)<', client.part(f"/jobs/{job.id}?after={last}", "log").text
    )
    assert 400 == client.part(f"/jobs/{job.id}?after=x", "log").status


def test_log_is_downloaded_as_text(client, fire, send):
    """Each line is one line of the file; unprintable characters are escaped."""
    job = send.enqueue(1)
    worker = Worker(fire)
    worker.log(worker.claim(), "one\nline\x1b[31m", level="warning")

    answer = client.get(f"/jobs/{job.id}/log")

    assert answer.header("content-type").startswith("text/plain")
    assert 1 == answer.text.count("\n")
    assert "\\x1b[31m" in answer.text


def test_progress_shows_rate_and_remaining_time(client, fire, send):
    """The page shows the values that the job reported."""
    job = send.enqueue(1)
    worker = Worker(fire)
    worker.log(worker.claim(), done=5.0)

    text = seen(client.part(f"/jobs/{job.id}", "now"))

    assert [part for part in ("50", "5 / 10", "half way", "left") if part not in text] == []


def test_progress_reported_at_the_start_gives_no_rate(client, fire, send):
    """If a job reports three of ten immediately and nothing since, its rate is not thousands per second."""
    job = send.enqueue(1)
    worker = Worker(fire)
    claimed = worker.claim(started=False)
    now = fire.storage.clock()
    fire.storage.reconcile(worker.holder.session, [HeldClaim(claimed.id, claimed.fence, now)])
    fire.storage.append_logs({}, {job.id: Progress(3.0, 10.0, now + 50)})

    at_once = seen(client.part(f"/jobs/{job.id}", "now"))
    fire.storage.clock_offset += 20_000_000
    later = seen(client.part(f"/jobs/{job.id}", "now"))

    assert "/s ·" not in at_once
    assert "/min · about" in later


def test_result_is_shown_as_a_tree(client, fire, send):
    job = send.enqueue(1)
    worker = Worker(fire)
    worker.succeed(worker.claim(), '{"sent":true,"to":["a@b.c"],"n":{"x":null}}')

    text = seen(client.part(f"/jobs/{job.id}", "life"))

    assert "sent: true" in text
    assert '"a@b.c"' in text
    assert '"a@b.c"' in client.get(f"/jobs/{job.id}/result").text
    assert 404 == client.get(f"/jobs/{send.enqueue(2).id}/result").status


def test_parents_and_continuations_are_linked(client, send):
    """Parents and continuations are linked, with their states."""
    parent = send.enqueue(1)
    child = parent.then(send.using(on="failed"), 2)

    assert f"/jobs/{child.id}" in client.part(f"/jobs/{parent.id}", "relations").text
    shown = client.part(f"/jobs/{child.id}", "relations").text
    assert f"/jobs/{parent.id}" in shown
    assert "starts this job on failure" in shown


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda fire, send: send.enqueue(1), "No server is running."),
        (
            lambda fire, send: (Worker(fire, queues="other"), send.enqueue(1))[1],
            "No server listens to queue mail.",
        ),
        (
            lambda fire, send: (fire.queues.pause("mail", note="till 3"), Worker(fire), send.enqueue(1))[2],
            "Queue mail is paused: till 3",
        ),
        (
            lambda fire, send: (Worker(fire), send.enqueue(0), send.enqueue(1))[2],
            "1 job is ahead of this one in queue mail.",
        ),
        (lambda fire, send: send.enqueue(0).then(send, 1), "is enqueued. It runs after that job has"),
        (lambda fire, send: (Worker(fire), send.schedule(timedelta(hours=2), 1))[1], "due in 1"),
    ],
)  # fmt: skip
def test_waiting_job_shows_its_reason(client, fire, send, prepare, sentence):
    """The reason is a sentence, with advice where possible."""
    job = prepare(fire, send)

    assert sentence in seen(client.part(f"/jobs/{job.id}", "now"))


def test_job_of_a_lost_server_has_a_warning(client, fire, send):
    """The warning is also shown for a claimed job that has not started."""
    job = send.enqueue(1)
    Worker(fire, timeout=0.0).claim(started=False)

    assert "has not renewed its session for too long" in seen(client.part(f"/jobs/{job.id}", "now"))


def test_locked_job_of_a_lost_server_is_explained(client, fire, send):
    """The session is closing, so the job waits for the end of the transaction that has locked it."""
    job = send.enqueue(1)
    Worker(fire).claim(started=True)
    listed = [attrs.evolve(one, is_alive=False, is_closing=True) for one in fire.storage.list_sessions()]
    fire.storage.list_sessions = lambda: listed

    page = seen(client.part(f"/jobs/{job.id}", "now"))

    assert "another transaction has locked this job" in page
    assert "has not renewed its session" not in page


@pytest.mark.parametrize("output", ["progress", "a log line"])
def test_job_with_output_counts_as_started(client, fire, send, output):
    """Output since the claim shows that the job is running, even before its start is stored.

    Lists use this as well.
    """
    job = send.enqueue(1)
    worker = Worker(fire)
    claimed = worker.claim(started=False)
    if output == "progress":
        worker.log(claimed, done=5.0)
    else:
        worker.log(claimed, "sending")
    fire.storage.clock_offset += 5_000_000

    page, rows = client.part(f"/jobs/{job.id}", "now"), client.get("/jobs?state=processing")

    assert "has not started it yet" not in seen(page)
    assert "not started yet" not in seen(rows)
    assert 'class="state-processing"' in client.part(f"/jobs/{job.id}", "life").text


def test_deleted_job_that_may_still_run_has_a_warning(client, fire, send):
    """The warning states that a stop was requested."""
    job = job_in(fire, send, "processing")
    fire.jobs.delete([job.id])

    assert "A stop was requested" in seen(client.part(f"/jobs/{job.id}", "now"))


# ---- ids -------------------------------------------------------------------------------------------------


def test_unknown_job_has_a_not_found_page(client, hostile):
    """The page contains the requested id."""
    answer = client.get(f"/jobs/{quote(hostile[:150], safe='')}")

    assert answer.status in {400, 404}  # characters that no URL may contain are refused earlier
    assert_literal(answer.text)


def test_page_of_an_unknown_job_explains_possible_causes(client):
    """The page explains that the job expired or never existed."""
    answer = client.get("/jobs/00000000-0000-7000-8000-000000000000")

    assert 404 == answer.status
    assert "expired or never existed" in answer.text
    assert "00000000-0000-7000-8000-000000000000" in answer.text


def test_part_of_an_id_redirects_to_its_job(client, send):
    """The beginning or the end of an id is sufficient if only one job matches."""
    job = send.enqueue(1)

    assert f"/jobs/{job.id}" == client.get(f"/jobs/{job.id[:30]}").location
    assert f"/jobs/{job.id}" == client.get(f"/jobs/{job.id[-8:]}").location
    send.enqueue(2)
    assert 404 == client.get(f"/jobs/{job.id[:6]}").status


# ---- permissions -----------------------------------------------------------------------------------------


def test_hidden_arguments_and_logs_are_explained(fire, send):
    """The page shows the reason; `test_permissions.py` tests on every page that the data is hidden."""
    job = job_in(fire, send, "failed")
    dashboard = Dashboard(fire, auth=lambda request: {"read"})
    with closing(dashboard), closing(Browser(dashboard)) as reader:
        text = reader.get(f"/jobs/{job.id}").text

    assert [word for word in ("view_args", "view_logs", "disabled") if word not in text] == []


def test_unreadable_arguments_are_shown_as_stored(client, fire, send):
    """The reason is shown next to the stored string."""
    job = NewJob(fire.storage.new_ids(1)[0], "a.b", "{not json", "json", "default", 0, State.ENQUEUED, 1)
    other = attrs.evolve(job, id=fire.storage.new_ids(1)[0], arguments="[1, 2]", serializer="pickle")
    fire.storage.insert([job, other])

    assert "{not json" in seen(client.get(f"/jobs/{job.id}"))
    assert "not installed here" in seen(client.get(f"/jobs/{other.id}"))
    assert 200 == client.get("/jobs").status


# ---- calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "send.enqueue()"),
        ({"order_id": 42, "locale": "tr"}, 'send.enqueue(order_id=42, locale="tr")'),
        ({"a": 1, "*rest": [2, 3]}, "send.enqueue(1, 2, 3)"),
        ({"a": 1, "*rest": []}, "send.enqueue(a=1)"),
        ({"a": None, "**more": {"b": [True, 1.5]}}, "send.enqueue(a=None, b=[True, 1.5])"),
        ({"a": {"x": 'say "hi"'}}, 'send.enqueue(a={"x": "say \\"hi\\""})'),
    ],
)
def test_call_is_written_as_python(arguments, text):
    """Arguments are written by name, except those that can only be positional."""
    assert text == call_of("shop.send", arguments).text


def test_unprintable_characters_are_escaped_in_a_literal():
    """A string that changes the text direction stays within its line."""
    assert '"a\\u202eb\\n"' == literal("a\u202eb\n")
    assert '"😀"' == literal("😀")


def test_summary_is_truncated():
    """A summary is truncated to fit in a row."""
    assert 'a="' + "x" * 5 + "…" == summary({"a": "x" * 50}, 8)


def test_highlighting_does_not_change_the_text(hostile):
    """Colours are added around the text, never inside it."""
    code = f"send.enqueue(a={literal(hostile)}, n=-1.5e3, on=True)"

    assert code == "".join(piece.text for piece in pieces(code))


def test_tree_has_a_maximum_size():
    node = tree([{"n": [number] * 10} for number in range(1_000)])

    assert node.left_out > 0
    deep = tree(json.loads("[" * 60 + "]" * 60))
    while deep.children:
        deep = deep.children[0]
    assert deep.left_out == 1


@pytest.mark.parametrize(("value", "text"), [({}, "{}"), ([], "[]"), ({"a": {}}, "{1}"), ([0], "[1]")])
def test_empty_value_is_shown_as_python(value, text):
    assert text == tree(value).text


@pytest.mark.parametrize(
    ("retry", "words"),
    [
        (Retry.listed([60, 300, 900], attempts=5), "5, after 1 min, 5 min, 15 min"),
        (Retry.fixed(1.5, attempts=1), "1, after 1.5 s"),
        (Retry(), "10, after 1 min, 5 min, 15 min, 1 h, 2 h, 4 h, …"),
        (Retry.polynomial(), "10, after increasing delays"),
        (Retry.never(), "none"),
    ],
)
def test_retry_policy_is_shown_in_words(fire, client, retry, words):
    """The policy is in words, not in microseconds as it is stored."""

    @fire.task(name="shop.send")
    def send() -> None: ...

    page = client.get(f"/jobs/{send.using(retry=retry).enqueue().id}").text
    policy = re.search(r"<dt>Retries for this call</dt><dd[^>]*>([^<]*)</dd>", page)[1]

    assert words == html.unescape(policy).replace("\u202f", " ").replace("\u2009", " ")


# ---- tracebacks ------------------------------------------------------------------------------------------


def test_traceback_is_parsed_into_exceptions_and_frames():
    """Exceptions are in order, and frames are grouped into application frames and library frames."""
    first, second = read_traceback(TRACE)

    assert [(False, 2)] == [(group.is_own, len(group.frames)) for group in first.groups]
    assert "OSError: no route" == first.last
    assert "That caused the following:" == second.lead
    assert [("send", "connect(host)")] == [(one.function, one.code) for one in second.groups[0].frames]


def test_stored_failure_is_parsed():
    """The traceback has the format that the core writes."""
    from firelock.server.failure import describe_failure

    try:
        raise ValueError("broke")
    except ValueError as error:
        (trace,) = read_traceback(describe_failure(error).traceback)

    assert "ValueError: broke" == trace.last
    assert "test_stored_failure_is_parsed" == trace.groups[-1].frames[-1].function
    assert trace.groups[-1].is_own


def test_repeated_frames_keep_their_repetition_line():
    """The line with the number of repetitions stays in its place, in the group of the repeated frame."""
    frame = '→ File "/app/shop.py", line 3, in down\n    down(left - 1)\n'
    (trace,) = read_traceback(
        f"Traceback (most recent call last):\n{3 * frame}  [Previous line repeated 57 more times]\n"
        '→ File "/app/shop.py", line 2, in down\n    raise ValueError\nValueError'
    )

    (group,) = trace.groups
    assert ["down(left - 1)"] * 3 + ["[Previous line repeated 57 more times]", "raise ValueError"] == [
        one.code for one in group.frames
    ]
    assert "ValueError" == trace.last


def test_report_fence_is_longer_than_any_backticks():
    """The fence is longer than any run of backticks in the content."""
    report = markdown("T", ["a"], "x ```` y")

    assert "\n`````\nx ```` y\n`````\n" in report


# ---- phases ----------------------------------------------------------------------------------------------


def test_history_bar_is_to_scale(fire, send):
    """Waiting, running and backing off fill the whole bar without gaps."""
    handle = fire.jobs.get(job_in(fire, send, "retrying").id)
    entries = entries_of(handle.history(), handle.record())

    phases = phases_of(
        handle.record(), handle.history(), handle.created_at + timedelta(minutes=5),
        failed_at={failed.at for failed in handle.errors()},
    )  # fmt: skip

    assert "retrying" == phases[-1].kind
    assert 100 == pytest.approx(sum(phase.width for phase in phases))
    assert phases[0].x == 0
    assert entries[0].since is not None
    assert entries[-1].since is None


def test_history_bar_keeps_the_run_of_a_cancelled_job(client, fire, send):
    """The bar shows how long the job ran before it was cancelled, and the entry names the server."""
    job = send.enqueue(1)
    Worker(fire).claim()
    fire.storage.clock_offset += 60_000_000
    client.post("/jobs/delete", {"one": job.id})

    handle = fire.jobs.get(job.id)
    phases = phases_of(
        handle.record(), handle.history(), handle.created_at + timedelta(hours=1),
        failed_at={failed.at for failed in handle.errors()},
    )  # fmt: skip
    life = client.part(f"/jobs/{job.id}", "life").text

    assert ["enqueued", "processing"] == [one.kind for one in phases]
    assert phases[-1].seconds >= 59
    assert "on web-1:42" in life


@pytest.mark.parametrize("ends", ["fail", "succeed"])
def test_delete_does_not_change_an_attempts_duration(client, fire, send, ends):
    """An attempt's duration ends with the attempt, not with the later delete of its job."""
    for _ in range(20):
        send.enqueue(1)
    worker = Worker(fire)
    job = fire.jobs.find(oldest_first=True).jobs[0]
    claimed = worker.claim(started=False)
    getattr(worker, ends)(claimed)
    page = JobView(None, fire.jobs.get(job.id))
    before = page.seconds
    fire.storage.clock_offset += 3_600_000_000
    job.delete()

    after = JobView(None, fire.jobs.get(job.id)).seconds
    row = client.get("/jobs?state=deleted").text

    assert before is not None
    assert before == after
    assert "1 h" not in re.sub(r"<time.*?</time>", "", row)


@pytest.mark.parametrize(("runs", "is_compared"), [(19, False), (20, True)])
def test_duration_is_compared_with_at_least_twenty_runs(client, fire, send, runs, is_compared):
    """With fewer than twenty other runs, the comparison would be meaningless."""
    job = send.enqueue(1)
    worker = Worker(fire)
    worker.succeed(worker.claim(started=False))
    minute = fire.storage.clock() // 60_000_000 * 60_000_000
    histogram = (0, runs, *(0,) * 11)
    fire.storage.record_metrics(
        [Rollup(minute, "shop.mail.send", "mail", "succeeded", runs, runs * 2_000, histogram)]
    )

    page = client.get(f"/jobs/{job.id}").text

    assert is_compared is ("compare-title" in page)


def test_time_between_end_and_requeue_is_not_a_phase(fire, send):
    """After a job has ended and before it is requeued, it does not wait for anything."""
    job = job_in(fire, send, "failed")
    fire.jobs.requeue([job.id])
    handle = fire.jobs.get(job.id)
    now = handle.created_at + timedelta(hours=1)

    kinds = [one.kind for one in phases_of(handle.record(), handle.history(), now)]

    assert "enqueued" == kinds[-1]
    assert {"enqueued", "processing"} >= set(kinds)
