"""Queues: waiting jobs, waits and servers; pausing with a note, resuming, and emptying a queue."""

from __future__ import annotations

import re
from datetime import timedelta

import attrs
import pytest

from firelock import State, Turns
from firelock.control.servers import ServerState
from firelock.storage import JobFilter, NewSession, Renewal
from firelock_dashboard.pages import queues
from tests.dashboard.pages.test_batch import text_of
from tests.dashboard.worker import Worker

DAY = 86_400


@pytest.fixture
def mail(fire):
    """A task whose jobs wait in the queue mail."""

    @fire.task(name="shop.send", queue="mail")
    def send(number: int) -> None: ...

    return send


def serve(fire, name="web-1", serves="*", *, workers=10, state="running"):
    """Begin a server's session, which lasts for a day."""
    now = fire.client.clock.now()
    session = NewSession(f"session of {name}", f"id-{name}", name, "host", 7, now, DAY, workers, serves)
    fire.storage.begin_session(session)
    fire.storage.renew([Renewal(session.id, 2, state, 50_000_000, 12.5)])


def bars(page):
    """Return the lengths of the queues' bars, in percent."""
    return re.findall(r'<rect class="state-enqueued"[^>]* width="([0-9.]+)"', page)


def actions(fire):
    return [(entry.action, entry.target, entry.by) for entry in fire.audit.list()]


# ---- states of servers -----------------------------------------------------------------------------------


def test_server_without_renewals_is_overdue_and_then_lost(fire):
    """In any reported state, a server is stale if it misses renewals, and lost when its session ends."""
    serve(fire)
    (server,) = fire.servers.list()
    (record,) = server.sessions
    timeout = int(record.session.timeout_seconds * 1_000_000)

    states = [server.state_at(record.expires_at - timeout * left // 10) for left in (9, 1, 0)]

    assert [ServerState.RUNNING, ServerState.OVERDUE, ServerState.LOST] == states
    gone = attrs.evolve(server, is_alive=False, sessions=(attrs.evolve(record, is_alive=False),))
    assert ServerState.LOST is gone.state_at(record.expires_at - timeout)


# ---- the list --------------------------------------------------------------------------------------------


def test_page_without_queues_explains_itself(client):
    """The page explains what it would list."""
    page = client.get("/queues")

    assert 200 == page.status
    assert "No queues yet" in page.text


def test_queue_bars_share_one_scale(fire, client, mail):
    """The bar of the fullest queue has the full width. Other bars are proportional to it, and never empty."""
    for name, count in (("a-full", 400), ("b-few", 100), ("c-one", 1)):
        mail.using(queue=name).enqueue_many([(number,) for number in range(count)])

    page = client.get("/queues").text
    behind = client.get("/queues?after=a-full").text

    assert ["100.00", "25.00", "2.00"] == bars(page)
    assert ["25.00", "2.00"] == bars(behind)


def test_queue_row_shows_its_jobs_and_servers(fire, client, mail):
    """Each row shows the numbers of jobs with links, the servers and slots, and the state of the queue."""
    mail.enqueue_many([(1,), (2,), (3,)])
    mail.schedule(timedelta(hours=1), 4)
    serve(fire, workers=4)

    page = client.get("/queues").text

    assert 'href="/queues/mail"' in page
    assert '/jobs?state=enqueued&amp;queue=mail"><span>3</span></a>' in page
    assert '/jobs?state=scheduled&amp;queue=mail"><span>1</span></a>' in page
    assert "1 server · 4 slots" in page
    assert "Served" in page


def test_queue_with_jobs_and_no_server_has_a_warning(client, mail):
    """The warning is in the row of the queue."""
    mail.enqueue(1)

    assert "Not served" in client.part("/queues", "rows").text


@pytest.mark.parametrize(("minutes", "classes"), [(1, []), (5, ["late"]), (31, ["very_late"])])
def test_long_wait_is_highlighted(fire, client, mail, minutes, classes):
    """A wait of five minutes or more is amber, and one of half an hour or more is red."""
    mail.enqueue(1)
    fire.storage.clock_offset += minutes * 60_000_000

    assert classes == re.findall(r'class="aged (\w+)"', client.part("/queues", "rows").text)


@pytest.mark.parametrize(("path", "part"), [("/queues", "rows"), ("/queues/mail", "facts")])
def test_queue_wait_ignores_jobs_delayed_by_a_limit(fire, client, mail, path, part):
    """The wait of a queue is that of its first job that no limit delays.

    The number of delayed jobs before it is shown.
    """
    fire.limits.set("tenant", concurrent=1)
    mail.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,), (3,)])
    Worker(fire).claim()
    fire.storage.clock_offset += 2 * 3_600_000_000

    all_held = client.part(path, part).text
    mail.enqueue(4)
    fire.storage.clock_offset += 120_000_000
    behind = client.part(path, part).text

    assert [None, "2 min"] == [waits(all_held), waits(behind)]
    assert all('href="/limits">the first 2 are held by limits</a>' in page for page in (all_held, behind))
    assert 'class="aged' not in all_held + behind


