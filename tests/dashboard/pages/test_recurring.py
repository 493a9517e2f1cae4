"""Recurring jobs: the list and its timeline, the page of a definition, the forms, and the actions."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import available_timezones

import attrs
import pytest

from firelock import Cron, Every, Misfire, Overlap, RecurringJob, Retry, ScheduleError
from firelock.schedules.cron import schedule_to_json
from firelock.schedules.recurring_job import RecurringRecord, put_recurring
from firelock_dashboard.pages.recurring import read_schedule, schedule_text, timeline_of
from tests.core.fakes import Worker

SPECIAL_ID = " a/b?c&d=<e> #1 "  # ids may be any printable text


@pytest.fixture
def report(fire):
    """A task with arguments, one of them a secret."""

    @fire.task(name="shop.report", queue="reports", retry=Retry.never())
    def report(day: str, api_key: str = "none") -> str:
        if day == "never":
            raise ValueError("there is no such day")
        return day

    return report


@pytest.fixture
def nightly(fire, report):
    """A definition that is declared in code."""
    fire.recurring("nightly", Cron("0 2 * * *", tz="Europe/Istanbul", overlap="skip"), "mon")(report)
    fire.recurring.sync()
    return fire.recurring.get("nightly")


def view(recurring_id, page="view"):
    return f"/recurring/{page}?{urlencode({'id': recurring_id})}"


def form_of(job, **changes):
    """Return the fields that the form of a definition sends, with these changes."""
    schedule = job.schedule
    return {
        "id": job.id, "version": str(job.version), "schedule": schedule_text(schedule),
        "zone": getattr(schedule, "tz", ""), "overlap": str(schedule.overlap),
        "misfire": str(schedule.misfire), "queue": job.queue, "priority": str(job.priority),
        "arguments": "", **changes,
    }  # fmt: skip


def actions(fire):
    return [(entry.action, entry.target, entry.by) for entry in fire.audit.list()]


# ---- schedules as strings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("0 2 * * *", Cron("0 2 * * *", tz="Europe/Istanbul")),
        ("@daily", Cron("@daily", tz="Europe/Istanbul")),
        ("every 5m", Every(timedelta(minutes=5))),
        ("every hour", Every(timedelta(hours=1))),
        ("Every 90 seconds", Every(timedelta(seconds=90))),
        ("every 1.5s", Every(timedelta(seconds=1.5))),
        ("every 2 weeks", Every(timedelta(weeks=2))),
    ],
)
def test_displayed_schedule_is_parsed_to_the_same_schedule(text, schedule):
    """A schedule is a cron expression in a time zone, or an interval.

    Either kind is displayed in a form that can be parsed.
    """
    assert schedule == read_schedule(text, "Europe/Istanbul")
    assert schedule == read_schedule(schedule_text(schedule), "Europe/Istanbul")


def test_values_that_are_not_in_the_form_are_kept():
    """The form does not contain the anchor of an interval or the limit of misfires."""
    before = Every(timedelta(hours=1), anchor=datetime(2026, 1, 1, 0, 7, tzinfo=UTC), misfire_limit=7)

    after = read_schedule("every 2h", "", before, overlap="skip", misfire="all")

    assert (before.anchor, 7) == (after.anchor, after.misfire_limit)
    assert (Overlap.SKIP, Misfire.ALL) == (after.overlap, after.misfire)
    assert 7 == read_schedule("@daily", "", before).misfire_limit


@pytest.mark.parametrize(
    "text", ["", "every", "every 5x", "every 0s", "61 2 * * *", "x" * 1_001, "every 99999 weeks"]
)
def test_invalid_schedule_is_refused(text):
    """Any input that is not a valid schedule raises a ScheduleError."""
    if text == "every":
        text = "every  "
    with pytest.raises(ScheduleError):
        read_schedule(text, "UTC")


# ---- the timeline ----------------------------------------------------------------------------------------


def definition(recurring_id, schedule, *, is_paused=False):
    record = RecurringRecord(
        recurring_id, "t", "{}", "json", schedule_to_json(schedule), "q", is_paused=is_paused
    )
    return RecurringJob(record)


def test_timeline_counts_runs_per_ten_minutes():
    """The timeline counts all future runs of its day, including those of frequent schedules.

    Paused definitions are not counted.
    """
    now = datetime(2026, 11, 25, 14, 25, tzinfo=UTC)
    timeline = timeline_of(
        [
            definition("a", Cron("0 0 * * *")),
            definition("b", Cron("5 0 * * *")),
            definition("c", Cron("20 * * * *")),
            definition("e", Cron("0 0 * * *"), is_paused=True),
            RecurringJob(RecurringRecord("f", "t", "{}", "json", "not JSON", "q")),
        ],
        now,
    )

    assert (144, datetime(2026, 11, 25, 14, 20, tzinfo=UTC)) == (
        len(timeline.buckets),
        timeline.buckets[0].starts_at,
    )
    assert (25, 0, False) == (timeline.instants, timeline.left_out, timeline.has_piles)
    (pile,) = timeline.piles()
    assert (datetime(2026, 11, 26, tzinfo=UTC), 2, ("a", "b")) == (pile.starts_at, pile.count, pile.ids)
    assert [15, 16] == [one.starts_at.hour for one in timeline.buckets if one.count == 1][:2]


@pytest.mark.parametrize(
    "schedule",
    [
        Every(timedelta(minutes=1)),
        Every(timedelta(seconds=90)),
        Cron("*/7 * * * *"),
        Cron("*/5 8-18 * * *", tz="Europe/Berlin"),
        Cron("* * * * *", tz="America/New_York"),
        Cron("7 3 * * *"),
    ],
)
def test_timeline_counts_frequent_schedules_exactly(schedule):
    """Each future run is counted in the bucket of its ten minutes."""
    now = datetime(2026, 11, 25, 14, 25, 30, tzinfo=UTC)
    start = now.replace(minute=20, second=0)
    walked, at = Counter(), schedule.next_after(now)
    while at < start + timedelta(days=1):
        walked[(at - start) // timedelta(minutes=10)] += 1
        at = schedule.next_after(at)

    timeline = timeline_of([definition("a", schedule), definition("b", schedule)], now)

    assert {place: 2 * count for place, count in walked.items()} == {
        place: bucket.count for place, bucket in enumerate(timeline.buckets) if bucket.count
    }


def test_timeline_includes_frequent_definitions():
    """The timeline includes twenty nightly definitions and sixteen that run every five or twenty minutes."""
    nightly = [definition(f"n{number}", Cron(f"{number} 2 * * *")) for number in range(20)]
    often = [definition(f"o{number}", Cron(f"{number % 5}/5 * * * *")) for number in range(9)]
    rarer = [definition(f"r{number}", Cron(f"{number}/20 * * * *")) for number in range(7)]

    timeline = timeline_of(nightly + often + rarer, datetime(2026, 11, 25, 14, 0, 1, tzinfo=UTC))

    assert 0 == timeline.left_out
    assert {one.id for one in nightly + often + rarer} == {
        recurring_id for bucket in timeline.buckets for recurring_id in bucket.ids
    }


def test_slow_timeline_omits_the_most_frequent_definitions():
    """The timeline shows the number of omitted definitions.

    It does not list the fullest buckets, because the omitted definitions could change them.
    """
    often = [
        definition(f"d{number}", Cron(f"* * * * {','.join(map(str, range(7)))}", tz=zone))
        for number, zone in enumerate(sorted(available_timezones())[:40])
    ]

    timeline = timeline_of(
        [*often, definition("rare", Cron("0 0 * * *"))], datetime(2026, 11, 25, 14, tzinfo=UTC)
    )

    assert 13 == timeline.left_out
    assert "rare" in {recurring_id for bucket in timeline.buckets for recurring_id in bucket.ids}
    assert [] == timeline.piles()


# ---- the list --------------------------------------------------------------------------------------------


def test_page_without_recurring_jobs_shows_how_to_declare_one(client):
    """The page contains an example of a declaration."""
    page = client.get("/recurring").text

    assert "No recurring jobs yet" in page
    assert "@fire.recurring(" in page
    assert "No runs in the next 24 hours." in page


def test_definition_is_shown_in_words(client, nightly):
    """The row shows the schedule in words and as a cron expression, its zone, the next run and the origin."""
    page = client.part("/recurring", "rows").text

    expected = (
        "nightly",
        "report",
        "at 02:00 every day, Europe/Istanbul",
        "0 2 * * *",
        "code",
        "not run yet",
    )
    assert [part for part in expected if part not in page] == []
    assert nightly.next_at.strftime("%Y-%m-%d %H:%M:%S UTC") in page


def test_last_runs_are_shown_as_ticks(fire, client, report, nightly):
    """The ticks show the states of the last runs, oldest first, and are a single link.

    The page of the definition links to each run.
    """
    worker = Worker(fire)
    ids = []
    for day in ("mon", "never", "tue"):
        fire.recurring.edit("nightly", arguments=[day])
        ids.append(fire.recurring.trigger("nightly").id)
        worker.run()

    page = client.part("/recurring", "rows").text

    (strip,) = re.findall(r'<a class="strip" href="([^"]+)" aria-label="([^"]+)">(.*?)</a>', page)
    assert ("/recurring/view?id=nightly#runs-title", "Last runs: 2 Succeeded, 1 Failed") == strip[:2]
    assert ["succeeded", "failed", "succeeded"] == re.findall(r'<i class="state-(\w+)" title="', strip[2])
    view = client.get("/recurring/view?id=nightly").text
    assert all(f'href="/jobs/{one}"' in view for one in ids)
    assert 'title="Failed, ' in page


def test_origin_of_a_definition_is_shown(fire, client, report, nightly):
    """The origin shows whether code, a call or the dashboard has created the definition.

    It also shows that the definition was edited, or that its code was removed.
    """
    report.recur("called", "0 3 * * *", "tue")
    fire.recurring.create("shop.report", "made", "0 4 * * *", ["wed"])
    fire.recurring.edit("nightly", priority=3)
    record = fire.recurring.get("called").record
    put_recurring(
        fire.storage,
        attrs.evolve(record, id="lost", origin="code", is_gone=True, version=0),
        keep_progress=False,
    )

    page = client.part("/recurring", "rows").text

    chips = re.findall(r'<span class="chip(?: warn)?"(?: title="[^"]*")?>([a-z][^<]*)</span>', page)
    assert ["call", "removed from code", "created here", "code, edited here"] == chips


def test_unreadable_schedule_is_shown_with_an_error(fire, client, report, nightly):
    """The list and the page of the definition still work."""
    broken = attrs.evolve(nightly.record, id="broken", schedule="{}", version=0)
    put_recurring(fire.storage, broken, keep_progress=False)

    assert "The stored schedule cannot be read" in client.get("/recurring").text
    assert "The stored schedule cannot be read" in client.get(view("broken")).text
    assert 200 == client.get(view("broken", "edit")).status


@pytest.mark.parametrize("value", [{"tags": {"eu": 1}}, {"schedule": {"sun": "rise"}}])
def test_definition_of_a_newer_version_is_shown_but_not_changed(client, fire, nightly, value):
    """The list still shows all other definitions.

    This version does not support the stored values, so it refuses changes and explains why.
    """
    record = {**attrs.asdict(nightly.record), **value}
    fire.storage.put_record("recurring", "newer", json.dumps(record))

    pages = [client.get(path).text for path in ("/recurring", view("newer"))]
    refused = client.post("/recurring/pause", {"id": "newer"})

    assert ["nightly" in pages[0], *("newer version of Firelock wrote" in text for text in pages)] == [
        True
    ] * 3
    assert 200 == client.get("/").status == client.get(view("newer", "edit")).status
    assert (400, True) == (refused.status, "newer version of Firelock wrote" in refused.text)


def test_definitions_are_paged_by_id(client, report):
    """A page shows thirty definitions."""
    for number in range(32):
        report.recur(f"n{number:02}", "0 3 * * *", "tue")

    first = client.part("/recurring", "rows").text
    second = client.part("/recurring?after=n29", "rows").text

    assert (30, 2) == (first.count('id="recurring-'), second.count('id="recurring-'))
    assert "after=n29" in first


@pytest.mark.parametrize(("wanted", "found"), [("HOUR", ["b"]), ("report", ["a", "b"]), ("nothing", [])])
def test_definitions_are_found_by_text(client, report, wanted, found):
    """The search covers the id, the task, the queue and the schedule."""
    report.recur("a", "0 3 * * *", "tue")
    report.recur("b", Every(timedelta(hours=1)), "tue")

    page = client.part(f"/recurring?q={wanted}", "rows").text

    assert found == re.findall(r'class="strong one-line" href="/recurring/view\?id=(\w)"', page)


# ---- one definition --------------------------------------------------------------------------------------


def test_definition_page_shows_next_runs_and_policies(client, nightly):
    """The page shows ten runs in its zone and in UTC, both policies in words, and the arguments."""
    page = client.get(view("nightly")).text

    assert 10 == len(re.findall(r"02:00:00 \+03", page))
    assert nightly.next_at.strftime("%Y-%m-%d %H:%M:%S UTC") in page
    assert "The run is dropped." in page
    assert "One run, for the latest missed time, replaces all missed runs" in page
    assert "&#34;day&#34;: &#34;mon&#34;" in page


def test_definition_metadata_is_shown_and_masked(client, report):
    """The metadata is shown in the same way as on the page of a job."""
    report.using(meta={"tenant": "acme", "api-key": "hunter2"}).recur("weekly", "0 2 * * 1", "mon")

    page = client.get(view("weekly")).text

    assert ">Metadata<" in page
    assert "acme" in page
    assert "hunter2" not in page


def test_clock_change_is_shown_in_preview_and_page(client):
    """The preview and the page of the definition report a change of the clock."""
    query = urlencode({"schedule": "30 2 29 3 *", "zone": "Europe/Berlin"})

    page = client.get(f"/recurring/preview?{query}").text

    assert "does not exist" in page or "at 02:30" in page


def test_secrets_in_arguments_are_masked(fire, client, report):
    """The page and the form mask secrets. The form keeps the stored arguments unless new ones are entered."""
    report.recur("secret", "0 3 * * *", "tue", api_key="hunter2")

    pages = client.get(view("secret")).text, client.get(view("secret", "edit")).text

    assert all("hunter2" not in page for page in pages)
    assert "Leave empty to keep them" in pages[1]
    job = fire.recurring.get("secret")
    assert 303 == client.post("/recurring/edit", form_of(job, priority="5")).status
    after = fire.recurring.get("secret")
    assert (5, job.arguments) == (after.priority, after.arguments)
    masked = client.post("/recurring/edit", form_of(after, arguments='{"day": "x", "api_key": "••••••"}'))
    assert 400 == masked.status
    assert "must not contain the mask" in masked.text


@pytest.mark.parametrize("id_", [SPECIAL_ID, " "])
def test_id_may_contain_any_characters(fire, client, report, id_):
    """An id may contain slashes, spaces at either end, and special characters of URLs and markup.

    Every page and action accepts such an id.
    """
    report.recur(id_, "0 3 * * *", "tue")

    listed = client.get("/recurring").text
    assert f'href="/recurring/view?{urlencode({"id": id_})}"' in listed
    for page in ("view", "edit"):
        assert 200 == client.get(view(id_, page)).status
    for verb in ("trigger", "pause", "resume"):
        assert "good" == client.act(f"/recurring/{verb}", {"id": id_}).json()["kind"]
    assert 1 == len(fire.recurring.runs(id_))
    assert "good" == client.act("/recurring/remove", {"id": id_}).json()["kind"]
    assert [] == fire.recurring.list()


# ---- actions on one definition ---------------------------------------------------------------------------


def test_definition_is_run_now(fire, client, nightly):
    """A job of the definition is enqueued, and the message contains a link to the job."""
    reply = client.act("/recurring/trigger", {"id": "nightly"}).json()

    (job,) = fire.recurring.runs("nightly")
    assert ("Run of nightly enqueued.", f"/jobs/{job.id}") == (reply["message"], reply["link"])
    assert [("recurring.trigger", "nightly", "local")] == actions(fire)


def test_pause_and_resume_are_undone(fire, client, nightly):
    """If an action changed anything, the response contains a form that undoes it.

    The audit contains all actions.
    """
    paused = client.act("/recurring/pause", {"id": "nightly"}).json()
    shown = client.part("/recurring", "rows").text
    again = client.act("/recurring/pause", {"id": "nightly"}).json()
    resumed = client.act(paused["undo"]["path"], paused["undo"]["fields"]).json()
    between = fire.recurring.get("nightly").is_paused
    client.act(resumed["undo"]["path"], resumed["undo"]["fields"])

    assert (True, None) == ("Paused" in shown, again["undo"])
    assert (False, True) == (between, fire.recurring.get("nightly").is_paused)
    verbs = ["pause", "resume", "pause", "pause"]
    assert [(f"recurring.{verb}", "nightly", "local") for verb in verbs] == actions(fire)


def test_edited_definition_is_reset_to_the_code(fire, client, nightly):
    """If this app declares the definition, it is reset immediately.

    A definition that was never declared in code cannot be reset.
    """
    fire.recurring.edit("nightly", priority=9)
    fire.recurring.create("shop.report", "made", "0 4 * * *", ["wed"])

    reply = client.act("/recurring/reset", {"id": "nightly"}).json()
    refused = client.post("/recurring/reset", {"id": "made"})

    assert "nightly reset to its definition in code." == reply["message"]
    assert 0 == fire.recurring.get("nightly").priority
    assert 400 == refused.status
    assert "was never declared in code" in refused.text
    assert [("recurring.reset", "nightly", "local")] == actions(fire)


def test_removal_requires_confirmation(fire, client, nightly):
    """If scripts are disabled, a separate page asks for confirmation."""
    confirmation = client.post("/recurring/remove", {"id": "nightly", "back": "/recurring"})
    before = len(fire.recurring.list())
    done = client.post("/recurring/remove", {"id": "nightly", "back": "/recurring", "sure": "1"})

    assert (200, 1) == (confirmation.status, before)
    assert "Remove nightly?" in confirmation.text
    assert (303, "/recurring") == (done.status, done.location)
    assert [] == fire.recurring.list()
    assert [("recurring.remove", "nightly", "local")] == actions(fire)


@pytest.mark.parametrize("verb", ["trigger", "pause", "resume", "reset", "remove", "edit"])
@pytest.mark.parametrize(
    ("form", "status"),
    [({}, 400), ({"id": ""}, 400), ({"id": ["a", "b"]}, 400), ({"id": "x" * 201}, 400), ({"id": "no"}, 404)],
)
def test_invalid_id_is_refused(fire, client, verb, form, status):
    """The error names the id, and no audit entry is added."""
    answer = client.post(f"/recurring/{verb}", {**form, **({"version": "1"} if verb == "edit" else {})})

    assert status == answer.status
    assert "id" in answer.text
    assert [] == actions(fire)


@pytest.mark.parametrize("page", ["view", "edit"])
def test_unknown_definition_is_not_found(client, page):
    """The response is a 404 that contains the id."""
    answer = client.get(view("gone/away", page))

    assert 404 == answer.status
    assert "gone/away" in answer.text


# ---- the form --------------------------------------------------------------------------------------------


def test_form_changes_a_definition(fire, client, nightly):
    """The form contains the schedule, time zone, policies, queue, priority and arguments.

    After the change, the origin is "edited".
    """
    form = form_of(
        nightly, schedule="30 4 * * 1", zone="Europe/Berlin", overlap="queue_one", misfire="all",
        queue="slow", priority="-3", arguments='{"day": "sun"}', back=view("nightly"),
    )  # fmt: skip

    answer = client.post("/recurring/edit", form)

    assert (303, view("nightly")) == (answer.status, answer.location)
    after = fire.recurring.get("nightly")
    assert Cron("30 4 * * 1", tz="Europe/Berlin", overlap="queue_one", misfire="all") == after.schedule
    assert ("slow", -3, "EDITED") == (after.queue, after.priority, after.origin.name)
    assert '"sun"' in after.arguments
    assert [("recurring.edit", "nightly", "local")] == actions(fire)


def test_unchanged_form_changes_nothing(fire, client, nightly):
    """The definition keeps its version and its origin, and no audit entry is added."""
    page = client.get(view("nightly", "edit")).text
    assert f'name="version" value="{nightly.version}"' in page

    answer = client.post("/recurring/edit", form_of(nightly, arguments='{"day": "mon"}'))

    after = fire.recurring.get("nightly")
    assert (303, nightly.version, "CODE") == (answer.status, after.version, after.origin.name)
    assert [] == actions(fire)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedule": "61 2 * * *"}, "schedule"),
        ({"schedule": ""}, "schedule"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"zone": "../../etc/passwd"}, "zone"),
        ({"priority": "101"}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"queue": "A B"}, "queue"),
        ({"arguments": "{day: mon}"}, "arguments"),
        ({"arguments": '"mon"'}, "arguments"),
        ({"arguments": '{"nope": 1}'}, "arguments"),
        ({"arguments": '{"day": 7}'}, "arguments"),
        ({"arguments": "[" * 5_000}, "arguments"),
    ],
)
def test_form_shows_errors_at_their_fields(fire, client, nightly, changes, field):
    """The form keeps the typed values, and nothing is stored."""
    answer = client.post("/recurring/edit", form_of(nightly, **changes))

    assert 400 == answer.status
    assert [field] == re.findall(r'id="error-(\w+)"', answer.text)
    assert nightly.version == fire.recurring.get("nightly").version
    assert [] == actions(fire)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": "maybe"}, "overlap"),
        ({"misfire": "x"}, "misfire"),
        ({"version": ""}, "version"),
        ({"version": "x"}, "version"),
    ],
)
def test_invalid_form_is_refused_with_its_field(client, nightly, changes, message):
    """The error names the field."""
    answer = client.post("/recurring/edit", form_of(nightly, **changes))

    assert 400 == answer.status
    assert message in answer.text


def test_concurrent_change_is_not_overwritten(fire, client, nightly):
    """The form shows the author of the other change and the current schedule.

    If the form is sent again, it contains the new version.
    """
    client.post("/recurring/edit", form_of(nightly, schedule="0 5 * * *"))

    conflict = client.post("/recurring/edit", form_of(nightly, schedule="0 6 * * *"))

    assert 409 == conflict.status
    assert all(
        part in conflict.text
        for part in ("The recurring job was changed in the meantime by local", "0 5 * * * Europe/Istanbul")
    )
    assert 'value="0 6 * * *"' in conflict.text
    assert "0 5 * * *" == fire.recurring.get("nightly").schedule.expression
    version = re.search(r'name="version" value="(\d+)"', conflict.text)[1]
    assert (
        303 == client.post("/recurring/edit", form_of(nightly, schedule="0 6 * * *", version=version)).status
    )
    assert "0 6 * * *" == fire.recurring.get("nightly").schedule.expression


def test_new_definition_is_created(fire, client, report):
    """The definition may use any task of this app, and its form lists these tasks."""
    assert '<option value="shop.report">' in client.get("/recurring/new").text
    form = {
        "id": SPECIAL_ID,
        "task": "shop.report",
        "schedule": "every 5m",
        "zone": "UTC",
        "arguments": '["mon"]',
    }

    answer = client.post("/recurring/create", form)

    assert (303, "/recurring") == (answer.status, answer.location)
    job = fire.recurring.get(SPECIAL_ID)
    assert (Every(timedelta(minutes=5)), "shop.report", "reports") == (job.schedule, job.task, job.queue)
    assert "CREATED" == job.origin.name
    assert [("recurring.create", SPECIAL_ID, "local")] == actions(fire)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "a\u202eb"}, "id"),
        ({"id": "nightly"}, "id"),
        ({"task": ""}, "task"),
        ({"task": "os.system"}, "task"),
        ({"arguments": ""}, "arguments"),
        ({"schedule": "x"}, "schedule"),
    ],
)
def test_invalid_new_definition_shows_errors_at_their_fields(fire, client, nightly, changes, field):
    """Errors include an id that is already used, an unknown task, and arguments that do not match it."""
    form = {"id": "new", "task": "shop.report", "schedule": "@daily", "zone": "UTC", "arguments": '["mon"]'}

    answer = client.post("/recurring/create", {**form, **changes})

    assert answer.status in {400, 409}
    assert [field] == re.findall(r'id="error-(\w+)"', answer.text)
    assert ["nightly"] == [job.id for job in fire.recurring.list()]


# ---- the preview -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "zone", "preview"),
    [
        ("0 2 * * *", "Europe/Istanbul", "at 02:00 every day, Europe/Istanbul"),
        ("every 5m", "", "every 5 minutes"),
        ("", "UTC", "Enter a schedule"),
        ("0 2 *", "UTC", 'class="error"'),
        ("0 2 * * *", "Mars/Olympus", "Unknown time zone"),
    ],
)
def test_typed_schedule_gets_a_preview(client, schedule, zone, preview):
    """The preview is an HTML fragment with the schedule in words and its next five runs, or with an error."""
    answer = client.get(f"/recurring/preview?{urlencode({'schedule': schedule, 'zone': zone})}")

    assert 200 == answer.status
    assert preview in answer.text
    assert "<html" not in answer.text
    assert (5 if "very" in preview else 0) == answer.text.count("<li>")
