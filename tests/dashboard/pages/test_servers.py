"""Servers: their cards, the jobs that each server runs, and the orders sent to them."""

from __future__ import annotations

import re

import attrs
import pytest

from firelock.model import lifecycle
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, ErrorInfo, HeldClaim, LogLine, NewSession, Progress, Renewal
from firelock_dashboard.web import formatting

DAY = 86_400


@attrs.frozen
class Serving:
    """A factory of servers and their claims, without any process."""

    fire: object

    def __call__(self, name, *, server=None, serves="*", workers=4, state="running", busy=0, pid=7):
        """Begin one more session of a server, which lasts for a day; return its id."""
        now = self.fire.client.clock.now()
        session = NewSession(
            f"session {name} {pid}", server or f"id of {name}", name, "host-a", pid, now - 3_600_000_000, DAY,
            workers, serves, "0.1.0",
        )  # fmt: skip
        self.fire.storage.begin_session(session)
        self.fire.storage.renew([Renewal(session.id, busy, state, 64 * 1024 * 1024, 12.0)])
        return session.id

    def claim(self, session, count, *, started=0):
        """Claim jobs for the session, the first `started` of which run; return the ids of the jobs."""
        now = self.fire.client.clock.now()
        jobs = self.fire.storage.claim(ClaimRequest(None, count, session, now)).jobs
        held = [
            HeldClaim(job.id, job.fence, now - 15_000_000 if place < started else None)
            for place, job in enumerate(jobs)
        ]
        self.fire.storage.reconcile(session, held)
        return [job.id for job in jobs]


@pytest.fixture
def serving(fire):
    return Serving(fire)


@pytest.fixture
def send(fire):
    @fire.task(name="shop.send")
    def send(number: int) -> None: ...

    return send


def slots(page, kind):
    return re.findall(rf'class="slot {kind}" href="/jobs/([^"]+)"', page)


def actions(fire):
    return [(entry.action, entry.target, entry.by) for entry in fire.audit.list()]


def test_page_without_servers_shows_how_to_start_one(fire, client):
    """The page shows a command.

    If the storage is the memory of one process, it shows `fire.server()` instead.
    """
    page = client.get("/servers").text

    assert "No server is running" in page
    is_inside = fire.storage.url.startswith("memory")
    assert is_inside == ("with fire.server():" in page)
    assert is_inside != ("firelock server app:fire" in page)


def test_server_card_combines_its_processes(client, serving, send):
    """One card shows both sessions of a server, with the sums of slots, busy slots, CPU and memory."""
    send.enqueue_many([(number,) for number in range(3)])
    serving.claim(serving("web-1", server="a", pid=11), 1, started=1)
    serving.claim(serving("web-1", server="a", pid=12), 2, started=2)

    page = client.part("/servers", "servers").text

    assert 1 == page.count('class="card server"')
    assert "11, 12" in page
    assert "3 of 8 slots busy" in page
    assert "24 %" in page
    assert "128.0 MiB" in page


def test_slots_show_started_claimed_and_free(client, serving, send):
    """Each running job is a link.

    Jobs that have not started look different, and the remaining slots are free.
    """
    send.enqueue_many([(number,) for number in range(3)])
    session = serving("web-1", workers=5, busy=3)
    ids = serving.claim(session, 3, started=2)

    page = client.part("/servers", "servers").text

    assert set(ids[:2]) == set(slots(page, "is-started"))
    assert ids[2:] == slots(page, "is-claimed")
    assert 2 == page.count('<li class="free"')
    assert "Free slots: 2" in page
    assert "claimed, not started" in page


def test_running_jobs_are_busy_slots_before_the_next_heartbeat(client, serving, send):
    """The number of busy slots is the number of jobs that are shown.

    Jobs that are claimed beyond the slots are not counted.
    """
    send.enqueue_many([(number,) for number in range(8)])
    session = serving("web-1", workers=6, busy=0)
    serving.claim(session, 5, started=2)

    some = client.part("/servers", "servers").text
    serving.claim(session, 3)
    all_of_them = client.part("/servers", "servers").text

    assert "1 server · 5 of 6 slots busy" in some
    assert 2 == some.count("5 of 6 slots busy")
    assert 2 == all_of_them.count("6 of 6 slots busy")


