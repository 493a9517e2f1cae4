"""The page that requires a link, in a browser: only the request of its form contains the token."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from firelock import State
from tests.dashboard import flows


@pytest.fixture
def newcomer(served, open_context):
    """A page of a visitor without a session."""
    context = open_context(served, is_in=False)
    return context.new_page()


def test_link_admits_the_visitor_after_a_button_press(served, newcomer, guard):
    """Neither the address bar nor any request before the button press contains the token."""
    guard.allow("401")
    link = served.dashboard.link(served.origin)
    token = link.rpartition("#")[2]

    newcomer.goto(link)
    expect(newcomer.get_by_role("button", name="Sign in")).to_be_focused()
    assert newcomer.url == f"{served.origin}/enter"
    assert not [address for address in served.requested if token in address]

    newcomer.keyboard.press("Enter")
    expect(newcomer.locator("main h1").first).to_be_visible()
    expect(newcomer.locator(".rail .brand")).to_be_visible()
    assert newcomer.evaluate("document.cookie") == ""


def test_link_opened_by_the_command_admits_without_a_click(served, newcomer, guard):
    """The link of `firelock dashboard --open` needs no click, because only that browser receives it."""
    guard.allow("401")

    newcomer.goto(served.dashboard.links.make(served.origin, opens=True))

    expect(newcomer.locator(".rail .brand")).to_be_visible()
    expect(newcomer).to_have_url(re.compile(r"/$"))


def test_visitor_reaches_the_requested_page_after_the_link(served, newcomer, guard):
    """The visitor pastes the link into the page that was shown instead of the requested one."""
    guard.allow("401")

    newcomer.goto("/queues")
    newcomer.get_by_role("textbox").fill(served.dashboard.link(served.origin))
    newcomer.get_by_role("button", name="Sign in").click()

    expect(newcomer).to_have_url(f"{served.origin}/queues")
    expect(newcomer.locator(".rail .brand")).to_be_visible()


@pytest.mark.parametrize("width", [1_280, 390])
def test_button_does_not_overlap_the_field(newcomer, guard, width):
    """The field is next to the button or above it."""
    guard.allow("401")
    newcomer.set_viewport_size({"width": width, "height": 800})

    newcomer.goto("/enter")
    field = newcomer.get_by_role("textbox").bounding_box()
    button = newcomer.get_by_role("button", name="Sign in").bounding_box()

    right = button["x"] - (field["x"] + field["width"])
    below = button["y"] - (field["y"] + field["height"])
    assert max(right, below) >= 8


# ---- approval links --------------------------------------------------------------------------------------


@pytest.fixture
def awaiting(stocked, tasks):
    """A job that waits for the signal `ship`, and the signal."""
    flows.add(stocked, flows.new_batch(stocked), queue="flows")
    (job,) = flows.claim(stocked, queues=["flows"])
    flows.end(stocked, job, State.AWAITING, waits_for="signal ship", gives_back=True)
    return job, stocked.signal("ship", bool)


@pytest.fixture
def link(served, awaiting):
    """An approval link to the dashboard."""
    job, ship = awaiting
    choices = {"Approve": True, "Refuse": False}
    return ship.link(job.id, choices, expires=timedelta(days=7), at=served.origin, question="Ship order 8?")


def token_of(link):
    return link.rpartition("#")[2]


def test_token_of_an_approval_link_is_only_in_the_form(served, newcomer, link, awaiting):
    """URLs, Referer headers and the browser's history do not contain the token."""
    requested = []
    newcomer.on("request", lambda request: requested.append((request.url, request.headers.get("referer"))))

    newcomer.goto(link)
    expect(newcomer.get_by_role("heading", name="Ship order 8?")).to_be_visible()
    newcomer.get_by_role("button", name="Refuse").click()
    expect(newcomer.get_by_text("Answered: Refuse")).to_be_visible()

    assert newcomer.url == f"{served.origin}/approval"
    assert token_of(link) not in repr(served.requested)
    assert [] == [referer for _, referer in requested if referer and token_of(link) in referer]
    assert [] == [url for url, _ in requested if token_of(link) in url.partition("#")[0]]
    assert served.fire.jobs.get(awaiting[0].id).state is State.ENQUEUED


def test_approval_link_can_be_pasted_without_javascript(served, open_context, link):
    context = open_context(served, is_in=False, java_script_enabled=False)
    page = context.new_page()

    page.goto(link)
    assert "Ship order" not in page.content()
    page.get_by_label("Approval link").fill(link)
    page.get_by_role("button", name="Show question").click()
    page.get_by_role("button", name="Approve").click()

    expect(page.get_by_text("Answered: Approve")).to_be_visible()


def test_earlier_link_is_not_in_a_referer(served, newcomer, link):
    """The URL contains the token, but the requests that its page and form send do not."""
    referers = []
    newcomer.on("request", lambda request: referers.append(request.headers.get("referer")))

    newcomer.goto(link.replace("#", "/"))
    newcomer.get_by_role("button", name="Approve").click()
    expect(newcomer.get_by_text("Answered: Approve")).to_be_visible()

    assert newcomer.url == f"{served.origin}/approval"
    assert any(referers)
    assert token_of(link) not in repr(referers)


@pytest.mark.parametrize("address", ["/approval", "/approval#too-short"])
def test_incomplete_approval_link_requests_the_whole_link(newcomer, address):
    newcomer.goto(address)

    expect(newcomer.get_by_role("button", name="Show question")).to_be_visible()
    assert newcomer.get_by_label("Approval link").input_value() == ""


def test_visitor_signs_out(served, open_page, guard):
    """After the visitor has pressed the button in the bar, no page opens without another link."""
    guard.allow("401")
    page = open_page(served, "/queues")

    page.locator(".bar").get_by_role("button", name="Sign out").click()

    expect(page.locator("main")).to_contain_text("You are signed out")
    page.goto("/queues")
    expect(page.locator("main h1")).to_have_text("Sign in with a link")
