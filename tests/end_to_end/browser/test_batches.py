"""The page of a batch in a browser: labels inside the boxes of the flow, tabs, and narrow windows."""

from __future__ import annotations

from contextlib import closing

import pytest
from playwright.sync_api import expect

from firelock import Firelock
from firelock.storage import ErrorInfo, State
from tests.dashboard import flows
from tests.end_to_end.browser.pages import overflow

NAME = "recalculate_monthly_revenue_per_customer_region_and_currency"
WIDEST = "W" * 60  # a possible name of a batch
WIDTHS = (390, 1280, 1440)

# Returns the labels of the flow that extend beyond their boxes, and the numbers of boxes and labels.
_OUTSIDE = """() => {
  const inside = (one, box) => one.left >= box.left - 0.5 && one.right <= box.right + 0.5
    && one.top >= box.top - 0.5 && one.bottom <= box.bottom + 0.5;
  const nodes = [...document.querySelectorAll("svg.flow a")].filter(one => one.checkVisibility());
  const outside = [];
  let labels = 0;
  for (const node of nodes) {
    const box = node.querySelector("rect").getBoundingClientRect();
    for (const label of node.querySelectorAll("text, foreignObject span, foreignObject div.clip")) {
      labels += 1;
      const isCut = label.scrollWidth <= label.clientWidth || getComputedStyle(label).overflowX === "hidden";
      if (!inside(label.getBoundingClientRect(), box) || !(label.tagName === "text" || isCut))
        outside.push(label.textContent);
    }
  }
  return [nodes.length, labels, outside];
}"""


@pytest.fixture
def flow(serve):
    """A dashboard with a flow of long names, two failed members, and an inner batch."""
    with closing(Firelock("memory://")) as fire:
        assert len(NAME) == 60
        batch = flows.new_batch(fire, "monthly report")
        first = flows.add(fire, batch, f"shop.reporting.{NAME}", arguments='{"month":"2026-11"}')
        alike = [flows.add(fire, batch, f"shop.{NAME}", parents=[first]) for _ in range(12)]
        inner = flows.new_batch(fire, WIDEST, outer=batch)
        flows.add(fire, inner)
        flows.add(fire, batch, f"shop.{'w' * 60}", parents=alike, arguments=f'{{"path":"{WIDEST}"}}')
        for number in (1, 2):
            flows.add(fire, batch, "shop.send", queue="failing", arguments=f'{{"customer":{number}}}')
        for job in flows.claim(fire, queues=["failing"]):
            flows.end(fire, job, State.FAILED, error=ErrorInfo("ValueError", "no address", "f-1"))
        served = serve(fire)
        yield served, f"/batches/{batch}"


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_of_a_flow_stay_inside_their_boxes(flow, open_page, width):
    """Names of 60 characters, even next to a number, do not make the page scroll sideways."""
    served, address = flow
    page = open_page(served)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    expect(page.locator("svg.flow").filter(visible=True)).to_have_count(1)

    nodes, labels, outside = page.evaluate(_OUTSIDE)

    assert outside == []
    assert labels >= 2 * nodes > 0
    assert overflow(page) == []


def test_labels_stay_inside_their_boxes_when_the_page_is_refreshed(flow, open_page):
    """The layout of the region does not change when it is refreshed."""
    served, address = flow
    page = open_page(served, address)
    node = page.locator("svg.flow a", has_text="recalculate_monthly").filter(visible=True).first
    expect(node).to_contain_text("Enqueued")
    job_id = node.get_attribute("href").rpartition("/")[2]

    served.fire.jobs.delete([job_id])

    expect(page.locator(f"svg.flow a[href$='{job_id}']").filter(visible=True)).to_contain_text("Deleted")
    assert page.evaluate(_OUTSIDE)[2] == []


def test_tabs_change_the_members_and_stay_when_the_page_is_refreshed(flow, open_page):
    """Failed members come first.

    The selected tab is part of the URL, so it stays selected after a refresh.
    """
    served, address = flow
    page = open_page(served, address)
    rows = page.locator("tr[id^=member-]")

    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("customer=2")
    expect(rows.first).to_contain_text("ValueError: no address")
    page.locator("#tab-waiting").click()
    expect(rows).to_have_count(13)
    served.fire.jobs.delete([rows.first.get_attribute("id").removeprefix("member-")])

    expect(rows).to_have_count(12)
    expect(page.locator("#tab-waiting")).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("width", WIDTHS)
def test_tabs_and_causes_fit(flow, open_page, width):
    """Every tab can be reached, and one click on an error shows the members that have it."""
    served, address = flow
    page = open_page(served)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)

    page.locator("#tab-deleted").click()
    expect(page.locator("#tab-deleted")).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name="2 members").click()

    expect(page.locator("tr[id^=job-]")).to_have_count(2)
    assert overflow(page) == []
