"""Searches as a visitor sees them: the palette finds what is called so, and a list goes on by itself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.end_to_end.browser.pages import NARROW, ask_axe, overflow

_MANY = 12_000  # more than one part of a search looks at
_WHOLE = 120_000  # ms in which a search has looked at all of them, on a machine with other work too


@pytest.fixture
def page(served, open_page):
    """The overview."""
    return open_page(served, "/")


@pytest.fixture
def many(stocked, tasks):
    """The only job with this argument lies behind many others."""
    (job,) = tasks.add.enqueue_many([(424_242,)])
    tasks.send.enqueue_many([(f"{number}@example.com",) for number in range(_MANY)])
    return job


# ---- the palette -----------------------------------------------------------------------------------------


def look_for(page, text):
    page.keyboard.press("Control+k")
    page.keyboard.insert_text(text)
    return page.locator("#palette-found")


@pytest.mark.parametrize(
    ("text", "kind", "address"),
    [
        ("shop.mail", "Tasks", "**/tasks/view?name=shop.mail.send"),
        ("mail", "Queues", "**/queues/mail"),
        ("nightly", "Recurring jobs", "**/recurring/view?id=nightly"),
        ("zoe@example", "Jobs with this argument", "**/jobs/*"),
    ],
)
def test_the_palette_finds_by_kind(page, text, kind, address):
    """Tasks, queues, recurring jobs and arguments, grouped; an arrow leads to them, Enter opens one."""
    found = look_for(page, text)
    group = found.get_by_role("group", name=kind)
    expect(group.get_by_role("option").first).to_be_visible()
    wanted = group.get_by_role("option").first.get_attribute("id")

    for _ in range(20):
        if page.locator("#palette-input").get_attribute("aria-activedescendant") == wanted:
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")

    page.wait_for_url(address)


def test_enter_waits_for_what_is_called_so(page):
    """Typed and sent at once: the queue of that name opens, not a search for it."""
    look_for(page, "billing")
    page.keyboard.press("Enter")

    page.wait_for_url("**/queues/billing")


def test_enter_takes_an_exact_tag(page, tasks):
    """One customer's jobs in one step: Ctrl K, the tag, Enter, and no list is searched for it."""
    tasks.add.enqueue(77)
    look_for(page, "order:77")
    page.keyboard.press("Enter")

    page.wait_for_url("**/jobs?tag=order%3A77")
    expect(page.locator("tbody tr[id]")).to_have_count(1)


def test_an_exact_match_stands_at_the_top(page, tasks):
    """Above the pages and the search, and it is chosen; without one what is found stands below them."""
    tasks.add.enqueue(77)
    found = look_for(page, "order:77")

    expect(found.locator("[data-exact]").first).to_have_attribute("aria-selected", "true")
    expect(page.locator("#palette-list > li").first).to_have_attribute("id", "palette-found")
    page.keyboard.press("Backspace")
    expect(page.locator("#palette-list > li").last).to_have_attribute("id", "palette-found")


def test_what_is_called_exactly_so_comes_before_what_begins_so(page):
    """The queue mail, and not the task shop.mail.send above it."""
    look_for(page, "mail")
    page.keyboard.press("Enter")

    page.wait_for_url("**/queues/mail")


def test_a_new_text_takes_away_what_another_found(page):
    """Nothing that was found for other letters is left to be opened."""
    found = look_for(page, "nightly")
    expect(found.get_by_role("option")).not_to_have_count(0)

    page.keyboard.type("zzz")

    expect(found.get_by_role("option")).to_have_count(0)


def test_the_palette_works_on_a_phone(served, open_context):
    """It fits, what was found is tapped, a button closes it."""
    page = open_context(served, has_touch=True).new_page()
    page.set_viewport_size(NARROW)
    page.goto("/")
    page.locator("[data-open=palette]").tap()
    page.keyboard.insert_text("mail")
    option = page.locator("#palette-found").get_by_role("group", name="Queues").get_by_role("option").first
    expect(option).to_be_visible()
    assert overflow(page) == []
    box = page.locator("#palette").bounding_box()
    assert 0 <= box["x"]
    assert box["x"] + box["width"] <= NARROW["width"]
    assert option.bounding_box()["height"] >= 36

    page.locator("#palette [data-close]").tap()
    expect(page.locator("#palette")).to_be_hidden()
    page.locator("[data-open=palette]").tap()
    page.keyboard.insert_text("mail")
    option.tap()

    page.wait_for_url("**/queues/mail")


def test_axe_finds_nothing_in_the_palette(served, open_context):
    """Groups of options, in light and in dark."""
    page = open_context(served, bypass_csp=True, reduced_motion="reduce").new_page()
    page.goto("/")
    expect(look_for(page, "mail").get_by_role("option").first).to_be_visible()

    found = ask_axe(page)
    page.emulate_media(color_scheme="dark")

    assert [] == found + ask_axe(page, ["color-contrast"])


# ---- a list ----------------------------------------------------------------------------------------------


def test_a_search_goes_on_by_itself(served, open_page, many):
    """Part by part until nothing is left; it says how far it is, and what it found stays."""
    page = open_page(served, "/jobs?arg=424242")

    expect(page.locator("tbody tr[id]")).to_have_count(1, timeout=_WHOLE)
    expect(page.locator(f"#job-{many.id}")).to_be_visible()
    expect(page.locator("[data-search-text]")).to_have_text(
        re.compile(r"Searched 12,0\d\d of 12,0\d\d jobs · 1 found")
    )
    expect(page.locator("[data-search-said]")).to_contain_text("All jobs are searched")
    expect(page.locator("[data-search-stop]")).to_be_hidden()
    expect(page.locator(".empty")).to_have_count(0)


def test_a_search_that_ends_with_nothing_offers_the_others(served, open_page, many):
    """After the last part it says so, with the same text elsewhere."""
    page = open_page(served, "/jobs?arg=mail")

    expect(page.locator(".empty")).to_contain_text("No job matches", timeout=_WHOLE)
    expect(page.locator(".offers a", has_text="as a queue")).to_be_visible()


def test_a_search_is_stopped_and_goes_on_by_a_link(served, open_page, open_context, many):
    """The button ends it after the part that is under way; the link goes on where it ended."""
    page = open_context(served).new_page()
    held = []
    page.route("**/jobs?*cursor=*", lambda route: held.append(route))  # noqa: PLW0108 - it is marked
    page.goto("/jobs?arg=424242")
    expect(page.locator("[data-search-stop]")).to_be_visible()
    expect(page.locator(".search-state progress")).to_be_visible()

    page.locator("[data-search-stop]").click()
    held[0].continue_()
    page.unroute("**/jobs?*cursor=*")

    expect(page.locator("[data-search-said]")).to_contain_text("The search is stopped")
    page.locator("[data-search-on]").click()
    expect(page.locator(f"#job-{many.id}")).to_be_visible(timeout=_WHOLE)


def test_without_a_script_a_link_goes_on(served, open_context, many):
    """Each page searches a part and leads to the next."""
    page = open_context(served, java_script_enabled=False).new_page()
    page.goto("/jobs?arg=424242")
    assert page.locator("tbody tr[id]").count() == 0

    for _ in range(_MANY // 100):
        if page.locator("tbody tr[id]").count():
            break
        page.locator("[data-search-on]").click()

    expect(page.locator(f"#job-{many.id}")).to_be_visible()
