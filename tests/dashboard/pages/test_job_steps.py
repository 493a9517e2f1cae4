"""The memos of a job on its page: its steps, its waits, and running it again from a step."""

from __future__ import annotations

import enum
import json
import re
from contextlib import closing

import attrs
import pytest

from firelock.storage import MemoKind, State
from firelock_dashboard import Dashboard
from tests.dashboard.browser import Browser
from tests.dashboard.flows import claim, end, remember
from tests.dashboard.pages.test_batch import text_of


@pytest.fixture
def job(fire):
    """A running job."""

    @fire.task(name="shop.order")
    def order(number: int) -> None:
        """Never run here."""

    order.enqueue(7)
    (job,) = claim(fire)
    return job


def card_of(client, job):
    page = client.get(f"/jobs/{job.id}").text
    found = re.search(r'aria-labelledby="steps-title".*?</section>', page, re.DOTALL)
    return "" if found is None else found[0]


def test_job_without_memos_has_no_steps_card(client, job):
    assert card_of(client, job) == ""


def test_steps_are_shown_in_order(fire, client, job):
    remember(fire, job, "step", "charge", '"ch_7"')
    remember(fire, job, "signal", "approval", '{"ok":true}', author="ada")
    text = text_of(card_of(client, job))
    assert text.index("charge") < text.index("approval")
    assert "ch_7" in text
    assert "from ada" in text
    assert "1.5 s" in text


def test_open_wait_is_explained(fire, client, job):
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)
    page = text_of(client.get(f"/jobs/{job.id}").text)
    assert (
        "The job is waiting for an answer to the signal “approval” from a person or a program. "
        "The wait has no time limit" in page
    )
    assert "in progress" in text_of(card_of(client, job))


def test_wait_with_a_timeout_explains_the_timeout(fire, client, job):
    due_at = fire.storage.clock() + 7_200_000_000
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True, due_at=due_at)
    page = text_of(client.get(f"/jobs/{job.id}").text)
    assert re.search("After .{3,12} without an answer, the task continues with None.", page)


def test_suspended_attempt_has_the_same_number_in_facts_and_history(fire, client, job):
    """A suspension is not counted as an attempt, so the facts and the history show the same number."""
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)
    page = text_of(client.get(f"/jobs/{job.id}").text)
    assert "attempt 1 of 11, suspended" in page
    assert "Attempts 1 of 11, suspended" in page


def test_interrupted_attempt_is_not_counted(fire, client, job):
    """The job was returned to its queue, so it runs again with the same attempt number."""
    end(fire, job, State.ENQUEUED, gives_back=True, reason="server stopped while the job was running")
    claim(fire)
    page = text_of(client.get(f"/jobs/{job.id}").text)
    assert "attempt 1 of 11, interrupted and not counted" in page
    assert "Attempts 1 of 11" in page
    assert 1 == page.count("not counted")


def test_sleeping_job_shows_the_remaining_time(fire, client, job):
    due_at = fire.storage.clock() + 7_200_000_000
    remember(fire, job, "sleep", "cool-off", str(due_at))
    end(fire, job, State.SCHEDULED, waits_for="sleep cool-off", gives_back=True, due_at=due_at)
    page = client.get(f"/jobs/{job.id}").text
    assert "state-retrying" not in page[page.index("region-head") :].partition("relations-title")[0]
    page = text_of(page)
    assert re.search(r"is sleeping at the step cool-off for another (2|1:59|2:00|1 h|2 h)", page)
    assert "Backing off" not in page


def test_secret_in_a_step_value_is_masked(fire, client, job):
    remember(fire, job, "step", "login", '{"password": "hunter2", "token": "abc"}')
    assert "hunter2" not in card_of(client, job)


def test_job_runs_again_from_a_step(fire, client, job):
    for name in ("a", "b", "c"):
        remember(fire, job, "step", name, "1")
    assert "Run again from here" not in text_of(card_of(client, job)), "not while it runs"
    end(fire, job, State.FAILED)
    assert "Run again from here" in text_of(card_of(client, job))
    answer = client.act("/jobs/again", {"one": job.id, "step": "step b"})
    assert answer.status == 200
    assert [memo.name for memo in fire.storage.recall(job.id)] == ["a"]
    assert fire.storage.get([job.id])[0].state is State.ENQUEUED
    (entry,) = fire.audit.list().entries
    assert (entry.action, entry.target, entry.detail) == ("job.requeue", job.id, {"step": "step b"})


