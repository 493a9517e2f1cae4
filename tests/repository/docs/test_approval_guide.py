"""The approval with reminders of docs/flows-guide.md, answered with its first link as in a browser."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import timedelta

import pytest

from firelock.testing import Tester
from firelock_dashboard import Dashboard
from tests.dashboard.browser import Browser
from tests.repository.docs.pages import ROOT, python_blocks

PAGE = ROOT / "docs" / "flows-guide.md"


@pytest.fixture
def guide():
    """The names in the guide's program, up to its section on approvals."""
    blocks = python_blocks(PAGE.read_text(encoding="utf-8"))
    names = {"__name__": "guide"}
    for block in blocks:
        if "def settle" in block.code or "def remind" in block.code or "Firelock(" in block.code:
            exec(block.code.partition("\nwith Tester(")[0], names)
    yield names
    names["fire"].close()


def links(mails):
    return [re.search(r"https://\S+", mail)[0] for mail in mails]


def answer(dashboard, link, choice):
    """Press a button on the page of a link; return the page."""
    with closing(Browser(dashboard, is_in=False)) as browser:
        return browser.post("/approval", {"token": link.rpartition("#")[2], "choice": choice})


def test_first_approval_link_is_valid_after_a_reminder(guide):
    """Both links answer the same wait.

    If the older link is used first, the newer one is refused as too late.
    """
    with Tester(guide["fire"]) as tester:
        dashboard = Dashboard(guide["fire"])
        refunding = guide["refund"].enqueue(7)
        tester.drain()
        tester.clock.advance(timedelta(days=3))
        tester.drain()
        first, second = links(guide["mails"])

        answered = answer(dashboard, first, "Approve")
        late = answer(dashboard, second, "Refuse")
        tester.drain()

        assert (200, 409) == (answered.status, late.status)
        assert "order 7 is refunded" == refunding.result()
