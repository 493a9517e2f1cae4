"""Approval links: a link gives access only to its own page, and the first answer counts."""

from __future__ import annotations

import re
from contextlib import closing
from urllib.parse import quote, urlsplit

import attrs
import pytest

from firelock.flows.approval import ApprovalLink, make_link
from firelock.storage import MemoKind, State
from firelock_dashboard import Dashboard
from firelock_dashboard.security.permissions import LEVELS, Access
from tests.dashboard.browser import Browser
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
def visitor(dashboard):
    """A visitor who has only the link."""
    with closing(Browser(dashboard, is_in=False)) as browser:
        yield browser


def token_of(fire, job, **changes):
    """Create a link and return its token."""
    link = ApprovalLink(job.id, "approval", CHOICES, fire.storage.clock() + 60_000_000, "Pay 300 € to ACME?")
    return make_link(fire.storage, attrs.evolve(link, **changes), at="http://localhost").rpartition("#")[2]


def shown(browser, token, **options):
    """Post the token, as the page that the link opens does; return the page with the question."""
    return browser.post("/approval", {"token": token}, **options)


def decided(browser, token, choice, **options):
    """Press the button with this label."""
    return browser.post("/approval", {"token": token, "choice": choice}, **options)


def answer_of(fire, job):
    """Return the value and the author of the stored signal, or None if there is none."""
    for memo in fire.storage.recall(job.id):
        if memo.kind is MemoKind.SIGNAL and memo.is_done:
            return memo.value, memo.author
    return None


def test_program_sends_the_signal_that_the_job_waits_for(client, fire, job):
    """The payload is checked against the signal's type if the type is known here.

    A signal for a later wait requires `early`.
    """
    fire.signal("approval", bool)

    def sent(signal, value, **more):
        answer = client.post("/api/signals/send", {"job": job.id, "signal": signal, "value": value, **more})
        return answer.status, answer.text

    other, unfit = sent("aproval", "true"), sent("approval", '"yes"')
    early, right = sent("manager", "1", early="true"), sent("approval", "true")

    assert (400, 400, 200, 200) == (other[0], unfit[0], early[0], right[0])
    assert "waits for signal 'approval' now, not for 'aproval'" in other[1]
    assert "is not a valid payload of signal 'approval'" in unfit[1]
    assert ["manager", "approval"] == [memo.name for memo in fire.storage.recall(job.id)]


def state_of(fire, job):
    return fire.storage.get([job.id])[0].state


def test_approval_page_shows_the_question_without_changing_anything(fire, job, visitor):
    page = shown(visitor, token_of(fire, job))
    assert page.status == 200
    assert "Pay 300 € to ACME?" in page.text
    assert re.findall(r'name="choice" value="([^"]+)"', page.text) == ["Approve", "Refuse"]
    assert answer_of(fire, job) is None
    assert state_of(fire, job) is State.AWAITING


def test_every_approval_link_opens_the_same_empty_page(fire, job, visitor):
    link = make_link(
        fire.storage, ApprovalLink(job.id, "approval", CHOICES, 2**60, "Pay?"), at="http://localhost/"
    )
    opened = visitor.get(urlsplit(link).path)
    assert (urlsplit(link).path, urlsplit(link).query) == ("/approval", "")
    assert opened.status == 200
    assert not {"Pay?", "Approve", job.id, "shop.order"} & set(re.split(r"[<>\s\"]", opened.text))
    fire.storage.clock_offset += 1_000_000
    assert visitor.get("/approval").text == opened.text


def test_approval_link_can_be_pasted_without_javascript(fire, job, visitor):
    """The visitor may paste the link in the current or the earlier format, or only the part after its #."""
    token = token_of(fire, job)
    assert 'name="token"' in visitor.get("/approval").text
    for pasted in (f"https://ops.example.com/jobs/approval#{token}", f" {token} ", f"/approval/{token}"):
        assert "Pay 300 € to ACME?" in shown(visitor, pasted).text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/approval", "/approval/{token}"])
def test_request_by_a_mail_scanner_sends_no_answer(fire, job, visitor, method, path):
    assert visitor.request(method, path.format(token=token_of(fire, job))).status == 200
    assert answer_of(fire, job) is None


def test_answer_resumes_the_job(fire, job, visitor):
    page = decided(visitor, token_of(fire, job, name="ada"), "Refuse")
    assert page.status == 200
    assert "Answered: Refuse" in page.text
    assert answer_of(fire, job) == ("false", "ada")
    assert state_of(fire, job) is State.ENQUEUED


