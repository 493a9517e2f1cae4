"""Limits: holders and waiting jobs of keys, settings and pauses; unique keys; the limits on a job's page."""

from __future__ import annotations

import re
from html import unescape

import pytest

from firelock import Limit, Turns, Unique
from firelock.storage import DURATION_BUCKETS, ClaimRequest, NewSession, Rollup

MINUTE = 60_000_000


@pytest.fixture
def report(fire):
    """A task whose limit allows two concurrent jobs per tenant."""

    @fire.task(name="shop.report", limits=[Limit("tenant:{tenant_id}", concurrent=2)])
    def report(tenant_id: int, number: int) -> None: ...

    fire.limits.sync()
    return report


def claim(fire, count=10):
    """Claim the jobs that may start for a session, and return them."""
    storage = fire.storage
    storage.begin_session(NewSession("one", "one", "web-1", "host", 7, 0, 3_600.0, 10))
    return storage.claim(ClaimRequest(None, count, "one", storage.clock())).jobs


def actions(fire):
    return [(entry.action, entry.target) for entry in fire.audit.list()]


def test_page_without_limits_explains_how_to_add_one(client):
    """The page explains how to add a limit to a task."""
    page = client.get("/limits")

    assert 200 == page.status
    assert "No jobs hold a limit or wait for one" in page.text


def test_key_row_shows_running_and_waiting_jobs(fire, client, report):
    """Each key has one row, which shows its running and waiting jobs and the settings of its name."""
    report.enqueue_many([(7, number) for number in range(5)])
    jobs = claim(fire)

    listed, one = client.get("/limits").text, client.get("/limits/key?key=tenant:7").text

    assert 2 == len(jobs)
    assert "tenant:7" in listed
    assert "2 of 2" in listed
    assert "2 at once" in listed
    assert "tenant:{tenant_id}" in listed
    assert all(f"/jobs/{job.id}" in one for job in jobs)


def test_page_of_a_limit_name_shows_only_its_settings(fire, client, report):
    """No job uses the name itself as a key, so the pages of its keys show the running and waiting jobs."""
    report.enqueue(7, 1)
    claim(fire)

    name, key = client.get("/limits/key?key=tenant").text, client.get("/limits/key?key=tenant:7").text

    assert ("tenant:{tenant_id}" in name, "2 at once" in name) == (True, True)
    assert "jobs run and wait at the keys" in name
    assert 'href="/limits?prefix=tenant%3A"' in name or 'href="/limits?prefix=tenant:"' in name
    assert ("1 of 2" in key, "0 of 2" in name) == (True, False)


def test_waiting_job_links_to_its_limit(fire, client, report):
    """The job's page links to the page of the limit key."""
    jobs = report.enqueue_many([(7, number) for number in range(3)])
    claim(fire)

    page = client.get(f"/jobs/{jobs[2].id}").text

    assert "limit tenant:7 (2 of 2 running)" in page
    assert "/limits/key?key=tenant%3A7" in page or "/limits/key?key=tenant:7" in page


def test_limit_settings_are_changed_and_reset(fire, client, report):
    """The settings of a key or a name can be changed. The audit records each change."""
    client.post("/limits/set", {"key": "tenant", "concurrent": "3", "rate": "", "per": "", "burst": ""})
    changed = fire.limits.get("tenant:7")
    client.post("/limits/reset", {"key": "tenant"})

    assert (3, "operator") == (changed.concurrent, changed.source)
    assert 2 == fire.limits.get("tenant:7").concurrent
    assert [("limit.reset", "tenant"), ("limit.set", "tenant")] == actions(fire)[:2]


def test_rate_is_set_with_its_period(fire, client, report):
    """The period is in seconds, and the burst is optional."""
    client.post(
        "/limits/set", {"key": "tenant:9", "concurrent": "", "rate": "90", "per": "60", "burst": "10"}
    )

    view = fire.limits.get("tenant:9")

    assert (90, 60.0, 10) == (view.rate, view.per.total_seconds(), view.burst)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "tenant", "concurrent": "-1"}, "-1"),
        ({"key": "tenant", "concurrent": "2000"}, "2000"),
        ({"key": "tenant", "rate": "5", "per": "soon"}, "soon"),
        ({"key": ""}, "key"),
    ],
)
def test_invalid_number_is_refused_with_its_value(fire, client, report, fields, message):
    """The error contains the value, and nothing is changed."""
    given = {"key": "", "concurrent": "", "rate": "", "per": "", "burst": ""} | fields
    answer = client.post("/limits/set", given)

    assert 400 == answer.status
    assert message in answer.text
    assert 2 == fire.limits.get("tenant:7").concurrent