def test_run_from_an_unknown_step_is_refused(fire, client, job):
    end(fire, job, State.FAILED)
    assert client.post("/jobs/again", {"one": job.id, "step": "b", "sure": "1"}).status == 400


def test_signal_timeout_is_shown_in_words(fire, client, job):
    remember(fire, job, MemoKind.SIGNAL, "approval", None)
    assert "None" not in text_of(card_of(client, job))


def wait_for_approval(fire, job):
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)


def test_signal_is_sent_from_the_job_page(fire, client, job):
    assert "Answer: approval" not in text_of(client.get(f"/jobs/{job.id}").text), "nobody waits for it"
    wait_for_approval(fire, job)
    assert "Answer: approval" in text_of(client.get(f"/jobs/{job.id}").text)
    sent = {"one": job.id, "signal": "approval", "value": "true"}

    first, second = client.act("/jobs/signal", sent), client.act("/jobs/signal", {**sent, "value": "false"})

    assert "Answer to approval sent." in first.text
    assert "Too late" in second.text
    assert fire.jobs.get(job.id).state is State.ENQUEUED
    (memo,) = fire.storage.recall(job.id)
    assert (memo.value, next(iter(fire.audit.list(limit=1))).action) == ("true", "signal.send")
    assert "Answer: approval" not in text_of(client.get(f"/jobs/{job.id}").text)


@pytest.mark.parametrize(("value", "message"), [("yes", "must be JSON"), ("", "value is missing")])
def test_invalid_answer_is_refused_with_its_reason(fire, client, job, value, message):
    wait_for_approval(fire, job)

    refused = client.act("/jobs/signal", {"one": job.id, "signal": "approval", "value": value})

    assert refused.status == 400
    assert message in refused.text
    assert fire.jobs.get(job.id).state is State.AWAITING


class Level(enum.Enum):
    """An enum for the fields of an answer."""

    LOW = 1
    HIGH = 2


@attrs.frozen
class Approval:
    """An answer with fields of several types."""

    ok: bool
    by: str
    amount: int = 0
    level: Level = Level.LOW
    notes: list[str] = attrs.field(factory=list)


def fields_of(page):
    """Return the fields of the form that answers a signal, with their elements."""
    form = page.partition('action="/jobs/signal"')[2].partition("</form>")[0]
    return {name: tag for tag, name in re.findall(r'<(\w+) id="(args\.\w+)"', form)}


def answer(client, job, **fields):
    named = {f"args.{name}": text for name, text in fields.items()}
    return client.post("/jobs/signal", {"one": job.id, "signal": "approval", **named})


def test_answer_form_has_the_fields_of_its_type(fire, client, job):
    """As in a task's form, enums and booleans are choices with none selected, and lists are JSON."""
    fire.signal("approval", Approval)
    wait_for_approval(fire, job)
    page = client.get(f"/jobs/{job.id}").text

    assert {
        "args.ok": "select", "args.by": "input", "args.amount": "input", "args.level": "select",
        "args.notes": "textarea",
    } == fields_of(page)  # fmt: skip
    assert '<select id="args.ok" name="args.ok" required><option value="">Choose…</option>' in page

    sent = answer(client, job, ok="true", by="ada", amount="7", level="HIGH", notes='["a"]')

    assert (303, f"/jobs/{job.id}") == (sent.status, sent.location)
    (memo,) = fire.storage.recall(job.id)
    assert {"ok": True, "by": "ada", "amount": 7, "level": 2, "notes": ["a"]} == json.loads(memo.value)


def test_answer_form_uses_plain_words(fire, client, job):
    """The form describes types in everyday words, and a link to it is the first action.

    The page does not offer "Run now", because the job would only wait again.
    """
    fire.signal("approval", Approval)
    wait_for_approval(fire, job)
    page = client.get(f"/jobs/{job.id}").text
    form = page.partition('action="/jobs/signal"')[2].partition("</form>")[0]
    text = text_of(form)
    first = re.search(r'<div class="actions">\s*<(\w+)[^>]*href="([^"]+)"', page)

    assert all(word in text for word in ("ok yes or no", "by text", "amount whole number · optional", "JSON"))
    assert '<option value="true">yes</option><option value="false">no</option>' in form
    assert ("bool" in text, "can be omitted" in text) == (False, False)
    assert "Only the first answer counts" in text
    assert ("a", "#answer-title") == first.groups()
    assert "Run now" not in text_of(client.part(f"/jobs/{job.id}", "head").text)