def test_deleted_job_that_still_runs_is_listed(fire, client, serving, send):
    """If a server reports more running jobs than are stored as processing, one read finds deleted jobs."""
    send.enqueue_many([(number,) for number in range(2)])
    session = serving("web-1", workers=5, busy=2)
    kept, deleted = serving.claim(session, 2, started=2)
    fire.jobs.delete([deleted])

    page = client.part("/servers", "servers").text

    assert ([kept], [deleted]) == (slots(page, "is-started"), slots(page, "is-started is-deleted"))
    assert "1 deleted job is still running" in page
    assert 2 == page.count("2 of 5 slots busy")
    assert "(deleted, still running)" in page
    assert "Free slots: 3" in page


def test_requeued_job_is_listed_while_its_deleted_run_continues(fire, client, serving, send):
    """The job is enqueued again, but the card still shows it, because its earlier run occupies a slot."""
    job = send.enqueue(1)
    session = serving("web-1", workers=5, busy=1)
    serving.claim(session, 1, started=1)
    fire.jobs.delete([job.id])
    fire.jobs.requeue([job.id])
    assert "enqueued" == job.refresh().state

    page = client.part("/servers", "servers").text

    assert [job.id] == slots(page, "is-started is-deleted")
    assert 2 == page.count("1 of 5 slots busy")


def test_heartbeat_is_shown_with_its_session_timeout(client, serving):
    """Servers may have different session timeouts, so each card shows its own."""
    serving("web-1")

    page = client.part("/servers", "servers").text

    assert "· limit 1 d</span>" in page


def test_server_that_reports_no_slots_shows_its_jobs(client, serving, send):
    """The card must not contain jobs together with "0 of 0 slots", because this would be contradictory."""
    send.enqueue_many([(1,), (2,)])
    serving.claim(serving("web-1", workers=0), 2, started=1)

    page = client.part("/servers", "servers").text

    assert "2 jobs, no slots reported" in page
    assert "<h3>0 of 0" not in page


def test_replaced_worker_process_has_no_free_slots(client, serving, send):
    """The process does not claim any more jobs, and its running jobs occupy the busy slots."""
    send.enqueue_many([(number,) for number in range(3)])
    old = serving("web-1", server="a", workers=10, pid=11, state="retired", busy=2)
    serving.claim(old, 2, started=2)
    new = serving("web-1", server="a", workers=10, pid=12, busy=1)
    serving.claim(new, 1, started=1)

    page = client.part("/servers", "servers").text

    assert 2 == page.count("3 of 12 slots busy")
    assert "Free slots: 9" in page
    assert "2 (PIDs 11 replaced, 12)" in page
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r'<tr><td class="lead">\d+.*', page)]
    assert [True, True] == [row.startswith(f"||{pid}|") for row, pid in zip(rows, (11, 12), strict=True)]
    assert ["replaced, claims no jobs||2||2", "running||10||1"] == [
        "||".join(row.split("||")[2:5]) for row in rows
    ]


def test_output_of_an_earlier_attempt_does_not_count_as_a_start(fire, client, serving, send):
    """A log line of the previous attempt, or progress from before the claim, does not count as a start."""
    job = send.enqueue(1)
    session = serving("web-1")
    now = fire.client.clock.now()
    (first,) = fire.storage.claim(ClaimRequest(None, 1, session, now)).jobs
    fire.storage.append_logs(
        {job.id: [LogLine(0, now, "info", "sending", 1)]}, {job.id: Progress(1, 10, now - 1)}
    )
    end = lifecycle.retried(
        first, ClaimHolder(session, "web-1"), at=now, started_at=now, wait=0, reason="again",
        error=ErrorInfo("E", "no", "f"),
    )  # fmt: skip
    fire.storage.apply([end])
    serving.claim(session, 1)

    page = client.part("/servers", "servers").text

    assert [job.id] == slots(page, "is-claimed")


