"""Queues: what waits, how long, who listens; pause with a note, resume, and emptying one."""

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
    """A server has a session that lasts a day."""
    now = fire.client.clock.now()
    session = NewSession(f"session of {name}", f"id-{name}", name, "host", 7, now, DAY, workers, serves)
    fire.storage.begin_session(session)
    fire.storage.renew([Renewal(session.id, 2, state, 50_000_000, 12.5)])


def bars(page):
    """The lengths of the queues' bars, of 100."""
    return re.findall(r'<rect class="state-enqueued"[^>]* width="([0-9.]+)"', page)


def actions(fire):
    return [(entry.action, entry.target, entry.by) for entry in fire.audit.list()]


# ---- what a server listens to ----------------------------------------------------------------------------


def test_a_server_that_is_late_is_stale_and_then_lost(fire):
    """Stale when it has missed renewals, lost when its session is over, whatever it said last."""
    serve(fire)
    (server,) = fire.servers.list()
    (record,) = server.sessions
    timeout = int(record.session.timeout_seconds * 1_000_000)

    states = [server.state_at(record.expires_at - timeout * left // 10) for left in (9, 1, 0)]

    assert [ServerState.ACTIVE, ServerState.STALE, ServerState.LOST] == states
    gone = attrs.evolve(server, is_alive=False, sessions=(attrs.evolve(record, is_alive=False),))
    assert ServerState.LOST is gone.state_at(record.expires_at - timeout)


# ---- the list --------------------------------------------------------------------------------------------


def test_without_queues_the_page_says_so(client):
    """An empty page teaches."""
    page = client.get("/queues")

    assert 200 == page.status
    assert "No queue has jobs yet" in page.text


def test_the_load_of_all_queues_has_one_scale(fire, client, mail):
    """The fullest fills its bar; another's is as long as its jobs beside that, and never empty."""
    for name, count in (("a-full", 400), ("b-few", 100), ("c-one", 1)):
        mail.using(queue=name).enqueue_many([(number,) for number in range(count)])

    page = client.get("/queues").text
    behind = client.get("/queues?after=a-full").text

    assert ["100.00", "25.00", "2.00"] == bars(page)
    assert ["25.00", "2.00"] == bars(behind)


def test_a_queue_shows_what_it_holds(fire, client, mail):
    """Numbers that lead to its jobs, its listeners, its state."""
    mail.enqueue_many([(1,), (2,), (3,)])
    mail.schedule(timedelta(hours=1), 4)
    serve(fire, workers=4)

    page = client.get("/queues").text

    assert 'href="/queues/mail"' in page
    assert '/jobs?state=enqueued&amp;queue=mail"><span>3</span></a>' in page
    assert '/jobs?state=scheduled&amp;queue=mail"><span>1</span></a>' in page
    assert "1 server · 4 slots" in page
    assert "Served" in page


def test_jobs_that_nobody_takes_are_told(client, mail):
    """Waiting jobs without a listener are what an operator must see."""
    mail.enqueue(1)

    assert "Nobody listens" in client.part("/queues", "rows").text


@pytest.mark.parametrize(("minutes", "told"), [(1, []), (5, ["late"]), (31, ["very_late"])])
def test_a_long_wait_is_marked(fire, client, mail, minutes, told):
    """Amber from five minutes, red from half an hour."""
    mail.enqueue(1)
    fire.storage.clock_offset += minutes * 60_000_000

    assert told == re.findall(r'class="aged (\w+)"', client.part("/queues", "rows").text)


@pytest.mark.parametrize(("path", "part"), [("/queues", "rows"), ("/queues/mail", "facts")])
def test_what_a_limit_holds_is_no_wait(fire, client, mail, path, part):
    """A queue waits since its first job that no limit holds is there; those before it are counted."""
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
    """How long a queue waits, without the seconds; None where nothing does that could start."""
    found = re.search(r"data-running>(\d+ min)", page)
    return found and found[1]


def test_what_clears_and_what_grows(fire, mail):
    """At the current rate: so many minutes, or never if no server listens or as many jobs come as go.

    A limit that holds the first jobs leaves no number to show.
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
    """At most 25 on a page; the next one begins behind the last."""
    for number in range(28):
        fire.queues.pause(f"q{number:02}")

    first, second = client.get("/queues").text, client.get("/queues?after=q24").text

    assert ('id="queue-q24"' in first, 'id="queue-q25"' in first) == (True, False)
    assert "after=q24" in first
    assert ('id="queue-q24"' in second, 'id="queue-q27"' in second) == (False, True)


def test_the_oldest_wait_is_shown_while_limits_hold_all_that_waits(fire, client, mail):
    """With the reason in place of a warning: no worker is missing."""
    fire.limits.set("tenant", concurrent=1)
    mail.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,)])
    Worker(fire).claim()
    fire.storage.clock_offset += 3 * 3_600 * 1_000_000

    listed, own = client.get("/queues").text, client.get("/queues/mail").text

    for page in (listed, own):
        assert re.search(r"3\sh( 00\smin)? ?; held by limits now", text_of(page))
        assert "waits very long" not in page


def test_the_first_jobs_have_their_arguments_and_the_limits_that_hold_them(fire, client, mail):
    """In the order of priority and age."""
    fire.limits.set("tenant", concurrent=1)
    mail.using(limits=[Turns("tenant:7")]).enqueue_many([(1,), (2,)])
    Worker(fire).claim()
    mail.enqueue(3)

    page = text_of(client.part("/queues/mail", "head").text)
    rows = text_of(client.get("/queues/mail").text)

    assert "Next jobs" in rows
    assert re.search("number=2 tenant:7 1 of 1 running .* number=3 A worker", page)


def test_the_first_jobs_with_limits_take_turns(client, fire, mail):
    """The first of each key, then the second of each, as they start; other jobs keep their places."""
    of = {key: mail.using(limits=[Turns(f"tenant:{key}")]) for key in (1, 2)}
    urgent = mail.using(limits=[Turns("tenant:2")], priority=9)
    jobs = [of[1].enqueue(1), of[1].enqueue(2), mail.enqueue(3), of[2].enqueue(4), urgent.enqueue(5)]

    head = client.get("/queues/mail").text

    assert [jobs[number].id for number in (0, 4, 1, 2, 3)] == re.findall('<tr id="next-(.*?)"', head)


# ---- pause and resume ------------------------------------------------------------------------------------


def test_a_pause_is_shown_with_who_when_and_why(fire, client, mail):
    """In the list and on the queue's own page."""
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
    """Each brings the form of the other; an undone resume has the note again."""
    mail.enqueue(1)

    paused = client.act("/queues/pause", {"queue": "mail", "note": "provider is down"}).json()
    resumed = client.act(paused["undo"]["path"], paused["undo"]["fields"]).json()
    (between,) = fire.queues.list()
    client.act(resumed["undo"]["path"], resumed["undo"]["fields"])

    (view,) = fire.queues.list()
    assert ("good", "Queue mail is resumed.") == (resumed["kind"], resumed["message"])
    assert (False, None, None) == (between.is_paused, between.paused_by, between.paused_at)
    assert (True, "provider is down") == (view.is_paused, view.note)
    assert client.act("/queues/resume", {"queue": "other"}).json()["undo"] is None
    assert ("queue.resume", "mail", "local") == actions(fire)[2]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize("name", ["", "A B", "../x", "x" * 65])
def test_a_wrong_name_is_refused(fire, client, verb, name):
    """With the field, and what may be written there; nothing is stored."""
    answer = client.post(f"/queues/{verb}", {"queue": name})

    assert 400 == answer.status
    assert "queue" in answer.text
    assert [] == fire.queues.list()
    assert [] == actions(fire)


def test_a_note_has_a_limit(client):
    """Of 500 characters."""
    assert 400 == client.post("/queues/pause", {"queue": "mail", "note": "x" * 501}).status


# ---- one queue -------------------------------------------------------------------------------------------


def test_the_next_in_line_are_told(fire, client, mail):
    """By priority, then by how long they wait; twenty of them."""
    low = [mail.enqueue(number) for number in range(25)]
    high = mail.using(priority=5).enqueue(99)

    page = client.part("/queues/mail", "head").text

    shown = [part.split('"')[0] for part in page.split('id="next-')[1:]]
    assert [high.id, *(job.id for job in low[:19])] == shown
    assert "send" in page


def test_the_page_of_a_queue_shows_who_listens(fire, client, mail):
    """Quiet ones too, with their state; without any, the command that starts one."""
    mail.enqueue(1)
    alone = client.get("/queues/mail").text
    serve(fire, "web-1", "mail:2,sums:1")
    serve(fire, "web-2", "sums")
    served = client.get("/queues/mail").text

    assert "firelock server app:fire --queues mail" in alone
    assert ("web-1" in served, "web-2" in served, "sums" in served) == (True, False, True)


def test_there_is_no_page_of_an_unknown_queue(client):
    """404, with its name."""
    answer = client.get("/queues/nowhere")

    assert 404 == answer.status
    assert "nowhere" in answer.text


# ---- emptying one ----------------------------------------------------------------------------------------


def test_all_that_waits_is_deleted_where_the_name_was_typed(fire, dashboard, client, mail):
    """By an operation that says how many; scheduled jobs and those of other queues are left alone."""
    mail.enqueue_many([(number,) for number in range(7)])
    mail.schedule(timedelta(hours=1), 8)
    mail.using(queue="other").enqueue(9)

    said = client.act("/queues/delete", {"queue": "mail", "typed": "mail"}).json()
    dashboard.runner.join()

    assert "Deleting 7 jobs that wait in mail." == said["message"]
    (operation,) = fire.operations.list().operations
    assert said["link"] == f"/activity#operation-{operation.id}"
    assert JobFilter(state=State.ENQUEUED, queue="mail") == attrs.evolve(operation.where, until=None)
    mails, others = (fire.jobs.counts().by_queue[name] for name in ("mail", "other"))
    assert (7, 1, 1) == (mails[State.DELETED], mails[State.SCHEDULED], others[State.ENQUEUED])
    assert [("jobs.delete", "mail", "local")] == actions(fire)


@pytest.mark.parametrize("typed", ["", "mai", "MAIL", "mail2"])
def test_without_its_name_nothing_is_deleted(fire, client, mail, typed):
    """The message says what to type."""
    mail.enqueue(1)

    answer = client.post("/queues/delete", {"queue": "mail", "typed": typed})

    assert 400 == answer.status
    assert "type mail" in answer.text
    assert [] == fire.operations.list().operations


def test_an_empty_queue_starts_no_operation(fire, client):
    """There is nothing to be done."""
    fire.queues.pause("mail")

    said = client.act("/queues/delete", {"queue": "mail", "typed": "mail"}).json()

    assert ("note", "Nothing waits in mail.") == (said["kind"], said["message"])
    assert [] == fire.operations.list().operations
