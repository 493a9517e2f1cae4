"""Every page of the dashboard's table, in light, dark, wide and narrow form."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from firelock_dashboard.app import TABLE
from tests.end_to_end.browser.addresses import addresses, page_routes
from tests.end_to_end.browser.pages import LANDMARKS, NARROW, WIDE, brightness, overflow, run_axe

PAGES = [*page_routes(TABLE), "/x/{name}"]  # pages of plugins have their own route


@pytest.fixture(scope="package")
def places(shop):
    return addresses(shop.fire)


def test_every_page_is_tested_here(places):
    """A new page must be added to the tested pages, or to the list of routes that are not pages."""
    assert sorted(PAGES) == sorted(places)


@pytest.mark.parametrize("route", PAGES)
def test_page_is_complete_and_fits(shop, places, open_context, route):
    """The page has one h1, a title and landmarks. It fits wide and narrow windows, in light and dark mode."""
    page = open_context(shop, color_scheme="light").new_page()

    for address in places[route]:
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        page.goto(address)
        expect(page.locator("h1")).to_have_count(1)
        assert page.title().endswith("· Firelock")
        assert page.locator("h1").inner_text().strip()
        for landmark in ("nav#rail", "main#main", "header.bar"):
            expect(page.locator(landmark)).to_have_count(1)
        assert overflow(page) == []
        light = brightness(page)

        page.emulate_media(color_scheme="dark")
        assert light > 200
        assert brightness(page) < 60
        page.set_viewport_size(NARROW)
        assert overflow(page) == []


def test_chart_never_widens_the_page(shop, open_page):
    """A chart adapts to the size of its container after a short delay.

    Until then, the chart is cut off instead of widening the page.
    """
    page = open_page(shop)
    page.add_init_script("window.ResizeObserver = class { observe() {} disconnect() {} };")
    page.set_viewport_size(WIDE)
    page.goto("/")
    expect(page.locator(".chart .uplot")).to_be_visible()

    page.set_viewport_size(NARROW)

    assert overflow(page) == []


@pytest.mark.parametrize(
    "address",
    [
        "/jobs/00000000-gone", "/failures/gone", "/queues/gone", "/tasks/view?name=gone", "/nowhere",
        "/jobs?nonsense=1",
    ],
)  # fmt: skip
def test_unknown_page_or_invalid_request_shows_an_error_page(shop, guard, open_page, address):
    """An unknown page or an invalid request also results in a whole page, with an h1 and a link back."""
    guard.allow("status of 40")

    page = open_page(shop, address)

    expect(page.locator("main h1")).to_have_count(1)
    expect(page.locator("main a:visible").first).to_be_visible()
    assert overflow(page) == []


@pytest.mark.parametrize("route", PAGES)
def test_axe_finds_no_serious_violations(shop, places, open_context, route):
    """axe does not find any critical violations either.

    All rules are checked in light mode and in a narrow window, and the colour rules in dark mode.
    """
    context = open_context(shop, bypass_csp=True, reduced_motion="reduce", color_scheme="light")
    page = context.new_page()
    found = []

    for address in places[route]:
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        page.goto(address)
        found += [f"{address} light {one}" for one in run_axe(page)]
        found += [f"{address} {one}" for one in run_axe(page, LANDMARKS)]
        page.emulate_media(color_scheme="dark")
        found += [f"{address} dark {one}" for one in run_axe(page, ["color-contrast"])]
    page.set_viewport_size(NARROW)
    found += [f"{address} narrow {one}" for one in run_axe(page)]

    assert found == []


@pytest.mark.parametrize("address", ["/jobs?state=failed", "/recurring"])
def test_axe_finds_no_violations_in_an_open_menu(shop, open_context, address):
    """The menu of a row is checked in wide and narrow windows, and it does not widen the page."""
    page = open_context(shop, bypass_csp=True, reduced_motion="reduce", color_scheme="light").new_page()
    page.goto(address)

    page.locator("tbody a[data-menu]").first.click()
    expect(page.locator("tbody .menu > .list")).to_be_visible()
    found = run_axe(page)
    page.set_viewport_size(NARROW)
    found += run_axe(page)

    assert found == []
    assert overflow(page) == []


_LINKS = """() => [...document.querySelectorAll("main a[href], nav a[href], #palette a[href]")]
  .filter((link) => link.origin === location.origin)
  .map((link) => link.href.slice(location.origin.length).split("#")[0])"""
_VALUES = re.compile(r"=[^&]*|[0-9a-f-]{36}|(?<=/)[0-9a-f]{16,}")


def test_every_link_leads_to_a_page(shop, places, open_context):
    """For one link of each kind, the page exists and accepts the query of the link."""
    page = open_context(shop).new_page()
    tried, lost = set(), []

    for address in [one for several in places.values() for one in several]:
        page.goto(address)
        for link in page.evaluate(_LINKS):
            kind = _VALUES.sub("=", link)
            if kind in tried or link == "/":
                continue
            tried.add(kind)
            status = page.request.get(f"{shop.origin}{link}", max_redirects=3).status
            if status >= 400:
                lost.append(f"{status} {link} on {address}")

    assert lost == []
    assert len(tried) > 50


# ---- phones ----------------------------------------------------------------------------------------------

# Opens `details` elements without clicks, because a click on an open element would close its contents.
_OPEN_ALL = """() => document.querySelectorAll("main details:not(.menu)")
  .forEach((fold) => { fold.open = true; })"""

# Returns the cells with text that are outside the width of the window.
_OUT_OF_SIGHT = """() => [...document.querySelectorAll("main table.stacked > tbody > tr > *")]
  .filter((cell) => cell.offsetParent && cell.innerText.trim())
  .filter((cell) => {
    const place = cell.getBoundingClientRect();
    return place.right > innerWidth + 1 || place.left < 0;
  })
  .map((cell) => cell.innerText.trim().slice(0, 60))"""


@pytest.mark.parametrize("route", PAGES)
def test_row_is_completely_visible_on_a_phone(shop, places, open_context, route):
    """A row's figures and buttons are visible without scrolling sideways, and each figure has a label."""
    page = open_context(shop).new_page()
    page.set_viewport_size(NARROW)

    for address in places[route]:
        page.goto(address)
        page.evaluate(_OPEN_ALL)
        assert page.evaluate(_OUT_OF_SIGHT) == []