def waits(page):
    """Return the displayed wait of a queue without seconds, or None if no job that could start waits."""
    found = re.search(r"data-running>(\d+ min)", page)
    return found and found[1]


def test_time_until_a_queue_is_empty_follows_its_rates(fire, mail):
    """The time until a queue is empty is computed from its current rates.

    It is unknown if no server listens, if jobs arrive at least as fast as they end, or if a limit delays the
    first jobs.
    """
    mail.enqueue_many([(1,), (2,)])
    (view,) = fire.queues.list()

    def queue(out, into, held=0, listeners=1):
        return queues.QueueRow(view, None, held, None, out, into, [object()] * listeners)

    assert timedelta(minutes=1) == queue(2.0, None).clears_in
    assert timedelta(minutes=2) == queue(2.0, 1.0).clears_in
    assert (None, True) == (queue(2.0, 3.0).clears_in, queue(2.0, 3.0).is_growing)
    assert (None, False) == (queue(0.0, None).clears_in, queue(0.0, None).is_growing)
    assert (None, "held") == (queue(2.0, None, held=1).clears_in, queue(2.0, None, held=1).clears)
    assert (None, "unserved") == (queue(2.0, None, 1, 0).clears_in, queue(2.0, None, 1, 0).clears)
    assert ("growing", "standing") == (queue(2.0, 3.0).clears, queue(0.0, None).clears)


def test_queues_are_paged_by_name(fire, client):
    """A page has at most 25 queues. The next page begins after the last one of them."""
    for number in range(28):
        fire.queues.pause(f"q{number:02}")

    first, second = client.get("/queues").text, client.get("/queues?after=q24").text

    assert ('id="queue-q24"' in first, 'id="queue-q25"' in first) == (True, False)
    assert "after=q24" in first
    assert ('id="queue-q24"' in second, 'id="queue-q27"' in second) == (False, True)


def test_oldest_wait_is_shown_if_limits_delay_every_job(fire, client, mail):
    """The wait is shown with a reason instead of a warning, because more workers would not help."""
    fire.limits.set("tenant", concurrent=1)
    mail.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,)])
    Worker(fire).claim()
    fire.storage.clock_offset += 3 * 3_600 * 1_000_000

    listed, own = client.get("/queues").text, client.get("/queues/mail").text

    for page in (listed, own):
        assert re.search(r"3\sh( 00\smin)? ?; held by limits", text_of(page))
        assert "very long wait" not in page


def test_first_jobs_are_shown_with_arguments_and_limits(fire, client, mail):
    """The jobs are in order of priority and then of age."""
    fire.limits.set("tenant", concurrent=1)
    mail.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,)])
    Worker(fire).claim()
    mail.enqueue(3)

    page = text_of(client.part("/queues/mail", "head").text)
    rows = text_of(client.get("/queues/mail").text)

    assert "Next jobs" in rows
    assert re.search("number=2 tenant:7 1 of 1 running .* number=3 A worker", page)


def test_first_jobs_with_limits_are_in_order_of_their_turns(client, fire, mail):
    """The first jobs of all keys come before the second job of any key.

    Other jobs keep their positions. This is the order in which the jobs start.
    """
    of = {key: mail.using(limits=[Turns(f"tenant:{key}")]) for key in (1, 2)}
    urgent = mail.using(limits=[Turns("tenant:2")], priority=9)
    jobs = [of[1].enqueue(1), of[1].enqueue(2), mail.enqueue(3), of[2].enqueue(4), urgent.enqueue(5)]

    head = client.get("/queues/mail").text

    assert [jobs[number].id for number in (0, 4, 1, 2, 3)] == re.findall('<tr id="next-(.*?)"', head)


# ---- pause and resume ------------------------------------------------------------------------------------


def test_pause_is_shown_with_author_time_and_note(fire, client, mail):
    """The list and the queue's page show who paused the queue and when, and the note."""
    mail.enqueue(1)

    answer = client.post("/queues/pause", {"queue": "mail", "note": "provider is down", "back": "/queues"})

    assert (303, "/queues") == (answer.status, answer.location)
    (view,) = fire.queues.list()
    assert (True, "provider is down", "local") == (view.is_paused, view.note, view.paused_by)
    for page in (client.get("/queues").text, client.get("/queues/mail").text):
        assert "provider is down" in page
        assert "Paused by local" in page
    assert [("queue.pause", "mail", "local")] == actions(fire)


