"""The page that asks for a link, as a browser sees it: the token is in no request but the form's."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def stranger(served, open_context):
    """A page of somebody who has not come in."""
    context = open_context(served, is_in=False)
    return context.new_page()


def test_a_link_leads_to_a_button_and_in(served, stranger, guard):
    """Whoever presses it is in; the address bar and the requests before it hold no token."""
    guard.allow("401")
    link = served.dashboard.link(served.origin)
    token = link.rpartition("#")[2]

    stranger.goto(link)
    expect(stranger.get_by_role("button", name="Come in")).to_be_focused()
    assert stranger.url == f"{served.origin}/enter"
    assert not [address for address in served.asked if token in address]

    stranger.keyboard.press("Enter")
    expect(stranger.locator("main h1").first).to_be_visible()
    expect(stranger.locator(".rail .brand")).to_be_visible()
    assert stranger.evaluate("document.cookie") == ""


def test_the_link_of_a_command_goes_in_by_itself(served, stranger, guard):
    """`firelock dashboard --open` just opens: nobody but that browser was given its link."""
    guard.allow("401")

    stranger.goto(served.dashboard.links.make(served.origin, opens=True))

    expect(stranger.locator(".rail .brand")).to_be_visible()
    expect(stranger).to_have_url(re.compile(r"/$"))


def test_who_asked_for_a_page_comes_to_it(served, stranger, guard):
    """The link is pasted where the page was asked for."""
    guard.allow("401")

    stranger.goto("/queues")
    stranger.get_by_role("textbox").fill(served.dashboard.link(served.origin))
    stranger.get_by_role("button", name="Come in").click()

    expect(stranger).to_have_url(f"{served.origin}/queues")
    expect(stranger.locator(".rail .brand")).to_be_visible()


@pytest.mark.parametrize("width", [1_280, 390])
def test_the_button_keeps_its_distance(stranger, guard, width):
    """From the field beside or above it."""
    guard.allow("401")
    stranger.set_viewport_size({"width": width, "height": 800})

    stranger.goto("/enter")
    field = stranger.get_by_role("textbox").bounding_box()
    button = stranger.get_by_role("button", name="Come in").bounding_box()

    beside = button["x"] - (field["x"] + field["width"])
    below = button["y"] - (field["y"] + field["height"])
    assert max(beside, below) >= 8