def test_limit_is_paused_with_a_note_and_resumed(fire, client, report):
    """No job with this key starts during the pause. The note is shown wherever the limit is shown."""
    client.post("/limits/pause", {"key": "tenant:7", "note": "till noon"})
    report.enqueue(7, 1)
    paused, page = claim(fire), client.get("/limits").text
    client.post("/limits/resume", {"key": "tenant:7"})

    assert [] == paused
    assert "till noon" in page
    assert 1 == len(claim(fire))
    assert [("limit.resume", "tenant:7"), ("limit.pause", "tenant:7")] == actions(fire)[:2]


def test_unique_keys_link_to_their_jobs(fire, client):
    """Each row shows the task and the key, and links to the job."""

    @fire.task(name="shop.index", unique=Unique("doc:{doc_id}"), limits=[Turns("doc:{doc_id}")])
    def index(doc_id: int) -> None: ...

    job = index.enqueue(3)
    index.enqueue(3)

    page, of_job = client.get("/limits/unique").text, client.get(f"/jobs/{job.id}").text

    assert "doc:3" in page
    assert f"/jobs/{job.id}" in page
    assert "Unique key" in of_job


def test_keys_are_paged_and_searched(fire, client, report):
    """A page has fifty keys; the search matches the beginning of a key."""
    report.enqueue_many([(number, 0) for number in range(100, 160)])

    first = client.get("/limits").text
    found = client.get("/limits?prefix=tenant:15").text

    assert "Next keys" in first
    assert "tenant:149" not in found
    assert "tenant:151" in found


# ---- waiting jobs ------------------------------------------------------------------------------------------


def words(page):
    """Return the text of a page without its tags, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\u202f", " ").split())


def rows(page):
    """Return the cells of each waiting job as text, in the order of the page."""
    found = re.findall(r'<tr id="waiting-.*?</tr>', page, re.DOTALL)
    return [[words(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in found]


def exporting(fire, count):
    """Enqueue jobs of a task with a limit of two, start the first two, and return all.

    Recent runs of the task took ten minutes.
    """

    @fire.task(name="shop.export", limits=[Limit("warehouse", concurrent=2)])
    def export(number: int) -> None: ...

    fire.limits.sync()
    jobs = export.enqueue_many([(number,) for number in range(count)])
    claim(fire)
    minute = fire.client.clock.now() // MINUTE * MINUTE
    histogram = (0,) * (len(DURATION_BUCKETS) + 1)
    fire.storage.record_metrics(
        [Rollup(minute, "shop.export", "default", "succeeded", 2, 20 * MINUTE, histogram)]
    )
    return jobs


def test_key_page_shows_waiting_jobs_with_order_reason_and_wait(fire, client):
    """Each row shows the job's position, call and wait, the limit that delays it, and its estimated start."""
    jobs = exporting(fire, 5)

    page = client.get("/limits/key?key=warehouse").text
    found = rows(page)

    assert "Full: 2 of 2 running. The next job starts when one of them ends." in words(page)
    assert ["1", "2", "3"] == [row[0] for row in found]
    assert [f"shop. export {job.id[-8:]} number={number}" for number, job in enumerate(jobs[2:], 2)] == [
        row[1] for row in found
    ]
    assert ["This limit 2 of 2 running"] * 3 == [row[2] for row in found]
    assert ["in 5 min", "in 10 min", "in 15 min"] == [row[4] for row in found]
    assert all(f"/jobs/{job.id}" in page for job in jobs[2:])


def test_waiting_jobs_of_a_key_are_paged(fire, client):
    """A page has twenty-five jobs and a link to the next page.

    The number of waiting jobs in the list of limits is a link to the first page.
    """
    exporting(fire, 62)

    first = client.get("/limits/key?key=warehouse").text
    last = client.get("/limits/key?key=warehouse&after=50").text
    beyond = client.get("/limits/key?key=warehouse&after=10001")

    assert ["1", "25"] == [rows(first)[0][0], rows(first)[-1][0]]
    assert [str(place) for place in range(51, 61)] == [row[0] for row in rows(last)]
    assert "key=warehouse&amp;after=25#waiting" in first
    assert ("Next jobs" in first, "Next jobs" in last, "First jobs" in last) == (True, False, True)
    assert 400 == beyond.status
    assert "/limits/key?key=warehouse#waiting" in client.get("/limits").text


