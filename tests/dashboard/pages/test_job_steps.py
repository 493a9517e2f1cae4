"""What a job remembers, on its page: its steps, what it waits for, running it again from one."""

from __future__ import annotations

import re

import pytest

from firelock.storage import MemoKind, State
from tests.dashboard.flows import claim, end, remember
from tests.dashboard.pages.test_batch import text_of


@pytest.fixture
def job(fire):
    """A job that runs."""

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


def test_a_job_that_remembers_nothing_has_no_card(client, job):
    assert card_of(client, job) == ""


def test_steps_are_shown_in_their_order(fire, client, job):
    remember(fire, job, "step", "charge", '"ch_7"')
    remember(fire, job, "signal", "approval", '{"ok":true}', author="ada")
    text = text_of(card_of(client, job))
    assert text.index("charge") < text.index("approval")
    assert "ch_7" in text
    assert "from ada" in text
    assert "1.5 s" in text


def test_a_wait_that_is_open_says_so(fire, client, job):
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)
    page = text_of(client.get(f"/jobs/{job.id}").text)
    assert "Its task waits for the signal approval, without a worker." in page
    assert "under way" in text_of(card_of(client, job))


def test_a_sleep_says_how_long(fire, client, job):
    due_at = fire.storage.clock() + 7_200_000_000
    remember(fire, job, "sleep", "cool-off", str(due_at))
    end(fire, job, State.SCHEDULED, waits_for="sleep cool-off", gives_back=True, due_at=due_at)
    page = client.get(f"/jobs/{job.id}").text
    assert "state-retrying" not in page[page.index("region-head") :].partition("relations-title")[0]
    page = text_of(page)
    assert re.search(
        r"sleeps at the step cool-off, without a worker, for another (2|1:59|2:00|1 h|2 h)", page
    )
    assert "Backing off" not in page


def test_a_secret_in_a_value_is_masked(fire, client, job):
    remember(fire, job, "step", "login", '{"password": "hunter2", "token": "abc"}')
    assert "hunter2" not in card_of(client, job)


def test_it_runs_again_from_a_step(fire, client, job):
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


def test_a_step_that_is_not_there_is_refused(fire, client, job):
    end(fire, job, State.FAILED)
    assert client.post("/jobs/again", {"one": job.id, "step": "b", "sure": "1"}).status == 400


def test_a_time_out_is_told_in_words(fire, client, job):
    remember(fire, job, MemoKind.SIGNAL, "approval", None)
    assert "None" not in text_of(card_of(client, job))


def wait_for_approval(fire, job):
    remember(fire, job, "signal", "approval", None, is_done=False)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)


def test_a_signal_is_answered_on_the_page(fire, client, job):
    assert "Answer approval" not in text_of(client.get(f"/jobs/{job.id}").text), "nobody waits for it"
    wait_for_approval(fire, job)
    assert "Answer approval" in text_of(client.get(f"/jobs/{job.id}").text)
    sent = {"one": job.id, "signal": "approval", "value": "true"}

    first, second = client.act("/jobs/signal", sent), client.act("/jobs/signal", {**sent, "value": "false"})

    assert "the job goes on" in first.text
    assert "Too late" in second.text
    assert fire.jobs.get(job.id).state is State.ENQUEUED
    (memo,) = fire.storage.recall(job.id)
    assert (memo.value, next(iter(fire.audit.list(limit=1))).action) == ("true", "signal.send")
    assert "Answer approval" not in text_of(client.get(f"/jobs/{job.id}").text)


@pytest.mark.parametrize(("value", "said"), [("yes", "is no JSON"), ("", "value is missing")])
def test_what_is_no_answer_is_told(fire, client, job, value, said):
    wait_for_approval(fire, job)

    refused = client.act("/jobs/signal", {"one": job.id, "signal": "approval", "value": value})

    assert refused.status == 400
    assert said in refused.text
    assert fire.jobs.get(job.id).state is State.AWAITING


def test_the_type_of_an_answer_is_named_where_it_is_known(fire, client, job):
    fire.signal("approval", bool)
    wait_for_approval(fire, job)
    assert "JSON of the type bool." in text_of(client.get(f"/jobs/{job.id}").text)
    refused = client.act("/jobs/signal", {"one": job.id, "signal": "approval", "value": '"yes"'})
    assert refused.status == 400
