"""The screens for reviewing the dashboard's appearance, each with its address and preparing actions."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import attrs

from tests.end_to_end.browser.addresses import addresses


@attrs.frozen
class Screen:
    """One picture of an address, taken after the preparing actions."""

    name: str
    address: str
    of: str = "shop"  # the name of the dashboard
    prepare: Callable = attrs.field(default=lambda page: None)
    is_whole: bool = True  # whether the picture shows the whole page instead of the visible part


def screens(fire):
    """Return all screens of the shop's storage."""
    places = addresses(fire)
    *ordinary, waiting = places["/jobs/{id}"]
    jobs = {fire.jobs.get(one.rpartition("/")[2]).state: one for one in ordinary}
    failing = quote(fire.jobs.failure_groups(1)[0].task)
    return [
        Screen("01-overview", "/"),
        Screen("02-overview-live", "/?span=live"),
        Screen("03-overview-latency", "/?kind=latency"),
        Screen("04-overview-new", "/", of="new"),
        Screen("05-jobs", "/jobs"),
        Screen("06-jobs-suggestions", "/jobs?state=failed", prepare=_type("sta"), is_whole=False),
        Screen("07-jobs-chips", f"/jobs?state=failed&task={failing}&created=%3C30d"),
        Screen("08-jobs-bulk", "/jobs?state=failed", prepare=_select, is_whole=False),
        Screen("09-jobs-menu", "/jobs?state=failed", prepare=_open_menu, is_whole=False),
        Screen("10-jobs-nothing", "/jobs?q=nothing"),
        Screen("11-retries", "/retries"),
        Screen("12-jobs-all", "/jobs/all?state=failed&verb=requeue"),
        *(Screen(f"13-job-{state}", address) for state, address in jobs.items()),
        Screen("14-job-steps", waiting),
        Screen("15-batches", "/batches"),
        *(Screen(f"15-batch-{number}", address) for number, address in enumerate(places["/batches/{id}"])),
        Screen("16-batch-members", places["/batches/{id}"][-1].replace("/batches/", "/jobs?batch=")),
        Screen("20-failures", "/failures"),
        Screen("21-failure", places["/failures/{fingerprint}"][0]),
        Screen("22-queues", "/queues"),
        Screen("23-queues-pause", "/queues", prepare=_click("tbody tr[id] [data-open]"), is_whole=False),
        Screen("24-queue", places["/queues/{name}"][0]),
        Screen("24-limits", places["/limits"][0]),
        Screen("24-limits-key", places["/limits/key"][0]),
        Screen("24-limits-unique", places["/limits/unique"][0]),
        Screen("25-recurring", "/recurring"),
        Screen("26-recurring-view", places["/recurring/view"][0]),
        Screen("27-recurring-edit", places["/recurring/edit"][0]),
        Screen("28-recurring-new", "/recurring/new"),
        Screen("30-tasks", "/tasks"),
        Screen("31-task", places["/tasks/view"][0]),
        Screen("32-task-run", places["/tasks/run"][0]),
        Screen("33-servers", "/servers"),
        Screen("34-servers-none", "/servers", of="new"),
        Screen("35-activity", "/activity"),
        Screen("36-system", "/system"),
        Screen("37-settings", "/settings"),
        Screen("38-extension", "/x/lanes"),
        Screen("40-palette", "/", prepare=_press("Control+k"), is_whole=False),
        Screen("40-palette-found", "/", prepare=_find("mail"), is_whole=False),
        Screen("41-shortcuts", "/", prepare=_press("?"), is_whole=False),
        Screen("42-confirm", jobs["succeeded"], prepare=_click(".actions .danger"), is_whole=False),
        Screen(
            "43-toast", "/recurring", prepare=_click("tbody form[action$=trigger] button"), is_whole=False
        ),
        Screen("44-search", "/search?q=mail"),
        Screen("44-no-page", "/nowhere"),
        Screen("45-read-only", "/jobs?state=failed", of="read_only"),
        Screen("46-refused", "/", of="refused"),
        Screen("47-storage-down", "/", of="down"),
        Screen("48-come-in", "/queues", of="signed-out"),
    ]


# ---- preparing actions -----------------------------------------------------------------------------------


def _press(key):
    return lambda page: page.keyboard.press(key)


def _find(text):
    def found(page):
        page.keyboard.press("Control+k")
        page.keyboard.insert_text(text)
        page.locator("#palette-found [role=option]").first.wait_for()

    return found


def _click(selector):
    return lambda page: page.locator(selector).locator("visible=true").first.click()


def _type(text):
    def typed(page):
        page.locator("#filter").click()
        page.keyboard.type(text)
        page.locator("#suggestions [role=option]").nth(3).wait_for(state="hidden")

    return typed


def _select(page):
    page.get_by_label("Select all on this page").check()


def _open_menu(page):
    page.locator("tbody a[data-menu]").nth(1).click()
    page.locator("tbody .menu > .list").wait_for()
