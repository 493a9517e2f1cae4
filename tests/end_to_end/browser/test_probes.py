"""Pages show data from jobs, servers and people as it was written, and never execute it."""

from __future__ import annotations

import json
from contextlib import closing
from urllib.parse import quote

from playwright.sync_api import expect

from firelock_dashboard.app import TABLE
from tests.end_to_end.browser.addresses import addresses, page_routes
from tests.end_to_end.browser.probes import FIELDS, probe, probed

# URLs whose pages show a part of the URL itself, or typed text.
_REFLECTED = (
    "/jobs?error={}", "/jobs?q=error:{}", "/jobs?task={}", "/jobs?tag={}", "/jobs?id={}", "/retries?error={}",
    "/jobs?created={}", "/jobs?state={}", "/jobs/{}", "/failures/{}", "/queues/{}", "/recurring?q={}",
    "/recurring/view?id={}", "/recurring/edit?id={}", "/tasks?q={}", "/tasks/view?name={}",
    "/tasks/run?name={}", "/servers?after={}", "/activity?cursor={}", "/?span={}", "/x/{}", "/{}",
)  # fmt: skip


def test_probes_are_shown_literally(any_storage, serve, open_page, guard):
    """With each kind of storage, every page shows the contents of the fields as plain text.

    Each field is shown on at least one page.
    """
    guard.allow("status of 40")
    with closing(probed(any_storage)) as fire:
        served = serve(fire, title=probe("title"))
        page = open_page(served)
        places = addresses(fire)
        seen = set()

        for address in (one for route in page_routes(TABLE) for one in places[route]):
            page.goto(address)
            seen |= shown_by(page)
        for address in _REFLECTED:
            page.goto(address.format(quote(probe("title"), safe="")))
            shown_by(page)
        page.goto("/jobs")
        page.locator("#filter").press_sequentially("task:")
        expect(page.locator("#suggestions [role=option]").filter(has_text=probe("task"))).to_have_count(1)
        shown_by(page)
        page.close()  # before the app closes, because the page still sends requests

        assert set(FIELDS) == seen


def shown_by(page):
    """Return the fields whose probe the page shows as text; assert that none is an element or has run."""
    found = page.evaluate("() => [document.querySelectorAll('img, xss').length, typeof window.xss]")
    assert [0, "undefined"] == found, page.url
    text = page.evaluate("() => document.documentElement.textContent")
    return {field for field in FIELDS if probe(field) in text or json.dumps(probe(field))[1:-1] in text}
