"""Lists of jobs: states, chips, pages, bounded searches and suggestions."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from itertools import count
from urllib.parse import quote

import pytest

from firelock import Cron, Limit, Retry
from firelock.storage import JobFilter, State
from firelock_dashboard.pages.jobs import SIZES
from firelock_dashboard.stats.job_search import Chips, KnownTasks, find_page, plan
from firelock_dashboard.web.fields import SentFields
from tests.core.fakes import Worker as Failing
from tests.dashboard.flows import claim, end, remember
from tests.dashboard.worker import Worker, job_in


@pytest.fixture
def send(fire):
    """A task that tags its jobs with the user."""

    @fire.task(name="shop.mail.send", queue="mail", tags=["user:{user_id}"])
    def send(user_id: int, note: str = "") -> None: ...

    return send


def rows(answer):
    """Return the ids of the jobs on a page, in order."""
    return re.findall(r'<tr id="job-([^"]+)"', answer.text)


def older(answer):
    found = re.search(r'href="([^"]+)" rel="next"', answer.text)
    return None if found is None else html.unescape(found[1])


# ---- the list --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/jobs", "/retries", *(f"/jobs?state={state}" for state in (
    "awaiting", "scheduled", "enqueued", "processing", "succeeded", "failed", "deleted",
))])  # fmt: skip
def test_empty_job_list_explains_itself(client, page):
    """The page explains which jobs would be listed."""
    answer = client.get(page)

    assert 200 == answer.status
    assert '<div class="empty">' in answer.text


def test_jobs_are_listed_newest_first_with_their_calls(client, send):
    """Each row shows the job's task, arguments, queue and tags."""
    first, second = send.enqueue(7, note="hello"), send.enqueue(8)

    answer = client.get("/jobs")

    assert [second.id, first.id] == rows(answer)
    assert "user_id=7, note=&#34;hello&#34;" in answer.text
    assert "user:7" in answer.text


def test_failed_row_shows_its_error(client, fire, send):
    """The error is shown on the line below the call."""
    job_in(fire, send, "failed")

    assert "TimeoutError: SMTP timed out" in client.get("/jobs?state=failed").text


def test_running_row_labels_its_duration(client, fire, send):
    """A phone shows no column headings, so the row states whether the job is running or only claimed."""
    worker = Worker(fire)
    for is_started in (True, False):
        send.enqueue(1)
        worker.claim(started=is_started)

    page = client.get("/jobs?state=processing").text

    assert {"Claimed", "Time"} == set(re.findall(r'data-label="([^"]+)"><time[^>]* data-running', page))


def test_decline_button_of_a_delete_says_keep(client, send):
    """The button that declines is labelled "Keep", because "Cancel" would be ambiguous.

    This applies to a single row and to a selection.
    """
    job = send.enqueue(1)

    menu, page = client.part(f"/jobs/{job.id}", "menu").text, client.get("/jobs").text

    assert 1 == menu.count('data-no="Keep job"')
    assert 1 == page.count('data-no="Keep jobs"')


def test_row_menu_is_a_link_until_opened(client, send):
    """A closed menu is a link to the job's page, because fifty menus would make the list too large."""
    job = send.enqueue(1)

    text = client.part("/jobs", "rows").text

    assert re.search(rf'<a [^>]*href="/jobs/{job.id}" data-menu aria-label="Actions of send ', text)
    assert "formaction" not in text
    assert "<form" not in text


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        ("enqueued", {"copy", "delete"}), ("scheduled", {"requeue", "copy", "delete"}),
        ("processing", {"copy", "delete"}), ("failed", {"requeue", "copy", "delete"}),
        ("deleted", {"requeue", "copy"}),
    ],
)  # fmt: skip
def test_row_menu_contains_the_actions_of_the_state(client, fire, send, state, actions):
    """The menu is requested separately, as a part of the job's page."""
    job = job_in(fire, send, state)

    answer = client.part(f"/jobs/{job.id}", "menu")

    assert actions == set(re.findall(r'formaction="/jobs/(\w+)" name="one" value="' + job.id, answer.text))
    assert ("data-reschedule" in answer.text) is (state == "scheduled")
    assert "<main" not in answer.text