def test_pause_and_resume_are_undone(fire, client, mail):
    """Each response contains a form that undoes the action; undoing a resume restores the note."""
    mail.enqueue(1)

    paused = client.act("/queues/pause", {"queue": "mail", "note": "provider is down"}).json()
    resumed = client.act(paused["undo"]["path"], paused["undo"]["fields"]).json()
    (between,) = fire.queues.list()
    client.act(resumed["undo"]["path"], resumed["undo"]["fields"])

    (view,) = fire.queues.list()
    assert ("good", "Queue mail resumed.") == (resumed["kind"], resumed["message"])
    assert (False, None, None) == (between.is_paused, between.paused_by, between.paused_at)
    assert (True, "provider is down") == (view.is_paused, view.note)
    assert client.act("/queues/resume", {"queue": "other"}).json()["undo"] is None
    assert ("queue.resume", "mail", "local") == actions(fire)[2]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("name", ["", "A B", "../x", "x" * 65])
def test_invalid_queue_name_is_refused(fire, client, verb, name):
    """The error names the field and the valid values, and nothing is stored."""
    answer = client.post(f"/queues/{verb}", {"queue": name})

    assert 400 == answer.status
    assert "queue" in answer.text
    assert [] == fire.queues.list()
    assert [] == actions(fire)


def test_note_has_a_maximum_length(client):
    """A note must not have more than 500 characters."""
    assert 400 == client.post("/queues/pause", {"queue": "mail", "note": "x" * 501}).status


# ---- one queue -------------------------------------------------------------------------------------------


def test_next_jobs_of_a_queue_are_shown(fire, client, mail):
    """The page shows the first twenty jobs, by priority and then by age."""
    low = [mail.enqueue(number) for number in range(25)]
    high = mail.using(priority=5).enqueue(99)

    page = client.part("/queues/mail", "head").text

    shown = [part.split('"')[0] for part in page.split('id="next-')[1:]]
    assert [high.id, *(job.id for job in low[:19])] == shown
    assert "send" in page


def test_queue_page_shows_its_servers(fire, client, mail):
    """Servers are listed with their states, and quiet servers are included.

    If there are no servers, the page shows the command that starts one.
    """
    mail.enqueue(1)
    alone = client.get("/queues/mail").text
    serve(fire, "web-1", "mail:2,sums:1")
    serve(fire, "web-2", "sums")
    served = client.get("/queues/mail").text

    assert "firelock server app:fire --queues mail" in alone
    assert ("web-1" in served, "web-2" in served, "sums" in served) == (True, False, True)


def test_page_of_an_unknown_queue_is_not_found(client):
    """The response is a 404 that contains the name."""
    answer = client.get("/queues/nowhere")

    assert 404 == answer.status
    assert "nowhere" in answer.text


# ---- emptying a queue ------------------------------------------------------------------------------------


def test_waiting_jobs_are_deleted_after_the_queue_name_is_typed(fire, dashboard, client, mail):
    """An operation deletes the jobs, and the response contains their number.

    Scheduled jobs and jobs of other queues are not deleted.
    """
    mail.enqueue_many([(number,) for number in range(7)])
    mail.schedule(timedelta(hours=1), 8)
    mail.using(queue="other").enqueue(9)

    reply = client.act("/queues/delete", {"queue": "mail", "typed": "mail"}).json()
    dashboard.runner.join()

    assert "Deleting 7 waiting jobs in mail." == reply["message"]
    (operation,) = fire.operations.list().operations
    assert reply["link"] == f"/activity#operation-{operation.id}"
    assert JobFilter(state=State.ENQUEUED, queue="mail") == attrs.evolve(operation.where, until=None)
    mails, others = (fire.jobs.counts().by_queue[name] for name in ("mail", "other"))
    assert (7, 1, 1) == (mails[State.DELETED], mails[State.SCHEDULED], others[State.ENQUEUED])
    assert [("jobs.delete", "mail", "local")] == actions(fire)


@pytest.mark.parametrize("typed", ["", "mai", "MAIL", "mail2"])
def test_delete_without_the_queue_name_is_refused(fire, client, mail, typed):
    """The error contains the name to type."""
    mail.enqueue(1)

    answer = client.post("/queues/delete", {"queue": "mail", "typed": typed})

    assert 400 == answer.status
    assert "Type mail" in answer.text
    assert [] == fire.operations.list().operations


def test_delete_of_an_empty_queue_starts_no_operation(fire, client):
    """The message states that no jobs are waiting."""
    fire.queues.pause("mail")

    reply = client.act("/queues/delete", {"queue": "mail", "typed": "mail"}).json()

    assert ("note", "No jobs are waiting in mail.") == (reply["kind"], reply["message"])
    assert [] == fire.operations.list().operations
