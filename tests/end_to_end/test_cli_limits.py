"""`firelock limits`: showing and changing keys and names."""

from __future__ import annotations

import pytest

from firelock import Firelock, Limit
from firelock.control.limits import DeclaredLimit, Limits
from firelock.limits import LimitSettings
from firelock.storage import ClaimRequest, NewSession

MINUTE = 60_000_000


@pytest.fixture
def app(request):
    """An app whose code declares two limits, in a storage that the commands open by its name."""
    declared = {
        "tenant": DeclaredLimit("tenant", "tenant:{tenant_id}", LimitSettings(4)),
        "smtp": DeclaredLimit("smtp", "smtp", LimitSettings(None, 90, MINUTE, 5)),
    }
    with Firelock(f"memory://{request.node.originalname}") as app:
        Limits(app.client, lambda: declared).sync()
        yield app


@pytest.fixture
def command(run, app):
    """Return a function that runs a command on the app's storage."""
    return lambda *words: run(*words, "--storage", app.storage.url)


def test_limits_are_listed_with_their_settings(command, app):
    """A key is listed with its state.

    A name is listed with the template of its keys and a note that no job uses such a key yet.
    """
    app.limits.pause("smtp", "provider is down")

    lines = command("limits list").out.splitlines()

    assert ["KEY", "RUNNING", "WAITING", "LIMIT", "SET", "BY", "STATE", "NOTE"] == lines[0].split()
    assert "smtp" == lines[1].split()[0]
    assert "90 per 60 s, 5 in a burst" in lines[1]
    assert lines[1].endswith("paused   provider is down") or lines[1].endswith("provider is down")
    assert ["tenant:{tenant_id}", "4", "at", "once", "code", "no", "key", "yet"] == lines[2].split()


def test_limits_in_json_have_every_field(command, app):
    """The fields include the settings in seconds and units, their source, and the cursor of the next page."""
    listed = command("limits list --json").json

    (smtp,) = listed["limits"]
    assert {
        "key": "smtp", "name": "smtp", "template": "smtp", "source": "code", "is_own": True, "running": 0,
        "holders": [], "waiting": 0, "opens_at": None, "state": "open", "held_by": [], "is_paused": False,
        "note": "", "paused_by": None,
        "paused_at": None,
        "settings": {"concurrent": None, "rate": 90, "per_seconds": 60.0, "burst": 5},
        "code": {"concurrent": None, "rate": 90, "per_seconds": 60.0, "burst": 5},
    } == smtp  # fmt: skip
    assert ["tenant"] == [one["name"] for one in listed["names"]]
    assert listed["cursor"] is None


def test_hint_after_a_page_opens_the_next_one(command, app):
    """The hint below a full page contains the last key, and the next page begins after this key.

    A prefix filters the keys.
    """
    for number in range(3):
        app.limits.set(f"tenant:{number}", concurrent=1)

    first = command("limits list tenant: --limit 2")
    second = command("limits list tenant: --limit 2 --after tenant:1")

    assert ["tenant:0", "tenant:1"] == [line.split()[0] for line in first.out.splitlines()[1:]]
    assert "--after 'tenant:1'" in first.error
    assert ["tenant:2"] == [line.split()[0] for line in second.out.splitlines()[1:]]
    assert "" == second.error


def test_show_prints_the_settings_of_operator_and_code(command, app):
    """The settings of an operator are shown next to those in the code."""
    app.limits.set("tenant", concurrent=8)

    shown = command("limits show tenant:7")

    assert "Limit tenant:7  open" == shown.out.splitlines()[0]
    facts = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in shown.out.splitlines()[1:]}
    assert ("8 at once", "operator", "4 at once", "0 of 8") == (
        facts["limit"], facts["set by"], facts["in code"], facts["running"],
    )  # fmt: skip


def test_unknown_limit_is_not_found(command):
    """The exit code is 4, and the error suggests how to find the right name."""
    shown = command("limits show nobody:7")

    assert (4, "") == (shown.code, shown.out)
    assert "Limit 'nobody:7' was not found" in shown.error