def test_servers_of_the_same_name_show_their_own_jobs(client, serving, send):
    """If two servers have the same name, each card shows only the jobs of that server's sessions."""
    send.enqueue_many([(number,) for number in range(3)])
    one, other = serving("web", server="a", pid=1), serving("web", server="b", pid=2)
    ones, others = serving.claim(one, 1, started=1), serving.claim(other, 2, started=2)

    page = client.part("/servers", "servers").text

    first, second = page.split('id="server-a"')[1].split('id="server-b"')
    assert (ones, set(others)) == (slots(first, "is-started"), set(slots(second, "is-started")))


def test_number_of_drawn_slots_is_bounded(client, serving):
    """The card draws two hundred slots and shows the number of the remaining ones."""
    serving("web-1", workers=1_000)

    page = client.part("/servers", "servers").text

    assert 200 == page.count('<li class="free"')
    assert "+800" in page
    assert "Free slots: 1000" in page


@pytest.mark.parametrize(
    ("state", "text"), [("quiet", "Quiet"), ("stopping", "Stopping"), ("overdue", "Overdue")]
)
def test_reported_server_state_is_shown(client, serving, state, text):
    """A server is shown as quiet or stopping, or as stale if a worker process does not report."""
    serving("web-1", state=state)

    assert text in client.part("/servers", "servers").text


def test_stopped_server_is_distinguished_from_a_lost_one(fire, client, serving):
    """A server has ended if its last reported state was stopping; otherwise it is lost.

    Such servers are listed for a day in a collapsed list, which offers no actions.
    """
    fire.storage.end_session(serving("stopped-1", state="stopping"), (), reason="server stopped")
    fire.storage.end_session(serving("killed-1"), None, reason="its session was lost")
    serving("web-1")

    card, gone = client.part("/servers", "servers").text.split('id="lost-servers"')
    rows = {name: next(row for row in gone.split("<tr") if name in row) for name in ("stopped-1", "killed-1")}

    assert ("killed-1" in card, "web-1" in card) == (False, True)
    assert ("2 ended or lost servers" in gone, "<form" in gone) == (True, False)
    assert ("Ended" in rows["stopped-1"], "Lost" in rows["stopped-1"]) == (True, False)
    assert ("Ended" in rows["killed-1"], "Lost" in rows["killed-1"]) == (False, True)


@pytest.mark.parametrize("is_closing", [False, True])
def test_lost_server_with_locked_jobs_is_explained(fire, client, serving, is_closing):
    """The session has ended, but another transaction has locked the row of one of its jobs."""
    fire.storage.end_session(serving("killed-1"), None, reason="its session was lost")
    listed = [attrs.evolve(one, is_closing=is_closing) for one in fire.storage.list_sessions()]
    fire.storage.list_sessions = lambda: listed

    page = client.part("/servers", "servers").text

    assert ("Lost, some of its jobs are locked" in page) is is_closing


def test_servers_are_paged(client, serving):
    """A page has 24 cards, and the next page begins after the last of them."""
    for number in range(26):
        serving(f"web-{number:02}")

    first = client.part("/servers", "servers").text
    after = re.search(r'href="(/servers\?after=[^"]+)"', first)[1]
    second = client.part(after, "servers").text

    assert (24, 2) == (first.count('class="card server"'), second.count('class="card server"'))


@pytest.mark.parametrize("order", ["quiet", "resume", "stop"])
def test_server_gets_the_order_with_its_heartbeat(fire, client, serving, order):
    """The server gets the order with its next heartbeat, and the audit records who sent it."""
    serving("web-1", server="a")

    reply = client.act("/servers/order", {"server": "a", "order": order}).json()

    assert "good" == reply["kind"]
    assert "next heartbeat" in reply["message"]
    assert f'"{order}"' == fire.storage.get_record("server_order", "a").value
    assert [(f"server.{order}", "web-1", "local")] == actions(fire)


def test_stop_without_a_script_requires_confirmation(fire, client, serving):
    """A page asks for confirmation. After that, the order is stored and the visitor is redirected."""
    serving("web-1", server="a")
    form = {"server": "a", "order": "stop", "back": "/servers"}

    confirmation = client.post("/servers/order", form)
    before = fire.storage.get_record("server_order", "a")
    done = client.post("/servers/order", {**form, "sure": "1"})

    assert (200, None) == (confirmation.status, before)
    assert "Stop web-1, the only server?" in confirmation.text
    assert all(f'name="{name}"' in confirmation.text for name in ("server", "order", "back", "sure"))
    assert (303, "/servers") == (done.status, done.location)
    assert '"stop"' == fire.storage.get_record("server_order", "a").value