def test_second_answer_is_refused(fire, job, visitor):
    token = token_of(fire, job)
    decided(visitor, token, "Approve")
    page = decided(visitor, token, "Refuse")
    assert page.status == 409
    assert "too late" in page.text
    assert answer_of(fire, job)[0] == "true"
    assert 'name="choice"' not in shown(visitor, token).text


# ---- the place of the token ------------------------------------------------------------------------------


class Recording:
    """An app that records the parts of requests that access logs may contain, and the response headers."""

    def __init__(self, dashboard):
        self.dashboard = dashboard
        self.auth = dashboard.auth
        self.requests, self.answers = [], []

    async def __call__(self, scope, receive, send):
        named = dict(scope["headers"])
        self.requests.append((scope["path"], scope["query_string"], named.get(b"referer")))

        async def sent(message):
            if message["type"] == "http.response.start":
                self.answers.append(message["headers"])
            await send(message)

        await self.dashboard(scope, receive, sent)


def test_request_lines_and_headers_do_not_contain_the_token(fire, job, dashboard):
    token, recording = token_of(fire, job), Recording(dashboard)
    with closing(Browser(recording, is_in=False)) as browser:
        browser.get("/approval")
        shown(browser, token)
        decided(browser, token, "Nonsense")
        decided(browser, token, "Approve")
        decided(browser, token, "Refuse")
    assert token not in repr(recording.requests)
    assert token not in repr(recording.answers)


def test_error_on_the_approval_page_does_not_log_the_token(fire, job, visitor, monkeypatch, caplog):
    token = token_of(fire, job)

    def broken(*_words):
        raise RuntimeError("the storage is odd")

    monkeypatch.setattr(fire.storage, "get_record", broken)
    assert visitor.get(f"/approval/{token}").status == 500
    assert shown(visitor, token).status == 500
    assert len(caplog.records) == 2
    assert token not in "".join(repr(vars(record)) for record in caplog.records)


def test_earlier_link_format_works_until_it_expires(fire, job, visitor):
    """The token is in the path of such a link.

    The page's Referrer-Policy therefore withholds the path, and its form posts to another URL.
    """
    token = token_of(fire, job, name="ada")
    page = visitor.get(f"/approval/{token}")
    assert "Pay 300 € to ACME?" in page.text
    assert page.header("referrer-policy") == "strict-origin"
    assert re.findall(r'<form[^>]* action="([^"]*)"', page.text) == ["/approval"]
    assert shown(visitor, token).header("referrer-policy") == "same-origin"
    fire.storage.clock_offset += 59_000_000
    assert visitor.get(f"/approval/{token}").status == 200
    fire.storage.clock_offset += 2_000_000
    assert visitor.get(f"/approval/{token}").status == 404


def test_refused_link_in_earlier_format_sends_no_referer(fire, job):
    dashboard, token = Dashboard(fire, auth=lambda _: None, allowed_hosts=["elsewhere"]), token_of(fire, job)
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        page = browser.get(f"/approval/{token}")
    assert (page.status, page.header("referrer-policy")) == (403, "strict-origin")


def test_page_opened_before_an_upgrade_can_still_answer(fire, job, visitor):
    page = visitor.post(f"/approval/{token_of(fire, job)}", {"choice": "Refuse"})
    assert (page.status, answer_of(fire, job)[0]) == (200, "false")


# ---- the person who answers ------------------------------------------------------------------------------


def test_audit_records_the_author_of_an_answer(fire, job, visitor):
    decided(visitor, token_of(fire, job, name="ada"), "Approve")
    (entry,) = fire.audit.list().entries
    assert (entry.action, entry.target, entry.by) == ("signal.send", job.id, "ada")
    assert entry.detail == {"signal": "approval", "choice": "Approve"}


def test_signed_in_visitor_answers_under_their_own_name(fire, job):
    dashboard = Dashboard(fire, auth=lambda _: Access(LEVELS["read"], "grace"))
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        assert decided(browser, token_of(fire, job, name="ada"), "Approve").status == 200
    assert answer_of(fire, job) == ("true", "grace")


def test_approval_link_opens_no_other_page(fire, job, visitor):
    token = token_of(fire, job)
    shown(visitor, token)
    for other in (
        "/",
        "/jobs",
        f"/jobs/{job.id}",
        "/approval/",
        f"/approval/{token}/",
        f"/approval/{token}/../jobs",
    ):
        assert visitor.get(other).status in {400, 401, 404}
    assert visitor.post("/jobs/delete", {"token": token, "one": job.id}).status == 401