def test_row_menu_of_a_missing_job_is_a_json_error(client):
    """The error is JSON, because a script requested the menu."""
    answer = client.part("/jobs/gone", "menu", headers={"accept": "text/html, application/json"})

    assert 404 == answer.status
    assert "was not found" in answer.json()["message"]


def test_states_have_tabs_with_counts(client, send):
    """The counts are shown only if the list has no other filter."""
    send.enqueue_many([(number,) for number in range(3)])

    assert re.search(r'Enqueued<span class="number"><span>3', client.get("/jobs").text)
    assert not re.search(
        r'Enqueued<span class="number"><span>3', client.get("/jobs?tag=user:1").text.partition("main")[2]
    )


def test_retries_have_their_own_list(client, fire, send):
    """The list of retries contains only scheduled jobs that wait for a retry."""
    retried, _ = job_in(fire, send, "retrying"), job_in(fire, send, "scheduled")

    assert [retried.id] == rows(client.get("/retries"))
    assert 2 == len(rows(client.get("/jobs?state=scheduled")))


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("task=shop.mail.send", [1, 2, 3]), ("task=send", [1, 2, 3]), ("task=other", []),
        ("tag=user:2", [2]), ("queue=mail", [1, 2, 3]), ("queue=else", []), ("arg=user_id:2", [2]),
        ("arg=note:two", [2]), ("arg=wo", [2]), ("error=SMTP", []), ("created=%3C1h", [1, 2, 3]),
        ("created=%3E1h", []), ("state=enqueued&created=%3C1h", [3, 2, 1]), ("tag=user:2&arg=note:two", [2]),
        ("since=2000-01-01T00:00:00Z", [1, 2, 3]), ("until=2000-01-01T00:00:00Z", []),
    ],
)  # fmt: skip
def test_chips_narrow_the_list(client, send, query, numbers):
    """Each chip excludes the jobs that do not match it, and no others."""
    jobs = {number: send.enqueue(number, note={2: "two"}.get(number, "")) for number in (1, 2, 3)}

    assert [jobs[number].id for number in reversed(numbers)] == rows(client.get(f"/jobs?{query}"))


def test_enqueued_jobs_are_listed_oldest_first(client, send):
    """Jobs are listed in the order in which they wait. A click on the column heading reverses the order."""
    jobs = [send.enqueue(number).id for number in (1, 2, 3)]
    page = client.get("/jobs?state=enqueued")

    assert jobs == rows(page)
    assert 'aria-sort="ascending"' in page.text
    assert jobs[::-1] == rows(client.get("/jobs?state=enqueued&order=newest")) == rows(client.get("/jobs"))


def test_row_shows_state_word_and_tags_on_phones(client, send):
    """On a phone, the word is next to the queue; on wider screens, it is the label of the icon."""
    send.enqueue(2)

    row = client.get("/jobs").text

    assert '<span class="narrow-only" aria-hidden="true">Enqueued</span>' in row
    assert re.search('<td class="tags"><a class="tag clip"[^>]*>user:2</a>', row)


def test_list_is_filtered_by_id_parent_error_and_server(client, fire, send):
    """Some of these filters match properties that only some jobs have."""
    parent = send.enqueue(1)
    child = parent.then(send, 2)
    worker = Worker(fire)
    worker.fail(worker.claim())

    assert [parent.id] == rows(client.get(f"/jobs?id={parent.id}"))
    assert [child.id] == rows(client.get(f"/jobs?parent={parent.id}"))
    assert [parent.id] == rows(client.get("/jobs?fingerprint=f1"))
    assert [parent.id] == rows(client.get("/jobs?error=timeouterror"))
    assert [parent.id] == rows(client.get("/jobs?server=web-1%3A42"))


def test_filter_without_matches_offers_to_remove_conditions(client, send):
    """The page offers to remove each filter, including the state."""
    send.enqueue(1)

    text = client.get("/jobs?state=failed&tag=eu&queue=mail").text

    assert "Without tag eu" in text
    assert "In any state" in text