def test_key_with_waiting_jobs_is_never_shown_as_open(fire, client):
    """The row names the key that delays the jobs, or states that the jobs wait."""

    @fire.task(
        name="shop.describe",
        limits=[Limit("openai", rate=6, per=3_600, burst=1), Limit("customer:{customer}", concurrent=1)],
    )
    def describe(customer: int) -> None: ...

    fire.limits.sync()
    describe.enqueue_many([(number % 3,) for number in range(9)])
    fire.storage.spend("openai", cost=1)

    listed = client.part("/limits", "rows").text
    one = "".join(client.part("/limits/key?key=customer:1", part).text for part in ("facts", "waiting"))

    assert 3 == words(listed).count("Waiting for openai")
    assert re.search("Rate used up, opens in (9|10) min", words(listed))
    assert "This limit has free places, but its jobs are waiting for openai" in words(one)
    assert "This limit has free places for these jobs, but another limit does not. 1" in words(one)
    assert ["1", "2", "3"] == [row[0] for row in rows(one)]
    assert all(re.match("openai opens in (9|10) min", row[2]) for row in rows(one))
    assert "Open" not in words(listed) + words(one)
    fire.limits.set("openai", rate=None, concurrent=99)
    assert "Open" not in words(client.part("/limits", "rows").text)
    fire.jobs.delete([job.id for job in fire.jobs.find(limit=100)])
    assert "No jobs are waiting for this limit." in words(client.get("/limits/key?key=openai").text)


@pytest.mark.parametrize(
    ("change", "state", "starts"),
    [
        (lambda fire: fire.limits.pause("warehouse"), "The limit is paused.", "when resumed"),
        (
            lambda fire: fire.limits.set("warehouse", concurrent=0),
            "The limit is set to 0.", "when raised",
        ),
        (
            lambda fire: (
                fire.limits.set("warehouse", concurrent=90),
                fire.storage.spend("warehouse", until=fire.storage.clock() + 90 * 1_000_000),
            ),
            "The limit is closed until", "in 1 min",
        ),
    ],
    ids=["paused", "set to 0", "closed"],
)  # fmt: skip
def test_key_page_explains_why_no_job_starts(fire, client, change, state, starts):
    """The reason is a pause, a setting of 0, or a time until which the limit allows no start.

    The page estimates a start only if there is such a time.
    """
    exporting(fire, 4)

    change(fire)
    page = client.get("/limits/key?key=warehouse").text

    assert state in words(page)
    assert [starts] * 2 == [row[4] for row in rows(page)]


def test_waiting_job_shows_its_position_and_estimated_wait(fire, client):
    """The job's page shows the position and the estimate.

    The bar of the job's history only shows that the job is in its queue.
    """
    jobs = exporting(fire, 6)

    last, first = (words(client.get(f"/jobs/{jobs[number].id}").text) for number in (5, 2))

    assert "limit warehouse (2 of 2 running), with 3 jobs ahead of it; estimated wait: 20 min" in last
    assert "The job is first in line for limit warehouse (2 of 2 running); estimated wait: 5 min" in first
    assert "In the queue" in last


@pytest.fixture
def asks(fire):
    """Five jobs, two of which run; the third waits for its customer's limit and for the model's limit."""

    @fire.task(
        name="shop.ask", limits=[Limit("model", concurrent=2), Limit("customer:{customer}", concurrent=1)]
    )
    def ask(customer: int) -> None: ...

    fire.limits.sync()
    jobs = ask.enqueue_many([(12,), (31,), (12,), (44,), (45,)])
    claim(fire)
    return jobs