def test_answer_form_repeats_the_call(fire, client, job):
    """The form shows the job's call again, because the head of the page has scrolled out of view.

    Arguments stay hidden from visitors who are not permitted to see them.
    """
    fire.signal("approval", Approval)
    wait_for_approval(fire, job)

    card = client.part(f"/jobs/{job.id}", "answer").text
    dashboard = Dashboard(fire, auth=lambda request: {"read", "run_task"})
    with closing(dashboard), closing(Browser(dashboard)) as reader:
        hidden = reader.part(f"/jobs/{job.id}", "answer").text

    assert ("order(number=7)" in card, "number=7" in hidden) == (True, False)
    assert f"order {job.id[-8:]}" in hidden


def test_invalid_answer_shows_an_error_at_its_field(fire, client, job):
    """The typed values are kept, valid fields have no error, and no signal is sent."""
    fire.signal("approval", Approval)
    wait_for_approval(fire, job)

    refused = answer(client, job, ok="", by="<b>ada</b>", amount="seven", level="LOW", notes="[")

    assert 400 == refused.status
    errors = dict(re.findall(r'id="args\.(\w+)-error">([^<]+)<', refused.text))
    assert ["amount", "notes", "ok"] == sorted(errors)
    assert "is required; enter true or false" == errors["ok"]
    assert "enter a whole number" in errors["amount"]
    assert 'aria-invalid="true" aria-describedby="args.ok-error"' in refused.text
    assert 'value="&lt;b&gt;ada&lt;/b&gt;"' in refused.text
    assert 'value="seven"' in refused.text
    assert fire.jobs.get(job.id).state is State.AWAITING


def test_validator_message_is_above_the_answer_form(fire, client, job):
    @attrs.frozen
    class Sum:
        euros: int = attrs.field(validator=attrs.validators.lt(100))

    fire.signal("approval", Sum)
    wait_for_approval(fire, job)

    refused = answer(client, job, euros="100")

    assert 400 == refused.status
    assert "must be &lt; 100" in refused.text


def test_signal_of_one_value_has_one_field(fire, client, job):
    fire.signal("approval", bool)
    wait_for_approval(fire, job)
    assert {"args.value": "select"} == fields_of(client.get(f"/jobs/{job.id}").text)

    assert 303 == answer(client, job, value="false").status

    (memo,) = fire.storage.recall(job.id)
    assert "false" == memo.value


def test_error_for_programs_describes_the_answer_type(fire, client, job):
    """If a program sends JSON that does not match the signal's type, the error describes the type."""
    fire.signal("approval", Approval)
    wait_for_approval(fire, job)

    refused = client.act("/jobs/signal", {"one": job.id, "signal": "approval", "value": "true"})

    assert 400 == refused.status
    assert "Approval has the fields ok (bool), by (str), amount (int, optional)" in refused.json()["error"]


def test_invalid_json_answer_shows_an_error_at_its_field(fire, client, job):
    """The field contains raw JSON because this process does not know the signal's type."""
    wait_for_approval(fire, job)

    refused = client.post("/jobs/signal", {"one": job.id, "signal": "approval", "value": "yes <b>"})

    assert 400 == refused.status
    assert 'id="answer-error">value must be JSON' in refused.text
    assert "must be JSON" in refused.text
    assert ">yes &lt;b&gt;</textarea>" in refused.text


def test_api_returns_the_end_of_a_wait_as_a_time(fire, client, job):
    """The end of a sleep or of a wait for a signal is a timestamp, not the stored number of microseconds."""
    due_at = 1_795_000_000_000_000
    remember(fire, job, "sleep", "cool-off", str(due_at))
    remember(fire, job, "signal", "approval", str(due_at), is_done=False)
    remember(fire, job, "signal", "go", None, is_done=False)
    remember(fire, job, "signal", "number", "7")

    steps = client.get(f"/api/jobs/{job.id}/steps").json()["steps"]

    until = "2026-11-18T11:06:40.000000Z"
    assert [(until[:19], None), (until[:19], None), (None, None), (None, "7")] == [
        (one["until"] and one["until"][:19], one["value"]) for one in steps
    ]
