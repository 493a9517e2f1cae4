"""Keyboard control: the palette, single keys, dialogs, and the setting that disables single keys."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from firelock import State


@pytest.fixture
def page(served, open_page):
    """The list of failed jobs."""
    page = open_page(served, "/jobs?state=failed")
    expect(page.locator("tbody tr[id]")).to_have_count(3)
    return page


# ---- the palette -----------------------------------------------------------------------------------------


def test_palette_opens_any_section(page):
    """Pressing Ctrl K, some letters and Enter opens any section."""
    page.keyboard.press("Control+k")
    expect(page.locator("#palette")).to_be_visible()
    expect(page.locator("#palette-input")).to_be_focused()

    page.keyboard.type("queu")
    expect(page.locator("#palette [role=option]:visible").filter(has_text="Queues")).to_have_count(1)
    page.keyboard.press("Enter")

    page.wait_for_url("**/queues")


def test_arrow_keys_select_palette_options(page):
    """The arrow keys move the selection up and down, and wrap around.

    Screen readers announce the selected option.
    """
    page.keyboard.press("Control+k")
    field = page.locator("#palette-input")
    first = field.get_attribute("aria-activedescendant")

    page.keyboard.press("ArrowDown")
    second = field.get_attribute("aria-activedescendant")
    page.keyboard.press("ArrowUp")
    assert first == field.get_attribute("aria-activedescendant") != second
    page.keyboard.press("ArrowUp")
    expect(page.locator("#palette [aria-selected=true]")).to_have_count(1)
    assert field.get_attribute("aria-activedescendant") == page.evaluate(
        "() => [...document.querySelectorAll('#palette [role=option]:not([hidden])')].at(-1).id"
    )


def test_palette_opens_a_job_by_its_id(page, stocked):
    """The id may be pasted."""
    job = next(iter(stocked.jobs.find(state=State.FAILED, limit=1)))

    page.keyboard.press("Control+k")
    page.keyboard.insert_text(job.id)
    page.keyboard.press("Enter")

    page.wait_for_url(f"**/jobs/{job.id}")


def test_palette_offers_a_search_if_no_name_matches(page):
    """The palette then offers to search the jobs for the text."""
    page.keyboard.press("Control+k")
    page.keyboard.insert_text("the bank said no")
    page.keyboard.press("Enter")

    page.wait_for_url("**/jobs?error=the+bank+said+no")
    expect(page.locator("tbody tr[id]")).to_have_count(3)


@pytest.mark.parametrize("opener", ["Control+k", "?"])
def test_dialog_keeps_the_focus_and_returns_it(page, opener):
    """Tab stays inside the dialog. Escape closes the dialog and returns the focus."""
    link = page.locator("tbody tr[id] a").first
    link.focus()
    page.keyboard.press(opener)
    expect(page.locator("dialog[open]")).to_have_count(1)

    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.matches('body, dialog, dialog *')")
    page.keyboard.press("Escape")

    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(link).to_be_focused()


# ---- single keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("o", "/"), ("j", "/jobs"), ("f", "/failures"), ("q", "/queues"), ("r", "/recurring"),
        ("t", "/tasks"), ("s", "/servers"), ("a", "/activity"), ("y", "/system"),
    ],
)  # fmt: skip
def test_g_and_a_letter_open_a_section(page, served, key, path):
    """The sheet of shortcuts lists these keys."""
    page.keyboard.press("g")
    page.keyboard.press(key)

    page.wait_for_url(f"{served.origin}{path}")


def test_keys_move_select_and_open_rows(page):
    """j and k move, x selects, Shift x selects a range, and Enter opens."""
    rows = page.locator("tbody tr[id]")
    page.keyboard.press("j")
    expect(rows.nth(0)).to_have_class("is-current")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Shift+X")
    expect(page.locator("[data-bulk-count]")).to_have_text("3 selected on this page")

    page.keyboard.press("k")
    expect(rows.nth(1)).to_have_class("is-current")
    job = rows.nth(1).get_attribute("id").removeprefix("job-")
    rows.nth(1).locator("td.what a").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{job}")


@pytest.mark.parametrize(
    ("key", "question", "state"),
    [
        ("e", None, State.ENQUEUED),
        ("#", "Delete this job?", State.DELETED),
    ],
)
def test_key_requeues_or_deletes_the_row(page, stocked, key, question, state):
    """If no job is selected, the key acts on the current row. A delete requires confirmation."""
    page.keyboard.press("j")
    job = page.locator("tr.is-current").get_attribute("id").removeprefix("job-")

    page.keyboard.press(key)
    if question:
        expect(page.locator("dialog[open]")).to_contain_text(question)
        page.keyboard.press("Enter")

    expect(page.locator(".toast")).to_contain_text("1 job deleted" if question else "1 job requeued")
    assert state == stocked.jobs.get(job).state


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_open_and_close_a_menu(page, key):
    """Enter and Space open the menu, Tab moves into it, and Escape closes it and returns the focus."""
    opener = page.locator("tbody a[data-menu]").first
    menu = page.locator("tbody .menu > .list").first
    expect(opener).to_have_attribute("aria-expanded", "false")

    opener.press(key)
    expect(menu).to_be_visible()
    expect(opener).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    expect(menu.get_by_role("link", name="Open")).to_be_focused()
    page.keyboard.press("Escape")

    expect(menu).to_be_hidden()
    expect(opener).to_have_attribute("aria-expanded", "false")
    expect(opener).to_be_focused()


def test_number_sign_deletes_the_selected_jobs(page, stocked):
    """The delete requires confirmation."""
    for _ in range(2):
        page.keyboard.press("j")
        page.keyboard.press("x")

    page.keyboard.press("#")
    expect(page.locator("dialog[open]")).to_contain_text("Delete the selected jobs?")
    page.keyboard.press("Enter")

    expect(page.locator(".toast")).to_contain_text("2 jobs deleted")
    assert 1 == stocked.jobs.counts().by_state[State.FAILED]


def test_filter_shortcuts_theme_and_pause_have_keys(page):
    """The keys are `/`, `?`, `t` and `p`."""
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.locator("h1").click()

    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")

    page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.keyboard.press("p")
    expect(page.locator("[data-live-chip]")).to_have_text("Paused")


def test_keys_in_a_field_are_typed(page):
    """While a field has the focus, pressed keys are typed instead of being used as shortcuts."""
    page.locator("#filter").click()

    page.keyboard.type("jet?#")

    expect(page.locator("#filter")).to_have_value("jet?#")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_single_keys_can_be_disabled(page):
    """Ctrl K still works."""
    page.goto("/settings")
    page.get_by_role("radio", name="Off").check()
    page.get_by_role("button", name="Save settings").click()
    expect(page.locator("main > .banner")).to_be_visible()
    page.goto("/jobs?state=failed")

    for key in ("j", "t", "?", "p"):
        page.keyboard.press(key)

    expect(page.locator("tr.is-current")).to_have_count(0)
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("html")).to_have_attribute("data-theme", "system")
    page.keyboard.press("Control+k")
    expect(page.locator("#palette")).to_be_visible()


def test_first_tab_focuses_the_skip_link(page):
    """The skip link leads to the content of the page."""
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    expect(page.locator("a.skip")).to_be_in_viewport()

    page.keyboard.press("Enter")

    expect(page.locator("#main")).to_be_focused()


def test_suggestions_are_selected_with_keys(page):
    """Suggestions for the filter are shown while the visitor types."""
    page.locator("#filter").click()
    page.keyboard.type("state:sch")
    options = page.locator("#suggestions [role=option]")
    expect(options).to_have_text(["scheduledstate"])

    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#filter")).to_have_value("state:scheduled ")
    page.keyboard.press("Enter")

    page.wait_for_url("**state=scheduled**")
    expect(page.locator("tbody tr[id]")).to_have_count(3)
