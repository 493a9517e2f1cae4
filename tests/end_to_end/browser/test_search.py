"""Searches as a visitor sees them: the palette finds names, and a list continues its search by itself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.end_to_end.browser.pages import NARROW, overflow, run_axe

_MANY = 12_000  # more jobs than one part of a search examines
_WHOLE = 120_000  # ms; a search examines all jobs within it, even on a busy machine


@pytest.fixture
def page(served, open_page):
    """The overview."""
    return open_page(served, "/")


@pytest.fixture
def many(stocked, tasks):
    """A job that is the only one with its argument and comes after many other jobs."""
    (job,) = tasks.add.enqueue_many([(424_242,)])
    tasks.send.enqueue_many([(f"{number}@example.com",) for number in range(_MANY)])
    return job


# ---- the palette -----------------------------------------------------------------------------------------


def search_for(page, text):
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
def test_palette_groups_results_by_kind(page, text, kind, address):
    """Tasks, queues, recurring jobs and arguments are grouped.

    An arrow key selects a result, and Enter opens it.
    """
    found = search_for(page, text)
    group = found.get_by_role("group", name=kind)
    expect(group.get_by_role("option").first).to_be_visible()
    wanted = group.get_by_role("option").first.get_attribute("id")

    for _ in range(20):
        if page.locator("#palette-input").get_attribute("aria-activedescendant") == wanted:
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")

    page.wait_for_url(address)


def test_enter_waits_for_an_exact_name_match(page):
    """Even if Enter is pressed right after the name, the queue with this name opens instead of a search."""
    search_for(page, "billing")
    page.keyboard.press("Enter")

    page.wait_for_url("**/queues/billing")


def test_enter_opens_an_exact_tag(page, tasks):
    """Ctrl K, the tag and Enter open the jobs of one customer. No list is searched for the tag."""
    tasks.add.enqueue(77)
    search_for(page, "order:77")
    page.keyboard.press("Enter")

    page.wait_for_url("**/jobs?tag=order%3A77")
    expect(page.locator("tbody tr[id]")).to_have_count(1)


def test_exact_match_is_at_the_top(page, tasks):
    """An exact match is selected and listed above the pages and the search. Other results are below them."""
    tasks.add.enqueue(77)
    found = search_for(page, "order:77")

    expect(found.locator("[data-exact]").first).to_have_attribute("aria-selected", "true")
    expect(page.locator("#palette-list > li").first).to_have_attribute("id", "palette-found")
    page.keyboard.press("Backspace")
    expect(page.locator("#palette-list > li").last).to_have_attribute("id", "palette-found")


def test_exact_match_is_above_other_matches(page):
    """The queue `mail` is above the task `shop.mail.send`."""
    search_for(page, "mail")
    page.keyboard.press("Enter")

    page.wait_for_url("**/queues/mail")


def test_new_text_removes_earlier_results(page):
    """Results for the earlier text are removed, so none of them can be opened by mistake."""
    found = search_for(page, "nightly")
    expect(found.get_by_role("option")).not_to_have_count(0)

    page.keyboard.type("zzz")

    expect(found.get_by_role("option")).to_have_count(0)


def test_palette_works_on_a_phone(served, open_context):
    """The palette fits the screen, a result can be tapped, and a button closes the palette."""
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


def test_axe_finds_no_violations_in_the_palette(served, open_context):
    """The palette contains groups of options, and is checked in light and dark mode."""
    page = open_context(served, bypass_csp=True, reduced_motion="reduce").new_page()
    page.goto("/")
    expect(search_for(page, "mail").get_by_role("option").first).to_be_visible()

    found = run_axe(page)
    page.emulate_media(color_scheme="dark")

    assert [] == found + run_axe(page, ["color-contrast"])


# ---- lists -----------------------------------------------------------------------------------------------


def test_search_continues_by_itself(served, open_page, many):
    """The list is searched part by part until no jobs are left.

    The page shows the progress, and results stay visible.
    """
    page = open_page(served, "/jobs?arg=424242")

    expect(page.locator("tbody tr[id]")).to_have_count(1, timeout=_WHOLE)
    expect(page.locator(f"#job-{many.id}")).to_be_visible()
    expect(page.locator("[data-search-text]")).to_have_text(
        re.compile(r"Searched 12,0\d\d of 12,0\d\d jobs · 1 found")
    )
    expect(page.locator("[data-search-status]")).to_contain_text("All jobs were searched")
    expect(page.locator("[data-search-stop]")).to_be_hidden()
    expect(page.locator(".empty")).to_have_count(0)


def test_search_without_results_offers_other_searches(served, open_page, many):
    """After the last part, the list offers to search for the same text elsewhere."""
    page = open_page(served, "/jobs?arg=mail")

    expect(page.locator(".empty")).to_contain_text("No matching jobs", timeout=_WHOLE)
    expect(page.locator(".offers a", has_text="as a queue")).to_be_visible()


def test_search_can_be_stopped_and_continued_with_a_link(served, open_page, open_context, many):
    """The button stops the search after the current part, and the link continues the search from there."""
    page = open_context(served).new_page()
    held = []
    # a lambda, because Playwright sets an attribute on the handler
    page.route("**/jobs?*cursor=*", lambda route: held.append(route))  # noqa: PLW0108
    page.goto("/jobs?arg=424242")
    expect(page.locator("[data-search-stop]")).to_be_visible()
    expect(page.locator(".search-state progress")).to_be_visible()

    page.locator("[data-search-stop]").click()
    held[0].continue_()
    page.unroute("**/jobs?*cursor=*")

    expect(page.locator("[data-search-status]")).to_contain_text("Search stopped")
    page.locator("[data-search-on]").click()
    expect(page.locator(f"#job-{many.id}")).to_be_visible(timeout=_WHOLE)


def test_search_without_javascript_continues_with_a_link(served, open_context, many):
    """Each page searches one part and links to the next."""
    page = open_context(served, java_script_enabled=False).new_page()
    page.goto("/jobs?arg=424242")
    assert page.locator("tbody tr[id]").count() == 0

    link = page.locator("[data-search-on]")
    for _ in range(_MANY // 100):
        if not link.count():
            break
        address = link.evaluate("link => link.href")
        link.click()
        page.wait_for_url(address)  # a click can return before the old page is replaced

    expect(page.locator(f"#job-{many.id}")).to_be_visible()