@pytest.mark.parametrize(
    "query",
    [
        "state=x", "limit=0", "limit=-1", "limit=24", "limit=201", "limit=1e3", "limit=%D9%A3",
        "limit=50&limit=50", "limit=1000000000", "limit=1000000000000000000", "limit=50.0", "limit=0x40",
        "order=name%3Bdrop", "order=oldest&order=newest", "tag=" + "x" * 10_000,
        "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "since=2026-13-01T00:00:00Z",
        "order=name", "cursor=nonsense", "cursor=" + "x" * 601, "cursor=a|1|b", "created=yesterday", "at=now",
        "error=x&cursor=nonsense", "q=%00", "q=" + "x" * 1_001, "q=created:never", "task=" + "x" * 201,
    ],
)  # fmt: skip
def test_invalid_field_is_refused(client, send, query):
    """The error names the field and contains no traceback."""
    send.enqueue(1)

    answer = client.get(f"/jobs?{query}", headers={"accept": "application/json"})

    assert 400 == answer.status
    assert any(name in answer.json()["message"] for name in re.findall(r"[a-z]+(?=[=:])", query))
    assert "Traceback (most" not in answer.text


@pytest.mark.parametrize("field", ["task", "queue", "tag", "server", "error", "id", "parent", "fingerprint"])
def test_pattern_characters_are_literal(client, send, field):
    """The characters of a pattern are searched for literally, so they match nothing."""
    send.enqueue(1)

    for text in ("%", "_", "\\", "'", '"', "*", "' OR 1=1 --", ".*"):
        answer = client.get(f"/jobs?{field}={quote(text)}")
        assert (200, []) == (answer.status, rows(answer)), text


@pytest.mark.parametrize("query", ["limit=", "order=", "state=", "tag="])
def test_empty_field_is_ignored(client, send, query):
    """An empty field does not change the list."""
    job = send.enqueue(1)

    answer = client.get(f"/jobs?{query}")

    assert (200, [job.id]) == (answer.status, rows(answer))


def test_new_rows_pill_requests_only_a_number(client, send):
    """The pill shows the number of rows above the page's previous top row, with a + if there may be more."""
    jobs = send.enqueue_many([(number,) for number in range(30)])
    top = jobs[26].id

    answers = [
        client.part(f"/jobs?top={top}", "pill"), client.part(f"/jobs?limit=25&top={jobs[0].id}", "pill"),
        client.part("/jobs?top=0190-gone", "pill"), client.part(f"/jobs?top={jobs[29].id}", "pill"),
    ]  # fmt: skip

    assert ["3", "25+", "30+", "0"] == [answer.text.strip() for answer in answers]


# ---- pages -----------------------------------------------------------------------------------------------


def all_pages(client, address):
    """Return the ids of the jobs of a list, page by page."""
    shown = []
    while address:
        answer = client.get(address)
        shown += rows(answer)
        address = older(answer)
    return shown


def test_every_job_is_on_exactly_one_page(client, send):
    """No job is missing or repeated, in either order. A search continues in the middle of a storage page."""
    made = [send.enqueue(number, note="odd" if number % 2 else "even").id for number in range(120)]

    assert made[::-1] == all_pages(client, "/jobs?limit=25")
    assert made == all_pages(client, "/jobs?limit=25&order=oldest")
    assert made[::-2] == all_pages(client, "/jobs?limit=25&arg=note:odd")


def test_age_filter_is_fixed_on_the_first_page(client, send):
    """On all pages, "younger than an hour" is relative to the time of the first page."""
    for number in range(30):
        send.enqueue(number)

    following = older(client.get("/jobs?limit=25&created=%3C1h"))

    assert "at=" in following
    assert 5 == len(rows(client.get(following)))


