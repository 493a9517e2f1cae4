"""Approval links: whoever has one sees its page alone, and the first answer stands."""

from __future__ import annotations

import re
from contextlib import closing

import attrs
import pytest

from firelock.approval import ApprovalLink, make_link
from firelock.storage import MemoKind, State
from firelock_dashboard import Dashboard
from firelock_dashboard.security.permissions import LEVELS, Access
from tests.dashboard.asking import Browser
from tests.dashboard.flows import claim, end, remember

CHOICES = {"Approve": "true", "Refuse": "false"}


@pytest.fixture
def job(fire):
    """A job that waits for the signal."""

    @fire.task(name="shop.order")
    def order(number: int) -> None:
        """Never run here."""

    order.enqueue(7)
    (job,) = claim(fire)
    end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)
    return job


@pytest.fixture
def stranger(dashboard):
    """Somebody who has nothing but the link."""
    with closing(Browser(dashboard, is_in=False)) as browser:
        yield browser


def path_of(fire, job, **changes):
    """Make a link; return its path."""
    link = ApprovalLink(job.id, "approval", CHOICES, fire.storage.clock() + 60_000_000, "Pay 300 € to ACME?")
    return make_link(fire.storage, attrs.evolve(link, **changes), at="http://localhost").removeprefix(
        "http://localhost"
    )


def answer_of(fire, job):
    """What stands under the signal's name: its value and author; None for nothing."""
    for memo in fire.storage.recall(job.id):
        if memo.kind is MemoKind.SIGNAL and memo.is_done:
            return memo.value, memo.author
    return None


def test_a_program_answers_what_the_job_waits_for(client, fire, job):
    """With a payload of its type, as far as it is known here; what is meant for later says so."""
    fire.signal("approval", bool)

    def sent(signal, value, **more):
        answer = client.post("/api/signals/send", {"job": job.id, "signal": signal, "value": value, **more})
        return answer.status, answer.text

    other, unfit = sent("aproval", "true"), sent("approval", '"yes"')
    early, right = sent("manager", "1", early="true"), sent("approval", "true")

    assert (400, 400, 200, 200) == (other[0], unfit[0], early[0], right[0])
    assert "waits for signal 'approval' now, not for 'aproval'" in other[1]
    assert "is no payload of signal 'approval'" in unfit[1]
    assert ["manager", "approval"] == [memo.name for memo in fire.storage.recall(job.id)]


def state_of(fire, job):
    return fire.storage.get([job.id])[0].state


def test_the_page_shows_what_is_asked_and_changes_nothing(fire, job, stranger):
    page = stranger.get(path_of(fire, job))
    assert page.status == 200
    assert "Pay 300 € to ACME?" in page.text
    assert re.findall(r'name="choice" value="([^"]+)"', page.text) == ["Approve", "Refuse"]
    assert answer_of(fire, job) is None
    assert state_of(fire, job) is State.AWAITING


def test_a_look_by_a_scanner_of_mail_decides_nothing(fire, job, stranger):
    path = path_of(fire, job)
    for method in ("GET", "HEAD"):
        assert stranger.ask(method, path).status == 200
    assert answer_of(fire, job) is None


def test_an_answer_lets_the_job_go_on(fire, job, stranger):
    page = stranger.post(path_of(fire, job, name="ada"), {"choice": "Refuse"})
    assert page.status == 200
    assert "Answered: Refuse" in page.text
    assert answer_of(fire, job) == ("false", "ada")
    assert state_of(fire, job) is State.ENQUEUED


def test_the_first_answer_stands(fire, job, stranger):
    path = path_of(fire, job)
    stranger.post(path, {"choice": "Approve"})
    page = stranger.post(path, {"choice": "Refuse"})
    assert page.status == 409
    assert "too late" in page.text
    assert answer_of(fire, job)[0] == "true"
    assert 'name="choice"' not in stranger.get(path).text


def test_the_audit_tells_who_decided(fire, job, stranger):
    stranger.post(path_of(fire, job, name="ada"), {"choice": "Approve"})
    (entry,) = fire.audit.list().entries
    assert (entry.action, entry.target, entry.by) == ("signal.send", job.id, "ada")
    assert entry.detail == {"signal": "approval", "choice": "Approve"}


def test_who_is_in_decides_under_their_own_name(fire, job):
    dashboard = Dashboard(fire, auth=lambda _: Access(LEVELS["read"], "grace"))
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        assert browser.post(path_of(fire, job, name="ada"), {"choice": "Approve"}).status == 200
    assert answer_of(fire, job) == ("true", "grace")


def test_a_link_opens_no_other_page(fire, job, stranger):
    path = path_of(fire, job)
    stranger.get(path)
    for other in ("/", "/jobs", f"/jobs/{job.id}", f"{path}/", f"{path}/../jobs"):
        assert stranger.get(other).status in {400, 401, 404}


def test_an_answer_from_elsewhere_is_refused(fire, job, stranger):
    page = stranger.post(
        path_of(fire, job), {"choice": "Approve"},
        headers={"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    )  # fmt: skip
    assert page.status == 403
    assert answer_of(fire, job) is None


@pytest.mark.parametrize(
    "form", [{}, {"choice": "Maybe"}, {"choice": "Approve", "more": "1"}, {"choice": "x" * 3_000}]
)
def test_what_the_link_does_not_offer_is_refused(fire, job, stranger, form):
    assert stranger.post(path_of(fire, job), form).status == 400
    assert answer_of(fire, job) is None


@pytest.mark.parametrize("token", ["x", "a" * 43, "%00" * 5, "..%2f..%2fjobs"])
def test_a_link_that_was_never_made_asks_for_nothing(stranger, token):
    assert stranger.get(f"/approval/{token}").status in {400, 404}


def test_an_expired_link_asks_for_nothing(fire, job, stranger):
    path = path_of(fire, job)
    fire.storage.clock_offset += 61_000_000
    assert stranger.get(path).status == 404
    assert stranger.post(path, {"choice": "Approve"}).status == 404
    assert answer_of(fire, job) is None


def test_a_read_only_dashboard_takes_no_answer(fire, job):
    dashboard = Dashboard(fire, read_only=True)
    with closing(dashboard), closing(Browser(dashboard, is_in=False)) as browser:
        assert browser.post(path_of(fire, job), {"choice": "Approve"}).status == 403
    assert answer_of(fire, job) is None


def test_a_time_out_is_told_as_one(fire, job, stranger):
    fire.jobs.get(job.id).requeue()
    (again,) = claim(fire)
    remember(fire, again, "signal", "approval", None)
    page = stranger.post(path_of(fire, job), {"choice": "Approve"})
    assert page.status == 409
    assert "Nobody answered in time" in page.text


def test_a_job_that_has_ended_has_nothing_to_decide(fire, job, stranger):
    fire.jobs.get(job.id).delete()
    path = path_of(fire, job)
    assert "nothing left to decide" in stranger.get(path).text
    assert stranger.post(path, {"choice": "Approve"}).status == 409
    assert answer_of(fire, job) is None


def test_texts_are_shown_as_they_are(fire, job, stranger, hostile):
    hostile = "".join(one for one in hostile if one.isprintable())[:400] or "?"
    page = stranger.get(path_of(fire, job, question=hostile, choices={hostile: "1"}))
    assert page.status == 200
    assert hostile not in page.text or not set(hostile) & set("<>&\"'")