def test_set_changes_a_limit_and_reset_restores_it(command, app):
    """Each command prints the new settings. The audit records the user and the origin."""
    raised = command("limits set tenant:7 --concurrent 8 --rate 500 --per 1m --burst 50")
    less = command("limits set tenant:7 --rate none --json")
    reset = command("limits reset tenant:7")

    assert "tenant:7  8 at once, 500 per 60 s, 50 in a burst\n" == raised.out
    assert (8, None) == (less.json["settings"]["concurrent"], less.json["settings"]["rate"])
    assert "tenant:7  4 at once\n" == reset.out
    assert ["cli"] * 3 == [entry.origin for entry in app.audit.list()]


def test_pause_and_resume_apply_to_all_given_limits(command, app):
    """The output lists all given limits, and the note is stored."""
    paused = command("limits pause tenant smtp --note 'moving house'")
    notes = [app.limits.get(key).note for key in ("tenant:1", "smtp")]
    resumed = command("limits resume tenant smtp --json")

    assert ("tenant  paused\nsmtp  paused\n", ["moving house"] * 2) == (paused.out, notes)
    assert {"resumed": ["tenant", "smtp"]} == resumed.json
    assert not app.limits.get("smtp").is_paused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("limits set tenant", "No settings are given"),
        ("limits set tenant --concurrent many", "an integer of at least 0"),
        ("limits set tenant --concurrent -2", "an integer of at least 0, or none, got '-2'"),
        ("limits set tenant --concurrent 1001", "from 0 to 1,000"),
        ("limits pause tenant:{tenant_id}", "pass 'tenant' for all of them"),
        ("limits set tenant --rate 5 --per often", "must be a duration"),
        ("limits set tenant --burst 5", "no rate"),
        ("limits list --limit 501", "501"),
        ("limits pause ''", "A limit key must have"),
    ],
)
def test_invalid_input_is_a_usage_error(command, app, words, message):
    """The exit code is 2, and nothing changes."""
    before = app.storage.list_records("limit")

    ran = command(words)

    assert (2, "") == (ran.code, ran.out)
    assert message in ran.error
    assert before == app.storage.list_records("limit")


def test_name_shows_its_key_template_and_no_holders(command, app):
    """No job uses the name itself as a key, so the output contains no running jobs."""
    shown = command("limits show tenant")

    assert ("Limit tenant", True) == (shown.out.splitlines()[0], "tenant:{tenant_id}" in shown.out)
    assert "running" not in shown.out
    assert "Run firelock limits list tenant: to see" in shown.error


def test_name_of_two_parts_shows_the_prefix_of_its_keys(command, app):
    """The keys begin with the part of the template before its first parameter."""
    declared = {"smtp/tenant": DeclaredLimit("smtp/tenant", "smtp/tenant:{tenant_id}", LimitSettings(4))}
    Limits(app.client, lambda: declared).sync()

    shown = command("limits show smtp/tenant")

    assert "Run firelock limits list smtp/tenant: to see" in shown.error


def test_unknown_name_similar_to_another_prints_a_hint(command, app):
    """The change is made in spite of the hint, because code that uses this name may be deployed later."""
    slips = [command("limits set tenat --concurrent 2"), command("limits pause smpt:7")]
    known = [command("limits set tenant:7 --concurrent 2"), command("limits pause smtp")]

    assert all("check its spelling" in ran.error for ran in slips)
    assert ["", ""] == [ran.error for ran in known]
    assert 2 == app.limits.get("tenat").concurrent


def test_empty_list_of_limits_prints_a_message(run):
    """Standard output is empty, and the exit code is 0."""
    listed = run("limits list --storage memory://")

    assert (0, "", "No limit is declared or set, and no job needs one.\n") == (
        listed.code, listed.out, listed.error,
    )  # fmt: skip