@pytest.mark.parametrize("form", [{}, {"choice": "Approve"}], ids=["shown", "decided"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": None},
    ],
    ids=str,
)
def test_answer_from_another_origin_is_refused(fire, job, visitor, form, headers):
    page = visitor.post("/approval", {"token": token_of(fire, job), **form}, headers=headers)
    assert page.status == 403
    assert "Pay" not in page.text
    assert answer_of(fire, job) is None


@pytest.mark.parametrize(
    "form", [{"choice": ""}, {"choice": "Maybe"}, {"choice": "Approve", "more": "1"}, {"choice": "x" * 3_000}]
)
def test_unoffered_choice_is_refused(fire, job, visitor, form):
    assert visitor.post("/approval", {"token": token_of(fire, job), **form}).status == 400
    assert answer_of(fire, job) is None


@pytest.mark.parametrize("form", [{}, {"token": ""}, {"token": "a" * 3_000}, {"choice": "Approve"}])
def test_form_without_a_token_is_refused(visitor, form):
    assert visitor.post("/approval", form).status == 400


@pytest.mark.parametrize("token", ["x", "a" * 43, "%00" * 5, "..%2f..%2fjobs", "\u202e"])
def test_unknown_token_is_not_found(visitor, token):
    assert shown(visitor, token).status == 404
    assert visitor.get(f"/approval/{quote(token, safe='%')}").status in {400, 404}


def test_expired_link_is_not_found(fire, job, visitor):
    token = token_of(fire, job)
    fire.storage.clock_offset += 61_000_000
    assert shown(visitor, token).status == 404
    assert decided(visitor, token, "Approve").status == 404
    assert answer_of(fire, job) is None


@pytest.mark.parametrize("form", [None, {}], ids=["earlier link", "link"])
def test_read_only_dashboard_accepts_no_answer(fire, job, form):
    dashboard, token = Dashboard(fire, read_only=True), token_of(fire, job)
    with closing(dashboard), closing(Browser(dashboard, is_in=False)) as browser:
        page = browser.get(f"/approval/{token}") if form is None else shown(browser, token)
        assert page.status == 200
        assert "Pay 300 € to ACME?" in page.text
        assert "read-only" in page.text
        assert "<button" not in page.text
        assert decided(browser, token, "Approve").status == 403
    assert answer_of(fire, job) is None


def test_read_only_dashboard_shows_the_sent_answer(fire, job, visitor):
    dashboard, token = Dashboard(fire, read_only=True), token_of(fire, job)
    decided(visitor, token, "Approve")
    with closing(dashboard), closing(Browser(dashboard, is_in=False)) as browser:
        page = shown(browser, token)
    assert "Answered: Approve" in page.text
    assert "read-only" not in page.text


def test_late_answer_reports_the_timeout(fire, job, visitor):
    fire.jobs.get(job.id).requeue()
    (again,) = claim(fire)
    remember(fire, again, "signal", "approval", None)
    token = token_of(fire, job)
    page = decided(visitor, token, "Approve")
    assert page.status == 409
    assert "Your answer came too late: the time to answer had expired." in page.text
    assert "another answer was first" not in page.text
    assert "Nobody answered in time" not in page.text
    assert "Nobody answered in time" in shown(visitor, token).text


def test_approval_page_has_no_empty_paragraph(fire, job, visitor):
    token = token_of(fire, job)
    pages = [shown(visitor, token), decided(visitor, token, "Approve"), decided(visitor, token, "Refuse")]
    assert [page.status for page in pages] == [200, 200, 409]
    assert not any(re.search(r"<p[^>]*>\s*</p>", page.text) for page in pages)


def test_answer_to_an_ended_job_is_refused(fire, job, visitor):
    fire.jobs.get(job.id).delete()
    token = token_of(fire, job)
    assert "nothing left to decide" in shown(visitor, token).text
    assert decided(visitor, token, "Approve").status == 409
    assert answer_of(fire, job) is None


def test_hostile_question_is_shown_literally(fire, job, visitor, hostile):
    hostile = "".join(one for one in hostile if one.isprintable())[:400] or "?"
    page = shown(visitor, token_of(fire, job, question=hostile, choices={hostile: "1"}))
    assert page.status == 200
    assert hostile not in page.text or not set(hostile) & set("<>&\"'")