def test_queue_on_a_phone_shows_count_wait_and_button(shop, open_context):
    """The labels, which are in the table header on wider screens, are next to the figures."""
    page = open_context(shop).new_page()
    page.set_viewport_size(NARROW)
    page.goto("/queues")
    row = page.locator("tr#queue-mail")
    names = row.evaluate(
        """(row) => [...row.cells].filter((cell) => cell.offsetParent)
             .map((cell) => getComputedStyle(cell, "::before").content)"""
    )

    for name in ("Jobs", "Enqueued", "Processing", "Oldest wait", "State"):
        assert any(name in one for one in names)
    expect(row.get_by_role("link", name="Pause…")).to_be_in_viewport(ratio=1)


def test_button_next_to_a_search_field_stays_within_the_page(shop, open_context):
    """If there is not enough space, the search field becomes narrower."""
    page = open_context(shop).new_page()
    page.set_viewport_size(NARROW)
    page.goto("/recurring")

    button, head = (page.locator(f".page-head{part}").bounding_box() for part in (" a.primary", ""))

    assert button["x"] + button["width"] <= head["x"] + head["width"] + 0.5


@pytest.mark.parametrize("state", ["enqueued", "deleted"])
def test_open_tab_is_scrolled_into_view(shop, open_context, state):
    """The tab is visible even if the tabs are wider than the window."""
    page = open_context(shop).new_page()
    page.set_viewport_size(NARROW)

    page.goto(f"/jobs?state={state}")

    expect(page.locator(".tabs [aria-current=page]")).to_be_in_viewport(ratio=0.95)


# ---- focus -----------------------------------------------------------------------------------------------

# Returns the focusable elements whose focus is not shown by exactly one outline, without other changes.
_FOCUS = """() => {
  const seen = (one) => {
    const is = getComputedStyle(one);
    // Boxes are drawn by the browser: the border that they compute is not painted.
    const isBox = one.matches("[type=checkbox], [type=radio]");
    const borders = isBox ? [] : [is.borderTopColor, is.borderBottomColor];
    return [is.backgroundColor, is.boxShadow, is.color, ...borders].join(" ");
  };
  const around = (one) => {
    const all = [one];
    while (all.at(-1).parentElement) all.push(all.at(-1).parentElement);
    return all;
  };
  const outlined = (one) => {
    const is = getComputedStyle(one);
    return is.outlineStyle !== "none" && parseFloat(is.outlineWidth) > 0;
  };
  const wrong = [];
  const focusable = "a[href], button, input, select, textarea, summary, [tabindex='0']";
  for (const one of document.querySelectorAll(focusable)) {
    if (!one.checkVisibility({ visibilityProperty: true }) || one.disabled || one.type === "hidden") continue;
    document.getElementById("rail").querySelector("a").focus();
    if (one === document.activeElement) document.querySelector("main").focus();
    const before = around(one).map(seen);
    one.focus();
    if (document.activeElement !== one) continue;
    const outlines = around(one).filter(outlined).length;
    const changed = around(one).filter((each, place) => seen(each) !== before[place]).length;
    const message = `${one.outerHTML.slice(0, 90)}: ${outlines} outlines, ${changed} other`;
    if (outlines !== 1 || changed) wrong.push(message);
  }
  return [...new Set(wrong)].slice(0, 12);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark", "forced"])
@pytest.mark.parametrize("route", PAGES)
def test_focus_is_shown_by_one_outline(shop, places, open_context, route, scheme):
    """A focused element has exactly one outline, and nothing else about it changes."""
    options = (
        {"color_scheme": "dark", "forced_colors": "active"}
        if scheme == "forced"
        else {"color_scheme": scheme}
    )
    page = open_context(shop, reduced_motion="reduce", **options).new_page()

    page.goto(places[route][0])
    page.keyboard.press("Tab")

    assert page.evaluate(_FOCUS) == []
