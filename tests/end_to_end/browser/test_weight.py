"""The size of a page and all of its files as a browser receives them."""

from __future__ import annotations

import gzip
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

LIGHT = {"/": 72_000, "/jobs": 51_000}  # bytes
_STREAM = "/live"


def weight(response):
    """Return the number of bytes, compressed as received or as a proxy would compress them."""
    sent = response.headers.get("content-length")
    if "content-encoding" in response.headers and sent:
        return int(sent)
    return len(gzip.compress(response.body(), 6, mtime=0))


@pytest.mark.parametrize("address", list(LIGHT))
def test_first_page_is_small(shop, open_context, address):
    """With an empty cache, the overview takes at most 72 kB compressed, and a list of jobs at most 51 kB."""
    page = open_context(shop).new_page()
    responses = []
    # a lambda, because Playwright sets an attribute on the handler
    page.on("response", lambda response: responses.append(response))  # noqa: PLW0108

    page.goto(address, wait_until="load")
    expect(page.locator("[data-live-chip]")).to_have_text("Live")
    if address == "/":
        expect(page.locator("fl-chart canvas")).to_be_visible()

    weighed = {urlsplit(one.url).path: weight(one) for one in responses if urlsplit(one.url).path != _STREAM}
    assert sum(weighed.values()) <= LIGHT[address], weighed
    assert any(name.endswith(".css") for name in weighed), "its files were not counted"