def test_job_page_names_every_limit_that_delays_the_job(fire, client, asks):
    """The job's page first names the narrowest limit and the job that occupies it.

    The page of each limit names both limits.
    """
    page = words(client.get(f"/jobs/{asks[2].id}").text)
    own, shared = (client.get(f"/limits/key?key={key}").text for key in ("customer:12", "model"))

    assert re.search(
        rf"first in line for limit customer:12 \(1 of 1 running\). Job {asks[0].id[-8:]} has been "
        r"running for .{1,12}. Show The job is first in line for limit model \(2 of 2 running\).",
        page,
    )
    assert f"/jobs/{asks[0].id}" in client.get(f"/jobs/{asks[2].id}").text
    assert "The start time is unknown, because no such job has ended in the last hour" in page
    assert "model 2 of 2 running This limit 1 of 1 running Cannot take the next place" == rows(own)[0][2]
    assert (
        "This limit 2 of 2 running customer:12 1 of 1 running Cannot take the next place"
        == rows(shared)[0][2]
    )
    assert "The job starts when all of these limits allow it at the same time. Until then, later jobs" in page
    assert "Full: 1 of 1 running. The first job in line also waits for model" in words(own)
    assert "Held by another limit" not in words(own) + words(shared)


def test_timeouts_bound_the_start_without_an_estimate(fire, client):
    """The pages of the limit and of the job show the same latest start.

    It assumes that all jobs ahead run until their timeouts.
    """

    @fire.task(name="shop.train", timeout=7_200, limits=[Limit("gpu", concurrent=1)])
    def train(number: int) -> None: ...

    fire.limits.sync()
    jobs = train.enqueue_many([(number,) for number in range(3)])
    claim(fire)

    line = client.get("/limits/key?key=gpu").text
    page = words(client.get(f"/jobs/{jobs[2].id}").text)

    assert all(
        re.fullmatch(f"within ({starts})", row[4])
        for row, starts in zip(rows(line), ("1 h 59 min|2 h", "3 h 59 min|4 h"), strict=True)
    )
    assert "within this time even if all jobs ahead of it run until their timeouts" in words(line)
    assert re.search(
        "The job starts within (3 h 59 min|4 h), even if the jobs ahead of it run until their", page
    )


def test_other_limits_of_a_delayed_job_are_named(fire, client):
    """One sentence describes the narrowest limit and the job that occupies it.

    Another sentence describes the other limits.
    """

    @fire.task(name="shop.train", limits=[Limit("gpu", concurrent=1), Limit("licence", concurrent=2)])
    def train() -> None: ...

    @fire.task(name="shop.draw", limits=[Limit("gpu", concurrent=1)])
    def draw() -> None: ...

    @fire.task(name="shop.check", limits=[Limit("licence", concurrent=2)])
    def check() -> None: ...

    fire.limits.sync()
    draw.enqueue()
    check.enqueue_many([(), ()])
    claim(fire)
    job = train.enqueue()

    page = words(client.get(f"/jobs/{job.id}").text)

    assert re.search(r"limit gpu \(1 of 1 running\). Job [0-9a-f]{8} has been running for", page)
    assert "The job is first in line for limit licence (2 of 2 running)." in page


def test_positions_at_a_full_limit_agree_on_all_pages(fire, client, asks):
    """The pages of the limit, the queue and the job show the same positions."""
    line = client.get("/limits/key?key=model").text
    page = words(client.get(f"/jobs/{asks[4].id}").text)

    ids = [asks[number].id for number in (2, 3, 4)]
    assert ids == re.findall('<tr id="waiting-(.*?)"', line)
    assert ids == re.findall('<tr id="next-(.*?)"', client.get("/queues/default").text)
    assert [["1", "customer=12"], ["2", "customer=44"], ["3", "customer=45"]] == [
        [row[0], row[1].split()[-1]] for row in rows(line)
    ]
    assert ["unknown"] * 3 == [row[4] for row in rows(line)]
    assert "“Unknown”: no such job has ended in the last hour, and a job ahead has" in words(line)
    assert "The job is waiting for limit model (2 of 2 running), with 2 jobs ahead of it." in page


def test_jobs_delayed_by_another_limit_have_no_position(fire, client, asks):
    """These jobs are listed below the others, without a position and with the limit that delays them."""
    fire.limits.set("model", concurrent=3)

    line = client.get("/limits/key?key=model").text

    assert [["1", "customer=44"], ["2", "customer=45"], ["–", "customer=12"]] == [
        [row[0], row[1].split()[-1]] for row in rows(line)
    ]
    assert "customer:12 1 of 1 running" == rows(line)[2][2]
    assert "another limit does not. Meanwhile, other jobs start before them." in words(line)