def test_search_is_bounded_and_can_be_continued(fire, send):
    """The search ends after ten thousand jobs or when its time is used up, and can be continued."""
    send.enqueue_many([(number,) for number in range(1_200)])
    chips = Chips.read(SentFields.parse("error=never"))
    search = plan(chips, _now(fire), KnownTasks(), lambda job: None)
    ticks = count()

    found = find_page(fire, search, limit=50, cursor=None, seconds=13, monotonic=lambda: next(ticks))

    assert found.is_cut
    assert 1_000 == found.examined
    rest = find_page(fire, search, limit=50, cursor=found.cursor, seconds=3_600)
    assert (200, False, None) == (rest.examined, rest.is_cut, rest.cursor)


def _now(fire):
    from firelock.model.clock import from_micros

    return from_micros(fire.client.clock.now())


def test_page_sizes_are_offered(client, send):
    """Each offered size is within the accepted bounds."""
    send.enqueue(1)

    text = client.get("/jobs").text

    assert all(f"limit={size}" in text for size in SIZES if size != 50)


# ---- typed text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("state:failed task:send", "/jobs?state=failed&task=send"),
        ("args.user_id:7 created:>2h", "/jobs?created=%3E2h&arg=user_id%3A7"),
        ("retrying", "/retries"), ("state:retrying queue:mail", "/retries?queue=mail"),
        ("01a21315-d083-7e9d-b0bd-0b1fd43b99d1", "/jobs/01a21315-d083-7e9d-b0bd-0b1fd43b99d1"),
        ("", "/jobs"), ("timed out", "/jobs?error=timed+out"), ("send", "/jobs?task=send"),
        ("queue:mail&state=failed&tag=eu", "/jobs?state=failed&queue=mail&tag=eu"),
    ],
)  # fmt: skip
def test_typed_search_redirects_to_a_shareable_url(client, send, typed, address):
    """The URL can be shared, the back button works, and the existing chips are kept."""
    typed, _, chips = typed.partition("&")
    answer = client.get(f"/jobs?q={quote(typed)}&{chips}")

    assert (303, address) == (answer.status, answer.location)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", "state:"), ("sta", "state:"), ("state:fa", "state:failed"), ("task:se", "task:shop.mail.send"),
        ("queue:m", "queue:mail"), ("tag:us", "tag:user:7"),
        ("state:failed task:", "state:failed task:shop.mail.send"),
        ("server:we", "server:web-1:42"), ("error:Time", "error:TimeoutError"),
        ("created:", "created:&lt;1h"),
        ("sen", "task:shop.mail.send"), ("recurring:", "recurring:nightly"),
    ],
)  # fmt: skip
def test_typed_text_gets_suggestions(client, fire, send, typed, offered):
    """The suggestions are known states, tasks, queues, servers, tags and errors."""
    send.enqueue(7)
    send.recur("nightly", Cron("0 2 * * *"), 1)
    worker = Worker(fire)
    worker.fail(worker.claim())
    send.enqueue(7)

    answer = client.get(f"/jobs/suggest?q={quote(typed)}")

    assert 'role="option"' in answer.text
    assert f'data-value="{offered}' in answer.text


def test_unknown_text_gets_no_suggestions(client, send):
    """The list of suggestions is empty, without an error."""
    assert "option" not in client.get("/jobs/suggest?q=zzz:yyy").text


# ---- cost ------------------------------------------------------------------------------------------------


def test_job_list_needs_few_storage_calls(client, fire, send, monkeypatch):
    """The number of calls does not depend on the number of rows."""
    send.enqueue_many([(number,) for number in range(100)])
    calls = []
    find = type(fire.storage).find
    monkeypatch.setattr(
        type(fire.storage), "find", lambda self, *a, **k: calls.append(a) or find(self, *a, **k)
    )

    client.get("/jobs?limit=100")

    assert [(JobFilter(),)] == calls


# ---- order by due time ------------------------------------------------------------------------------------


@pytest.fixture
def due(fire, send):
    """The ids of scheduled jobs, next due first, which differs from the order of creation."""
    hours = (5, 1, 4, 2, 3)
    made = {hour: send.schedule(timedelta(hours=hour), hour).id for hour in hours}
    return [made[hour] for hour in sorted(hours)]


