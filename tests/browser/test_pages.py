"""Every page of the dashboard's table, as a visitor sees it: light, dark, wide and narrow."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from firelock_dashboard.table import TABLE
from tests.browser.addresses import addresses, page_routes
from tests.browser.pages import NARROW, WIDE, ask_axe, brightness, overflow

PAGES = page_routes(TABLE)


@pytest.fixture(scope="package")
def places(shop):
    return addresses(shop.fire)


def test_every_page_has_an_address_here(places):
    """A page that joins the table is walked, or says that it is none."""
    assert sorted(PAGES) == sorted(places)


@pytest.mark.parametrize("route", PAGES)
def test_a_page_is_whole(shop, places, open_context, route):
    """It has one h1, a title and its landmarks, and fits: wide and narrow, in light and in dark."""
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


def test_a_page_never_waits_for_its_graph_to_fit(shop, open_page):
    """A graph follows its place a moment later: until then it is cut off, and nothing scrolls sideways."""
    page = open_page(shop)
    page.add_init_script("window.ResizeObserver = class { observe() {} disconnect() {} };")
    page.set_viewport_size(WIDE)
    page.goto("/")
    expect(page.locator(".chart .uplot")).to_be_visible()

    page.set_viewport_size(NARROW)

    assert overflow(page) == []


@pytest.mark.parametrize(
    "address", ["/jobs/00000000-gone", "/failures/gone", "/queues/gone", "/tasks/view?name=gone", "/nowhere"]
)
def test_what_is_not_there_is_said(shop, guard, open_page, address):
    """A page that is not there is a whole page too, which leads back."""
    guard.allow("status of 404")

    page = open_page(shop, address)

    expect(page.locator("main")).to_be_visible()
    expect(page.locator("main a:visible").first).to_be_visible()
    assert overflow(page) == []


@pytest.mark.parametrize("route", PAGES)
def test_axe_finds_nothing_serious(shop, places, open_context, route):
    """Nor critical: in light by every rule, in dark by those of colours, and narrow again by every rule."""
    context = open_context(shop, bypass_csp=True, reduced_motion="reduce", color_scheme="light")
    page = context.new_page()
    found = []

    for address in places[route]:
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        page.goto(address)
        found += [f"{address} light {one}" for one in ask_axe(page)]
        page.emulate_media(color_scheme="dark")
        found += [f"{address} dark {one}" for one in ask_axe(page, ["color-contrast"])]
    page.set_viewport_size(NARROW)
    found += [f"{address} narrow {one}" for one in ask_axe(page)]

    assert found == []