def test_positions_continue_after_a_page_with_delayed_jobs(fire, client):
    """The link to the next page contains the number of jobs without a position."""

    @fire.task(
        name="shop.ask", limits=[Limit("model", concurrent=2), Limit("customer:{customer}", concurrent=1)]
    )
    def ask(customer: int) -> None: ...

    fire.limits.sync()
    ask.enqueue_many([(12,), (31,), *[(12,)] * 20, *[(44,)] * 30])
    claim(fire)
    fire.limits.set("model", concurrent=3)

    first = client.get("/limits/key?key=model").text
    address = unescape(re.search(r'href="([^"]*after=25[^"]*)#waiting"', first)[1])
    second = rows(client.get(address).text)

    numbered = [int(row[0]) for row in (*rows(first), *second) if row[0] != "–"]
    assert 50 == len(rows(first)) + len(second)
    assert [*range(1, 31)] == numbered


def test_limit_whose_name_is_its_key_has_one_row(fire, client, asks):
    """Such a limit is listed only among the keys.

    A name that has several keys is also listed among the names.
    """
    page = words(client.part("/limits", "rows").text)
    keys, _, names = page.partition(" Names ")

    assert ("model" in keys, "model" in names) == (True, False)
    assert "customer at once Save code customer:{customer}" in names


def test_limit_is_set_in_its_row(fire, client, asks):
    """The form is in the row of a name, or of a key with its own settings.

    Changing the concurrency there does not change the rate.
    """

    @fire.task(name="shop.call", limits=[Limit("api", concurrent=3, rate=90, per=60, burst=5)])
    def call() -> None: ...

    fire.limits.sync()
    call.enqueue()
    page = client.get("/limits").text
    forms = [
        dict(re.findall('name="(key|rate|per|burst|concurrent)"[^>]* value="([^"]*)"', form))
        for form in re.findall('<form method="post" action="/limits/set".*?</form>', page, re.DOTALL)
    ]
    sent = {form["key"]: form for form in forms}

    assert ["model", "api", "customer"] == list(sent)
    answer = client.act("/limits/set", {**sent["api"], "concurrent": "6"}).json()
    assert "Limit api changed to 6 at once, 90 per 60 s, 5 in a burst." == answer["message"]
    assert "at once, 90 per 60 s, 5 in a burst" in words(client.part("/limits", "rows").text)


def test_keys_with_the_most_waiting_jobs_come_first(fire, client, asks):
    """Three jobs wait for the alphabetically last key, so this key is first.

    Keys with the same number of waiting jobs are in alphabetical order.
    """
    page = client.get("/limits").text

    keys = re.findall(r'<tr id="key-\d+">.*?<a [^>]*>([^<]+)</a>', page, re.DOTALL)
    assert ["model", "customer:12", "customer:44", "customer:45", "customer:31"] == keys


def test_unchanged_form_offers_no_button(fire, client, asks):
    """If a field differs from the saved value, a script shows the button or makes it the primary one."""
    rows, page = client.get("/limits").text, client.get("/limits/key?key=model").text

    assert re.search(r'class="set-number" data-act data-saves>', rows)
    assert re.search(r'<button class="button" data-primary>Save</button>', page)


def test_settings_by_an_operator_are_shown_with_those_in_code(fire, client, report):
    """The page shows who changed the settings, and which settings the code declares."""
    client.post("/limits/set", {"key": "tenant", "concurrent": "3", "rate": "", "per": "", "burst": ""})
    changed = words(client.get("/limits/key?key=tenant").text)
    client.post("/limits/reset", {"key": "tenant"})

    assert "Set by local · 2 at once in code" in changed
    assert "Set by code" in words(client.get("/limits/key?key=tenant").text)
    assert fire.limits.get("tenant").set_by is None


def test_history_of_a_started_job_does_not_blame_workers(fire, client):
    """The bar of the job's history only shows that the job was in its queue.

    The storage does not record whether the job waited for a limit, a worker or a server.
    """
    jobs = exporting(fire, 1)

    page = words(client.get(f"/jobs/{jobs[0].id}").text)

    assert "In the queue" in page
    assert "Waiting for a worker" not in page


def test_form_labels_describe_the_effect_of_the_settings(fire, client, report):
    """The label of each field describes the effect of its setting."""
    page = words(client.get("/limits/key?key=tenant").text)

    for label in (
        "Concurrent jobs", "Starts per period", "Period in seconds",
        "Burst (starts without waiting after a pause)",
        "Leave empty to use the number of starts that the rate allows in one second.",
        "Reset to the code's settings", "Set by code", "Limit the rate",
    ):  # fmt: skip
        assert label in page