def waiting(app):
    """Create two jobs for each of three customers, and return their ids.

    The jobs wait for a rate of one start per ten minutes, which was just used up.
    """

    @app.task(
        name="shop.describe",
        limits=[Limit("openai", rate=6, per=3_600, burst=1), Limit("customer:{customer}", concurrent=1)],
    )
    def describe(customer: int) -> None: ...

    app.limits.sync()
    jobs = describe.enqueue_many([(number % 3,) for number in range(6)])
    app.storage.spend("openai", cost=1)
    return [job.id for job in jobs]


def test_key_with_waiting_jobs_is_never_listed_as_open(command, app):
    """The row and the JSON name the key that delays the jobs."""
    waiting(app)

    lines = command("limits list customer:").out.splitlines()[1:4]
    listed = command("limits list customer: --json").json["limits"]

    assert all("jobs wait for openai" in line for line in lines)
    assert [("held", ["openai"])] * 3 == [(one["state"], one["held_by"]) for one in listed]
    assert "Limit openai  rate used up, opens in " in command("limits show openai").out


def test_show_lists_the_running_jobs_of_a_limit(command, app):
    """Running jobs are listed below a separate heading, with the same words as on the dashboard's page."""

    @app.task(name="shop.call", limits=[Limit("tenant:7", concurrent=4)])
    def call() -> None: ...

    app.limits.sync()
    job = call.enqueue()
    now = app.storage.clock()
    app.storage.begin_session(NewSession("s", "server", "vm:1", "vm", 1, now, 3_600, 1))
    app.storage.claim(ClaimRequest(None, 1, "s", now))

    lines = command("limits show tenant:7").out.splitlines()

    assert ["Running", f"  {job.id}"] == lines[lines.index("Running") :]
    assert not any("Held by" in line for line in lines)


def test_waiting_jobs_are_listed_in_order_with_reasons(command, app):
    """Each row shows the position, id, task, wait, estimated start and reason.

    `--after` shows the next page.
    """
    ids = waiting(app)

    first = command("limits waiting openai --limit 4")
    second = command("limits waiting openai --limit 4 --after 4 --json").json
    shown = command("limits show openai --json").json

    lines = [line.split() for line in first.out.splitlines()[1:]]
    assert [[str(place), job_id] for place, job_id in enumerate(ids[:4], 1)] == [line[:2] for line in lines]
    assert "limit openai (opens in" in first.out
    assert "--after 4" in first.error
    assert [(5, ids[4]), (6, ids[5])] == [(one["place"], one["id"]) for one in second["jobs"]]
    assert (None, False, ["openai"]) == (
        second["cursor"], second["is_cut"], [wait["key"] for wait in second["jobs"][0]["held_by"]],
    )  # fmt: skip
    assert ids == [one["id"] for one in shown["waiting_jobs"]]
    assert "No job waits for this key." in command("limits waiting nobody").error


def test_timeouts_limit_a_start_without_an_estimate(command, app):
    """If no job of the task has ended in the last hour, the list and the JSON contain the latest start."""

    @app.task(name="train", limits=[Limit("gpu", concurrent=1)])
    def train() -> None: ...

    app.limits.set("gpu", concurrent=0)
    train.using(timeout=3_600).enqueue_many([(), (), ()])
    closed = command("limits waiting gpu --json").json["jobs"]
    app.limits.set("gpu", concurrent=1)

    listed = command("limits waiting gpu").out.splitlines()[1:]
    known = command("limits waiting gpu --json").json["jobs"]

    assert [None] * 3 == [one["starts_by"] for one in closed]
    assert [False, True, True] == ["within" in line for line in listed]
    assert [True, False, False] == [one["starts_by"] is None for one in known]


@pytest.mark.parametrize("after", ["-1", "10001", "x"])
def test_invalid_start_of_the_waiting_list_is_a_usage_error(command, after):
    """The error contains the lowest and the highest valid value."""
    refused = command(f"limits waiting openai --after={after}")

    assert 2 == refused.code
    assert f"must be an integer from 0 to 10,000, got '{after}'" in refused.error