def test_stop_confirmation_of_the_only_server_shows_the_effect(fire, client, serving, send):
    """The question states that no other server runs jobs.

    It contains the number of running jobs and how long they may continue, and is shown on the page itself and
    on the confirmation page.
    """
    session = serving("web-1", server="a", workers=4)
    serving("web-2", server="b", state="quiet")
    send.enqueue_many([(n,) for n in range(2)])
    serving.claim(session, 2, started=2)
    fire.storage.renew([Renewal(session, 2, "running", 64, 12.0)])
    question = (
        "Stop web-1, the only server? No jobs run until another server starts. The 2 running jobs have "
        "25 s to end (unless the server has its own grace time). "
        "Jobs that are still running then return to their queues."
    ).replace("25 s", formatting.span(fire.settings.grace))

    page = client.part("/servers", "servers").text
    confirmation = client.post("/servers/order", {"server": "a", "order": "stop"}).text
    serving("web-3", server="c")
    with_another = client.part("/servers", "servers").text

    assert f'data-confirm="{question}"' in page
    assert question in confirmation
    assert "Make the only server, web-1, quiet?" in page
    assert 'data-confirm="Stop web-1? Other servers continue. The 2 running jobs have' in with_another
    assert "the only server" not in with_another


def test_worker_process_is_ended_after_confirmation_with_its_jobs(fire, client, serving, send):
    """The audit records the order, and the server's other worker process is not affected."""
    send.enqueue_many([(number,) for number in range(8)])
    old = serving("web-1", server="a", workers=10, pid=11)
    ids = serving.claim(old, 7, started=7)
    serving.claim(serving("web-1", server="a", pid=12), 1)
    form = {"session": old, "back": f"/jobs/{ids[0]}"}

    confirmation = client.post("/servers/end-process", form).text
    before = fire.storage.get_record("server_order", "a")
    done = client.post("/servers/end-process", {**form, "sure": "1"})

    assert (
        "End worker process 11 of web-1? A new process replaces it. 7 other jobs run in that process: "
        in confirmation
    )
    assert 5 == sum(f"send {formatting.short_id(one)}" in confirmation for one in ids)
    assert " and 2 more. They have " in confirmation
    assert before is None
    assert (303, f"/jobs/{ids[0]}") == (done.status, done.location)
    assert f'"end {old}"' == fire.storage.get_record("server_order", "a").value
    assert [("server.end_process", "web-1", "local")] == actions(fire)


def test_worker_process_without_other_jobs_is_ended(client, serving):
    """The question states that no other jobs run in the process."""
    session = serving("web-1", pid=11)

    confirmation = client.post("/servers/end-process", {"session": session}).text

    assert "A new process replaces it. That process is not running any other jobs." in confirmation


def test_worker_process_that_has_ended_is_not_found(fire, client, serving):
    """The response is a 404, and no order is stored."""
    session = serving("web-1", server="a")
    fire.storage.end_session(session, (), reason="stopped")

    answer = client.post("/servers/end-process", {"session": session})

    assert 404 == answer.status
    assert "No living worker process has session" in answer.text
    assert [] == fire.storage.list_records("server_order", limit=10) + actions(fire)


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ({"order": "stop"}, (400, "server is missing")),
        ({"server": "a"}, (400, "order")),
        ({"server": "a", "order": "explode"}, (400, "quiet, resume, stop")),
        ({"server": "b", "order": "stop"}, (404, "Server b not found")),
        ({"server": "c", "order": "stop"}, (400, "is no longer running")),
    ],
)
def test_invalid_order_is_refused(fire, client, serving, form, refusal):
    """The error names the field and its valid values. No order is stored, and no audit entry is added."""
    serving("web-1", server="a")
    fire.storage.end_session(serving("gone", server="c"), (), reason="stopped")

    answer = client.post("/servers/order", form)

    status, message = refusal
    assert status == answer.status
    assert message in answer.text
    assert [] == fire.storage.list_records("server_order", limit=10)
    assert [] == actions(fire)