def test_scheduled_jobs_are_listed_by_due_time(client, due):
    """The next due job is first.

    The column heading reverses the order, and the jobs can still be sorted by their last change.
    """
    soonest = client.get("/jobs?state=scheduled")
    turned = html.unescape(re.search(r'class="sort" href="([^"]+)"', soonest.text)[1])
    latest = client.get(turned)

    assert due == rows(soonest)
    assert '<th scope="col" aria-sort="ascending"' in soonest.text
    assert "/jobs?state=scheduled&order=latest" == turned
    assert due[::-1] == rows(latest)
    assert 'class="sort" href="/jobs?state=scheduled"' in latest.text
    assert set(due) == set(rows(client.get("/jobs?state=scheduled&order=newest")))
    assert due != rows(client.get("/jobs?state=scheduled&order=newest"))


def test_pages_by_due_time_show_each_job_once(fire, client, send):
    """Jobs may have the same due time, and a filter may have to be tested for each job."""
    at = datetime.now(UTC) + timedelta(hours=1)
    ids = [send.schedule(at + timedelta(minutes=number // 7), number, note="x").id for number in range(60)]

    for more in ("", "&arg=note:x"):
        shown = all_pages(client, f"/jobs?state=scheduled&limit=25{more}")
        due = [fire.jobs.get(one).due_at for one in shown]
        assert (sorted(ids), sorted(due)) == (sorted(shown), due)


def test_retries_are_listed_by_due_time(fire, client):
    """The next attempt is first."""

    @fire.task(name="shop.flaky", retry=Retry.fixed(timedelta(minutes=1), attempts=3))
    def flaky(number: int) -> None:
        raise ValueError(number)

    first, second = flaky.enqueue(1), flaky.enqueue(2)
    Failing(fire).run()
    fire.jobs.reschedule([first.id], timedelta(hours=9))

    assert [second.id, first.id] == rows(client.get("/retries"))
    assert [first.id, second.id] == rows(client.get("/retries?order=latest"))


def test_due_order_is_refused_for_other_states(client, due):
    """Jobs of other states cannot be sorted by due time, and the tabs do not keep this order."""
    page = client.get("/jobs?state=scheduled&order=latest").text

    assert 400 == client.get("/jobs?state=failed&order=soonest").status
    assert 400 == client.get("/jobs?order=soon").status
    assert 'id="tab-failed" href="/jobs?state=failed"' in page


def test_action_on_all_matching_jobs_ignores_the_order(fire, client, due):
    """The order affects only the list. Operations cannot be restricted to a range of due times."""
    moment = quote((datetime.now(UTC) + timedelta(hours=2, minutes=30)).isoformat())

    whole = client.get("/jobs/all?verb=delete&state=scheduled")
    window = client.get(f"/jobs/all?verb=delete&state=scheduled&since={moment}")
    listed = client.get(f"/jobs?state=scheduled&since={moment}")

    assert (200, 400) == (whole.status, window.status)
    assert "5 jobs match" in whole.text
    assert due[2:] == rows(listed)


def test_export_keeps_the_order_of_the_list(client, due):
    """The next due job is first."""
    assert due == client.get("/jobs/export?format=ids&state=scheduled").text.split()


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_time_outside_the_calendar_is_refused(client, moment):
    """A time close to the limits of the calendar may be impossible to convert from its time zone to UTC."""
    for target in ("/jobs?since=", "/jobs?until=", "/api/jobs?since="):
        assert 400 == client.get(f"{target}{quote(moment)}").status


def test_row_shows_the_job_id_and_its_limits(fire, client):
    """Each row shows the short id.

    The text above the list states its order, and the text below the list consists of whole sentences.
    """

    @fire.task(
        name="shop.ask", limits=[Limit("openai", concurrent=1), Limit("customer:{customer}", concurrent=1)]
    )
    def ask(customer: int) -> None: ...

    jobs = [ask.enqueue(12), ask.enqueue(13)]

    page = client.part("/jobs?arg=customer:12", "rows").text
    every = client.part("/jobs", "rows").text
    oldest = client.part("/jobs?order=oldest", "rows").text

    assert "limits openai and customer:12</span>" in page
    assert all(f'<span class="mono muted id">{job.id[-8:]}</span>' in every for job in jobs)
    assert "All 2 jobs were searched." in page
    assert 'Created<span class="order">, newest first' in every
    assert 'Created<span class="order">, oldest first' in oldest


def test_waiting_row_shows_its_reason(fire, client):
    """A job waits for other jobs, a signal, or a limit. The awaited jobs of all rows are read together."""

    @fire.task(name="shop.first")
    def first() -> None: ...

    @fire.task(name="shop.ask", limits=[Limit("openai", concurrent=1)])
    def ask() -> None: ...

    first.enqueue()
    (job,) = claim(fire)
    remember(fire, job, "signal", "manager", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal manager", gives_back=True)
    ask.enqueue()
    parents = [first.enqueue(), first.enqueue()]
    first.using(after=parents).enqueue()

    page = client.part("/jobs", "rows").text
    row = page.split(f'id="job-{job.id}"')[1].split("</tr>")[0]

    assert "for 2 of 2 jobs" in page
    assert "limit openai" in page  # only the pages of the job and the limit name the holder
    assert "for an answer to “manager”" in row
    assert f'href="/jobs/{job.id}#answer-title"' in row
    assert 1 == page.count("#answer-title")


@pytest.mark.parametrize(("signal", "number"), [("manager", 2), ("lawyer", 1), ("*", 3), ("manage", 0)])
def test_jobs_are_filtered_by_awaited_signal(fire, client, signal, number):
    """The filter is the signal's name, or `*` for all signals.

    It does not match jobs that wait for other jobs.
    """

    @fire.task(name="shop.first")
    def first() -> None: ...

    for name in ("manager", "manager", "lawyer"):
        first.enqueue()
        (job,) = claim(fire)
        remember(fire, job, "signal", name, None, is_done=False)
        end(fire, job, State.AWAITING, waits_for=f"signal {name}", gives_back=True)
    first.using(after=first.enqueue()).enqueue()

    page = client.part(f"/jobs?state=awaiting&signal={signal}", "rows").text

    assert number == page.count("#answer-title") == page.count('<tr id="job-')


def test_row_with_a_failed_parent_shows_that_it_cannot_start(fire, client):
    """The row names the failed task and shows how many of the other parents have succeeded."""

    @fire.task(name="shop.load", retry=Retry.never())
    def load(day: int) -> None: ...

    days = load.enqueue_many([(day,) for day in range(3)])
    load.using(after=days).enqueue(99)
    worker = Worker(fire)
    for _ in range(2):
        worker.succeed(worker.claim())
    left = client.get("/jobs?state=awaiting").text
    worker.fail(worker.claim())
    failed = client.get("/jobs?state=awaiting").text

    assert "for 1 of 3 jobs" in left
    assert "cannot start: load failed (2 of 3 done)" in failed


def test_list_shows_its_size_and_retention(fire, client, send):
    """The number of jobs is shown if all of them are on the page, with or without a filter.

    The list also states how long ended jobs are kept.
    """
    for number in range(3):
        send.enqueue(number)
    worker = Worker(fire)
    worker.succeed(worker.claim())

    foot = [client.get(f"/jobs?{query}").text.partition("list-foot")[2] for query in (
        "tag=user:1", "state=succeeded", "state=enqueued", "state=failed", "",
    )]  # fmt: skip

    assert ["1 job.<", "1 job.<", "2 jobs<", "", "3 jobs.<"] == [
        found[0] if (found := re.search(r"\d+ jobs?\.?<", one)) else "" for one in foot
    ]
    succeeded, failed = r"Succeeded jobs are kept for 1\sd, unless", r"Failed jobs are kept for 30\sd\."
    assert [True, True, False, False, True] == [bool(re.search(succeeded, one)) for one in foot]
    assert [False, False, False, True, False] == [bool(re.search(failed, one)) for one in foot]
