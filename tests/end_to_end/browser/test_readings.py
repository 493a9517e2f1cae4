"""The readability of lists and charts: causes of failures, whole jobs, and single runs."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
from playwright.sync_api import expect

from firelock import Firelock, Retry
from firelock.storage import DURATION_BUCKETS, Rollup
from tests.core.fakes import Worker
from tests.end_to_end.browser.serving import Served

_MINUTE = 60_000_000
WIDTHS = {"phone": 390, "tablet": 1024, "desktop": 1440}


class PaymentProviderDown(Exception):
    """The error of the failed jobs in these tests."""


def charge(order: int, customer: int, amount: float) -> None:
    raise PaymentProviderDown(f"POST https://pay.example/charges: 503 for order {order}")


@pytest.fixture(scope="module")
def billing(tmp_path_factory):
    """A dashboard of an app in which three charges have failed."""
    path = tmp_path_factory.mktemp("billing") / "jobs.db"
    with closing(Firelock(f"sqlite:///{path}")) as fire:
        fire.storage.migrate()
        tags = ["customer:{customer}", "order:{order}"]
        task = fire.task(name="northwind.charge_card", queue="billing", retry=Retry.never(), tags=tags)(
            charge
        )
        task.enqueue_many([(4_747 + place, 266, 761.5) for place in range(3)])
        Worker(fire).run()
        task.enqueue(4_750, 267, 1.0)  # stays enqueued
        minute = fire.storage.clock() // _MINUTE * _MINUTE - _MINUTE
        histogram = (1, *(0,) * len(DURATION_BUCKETS))
        fire.storage.record_metrics(
            [Rollup(minute, "northwind.charge_card", "billing", "failed", 1, 100, histogram)]
        )
        served = Served(fire).start()
        yield served
        served.stop()


# Returns the errors and arguments that are not completely visible.
_CUT = """() => [...document.querySelectorAll("main .two-lines, main .call")]
  .filter((one) => one.scrollHeight > one.clientHeight + 1 || one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.textContent)"""


@pytest.mark.parametrize("address", ["/jobs?state=failed", "/jobs"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_rows_show_complete_arguments_and_errors(billing, open_context, width, address):
    """At every width, a row shows its whole arguments and error, including the number at the end."""
    page = open_context(billing).new_page()
    page.set_viewport_size({"width": width, "height": 900})

    page.goto(address)

    cells = page.locator(".jobs .two-lines").all_inner_texts()
    expected = "PaymentProviderDown: POST https://pay.example/charges: 503 for order {}"
    assert sorted(cells) == [expected.format(4_747 + place) for place in range(3)]
    assert page.evaluate(_CUT) == []


def test_overview_shows_the_whole_message_of_a_cause(billing, open_page):
    """A message of ordinary length is not truncated in the list of top failures."""
    page = open_page(billing, "/")

    assert page.locator("#region-places .cause .two-lines").count() == 1
    assert page.evaluate(_CUT) == []


def test_dark_colours_of_running_and_waiting_jobs_differ(billing, open_context):
    """In dark mode, one colour is a deep blue and the other is pale, so a bar's parts are distinguishable."""
    page = open_context(billing, color_scheme="dark").new_page()

    page.goto("/")
    brightness = [
        sum(map(int, re.findall(r"\d+", page.locator(f".bars-key .state-{state}").first.evaluate(_GROUND))))
        for state in ("processing", "enqueued")
    ]

    assert brightness[1] - brightness[0] > 90


_GROUND = "(one) => getComputedStyle(one).backgroundColor"

# Records texts that are drawn on canvases, from the start of the page on.
_RECORD = """() => {
  window.written = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
    window.written.push(text);
    return write.call(this, text, ...more);
  };
}"""


def test_axis_that_counts_jobs_has_whole_numbers(billing, open_page):
    """The axis for a single ended job does not have labels such as 0.3, 0.5 and 0.8."""
    page = open_page(billing)
    page.add_init_script(f"({_RECORD})()")

    page.goto("/")
    page.wait_for_function("() => window.written.includes('1')")

    assert [] == [text for text in page.evaluate("() => window.written") if "." in text]


# Returns the number of pixels in the chart with the colour of the line that is drawn last.
_COLOURED = """() => {
  const canvas = document.querySelector(".uplot canvas");
  const [red, green, blue] = getComputedStyle(document.querySelector(".chart .legend .state-scheduled i"))
    .backgroundColor.match(/[0-9.]+/g).map(Number);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0;
  for (let at = 0; at < pixels.length; at += 4)
    if (pixels[at] === red && pixels[at + 1] === green && pixels[at + 2] === blue) found += 1;
  return found;
}"""


def test_latency_of_a_single_minute_is_visible(billing, open_page):
    """A minute without neighbours has a dot, even at the bottom of the axis for runs below a millisecond."""
    page = open_page(billing, "/?kind=latency")

    page.wait_for_function("() => document.querySelector('.uplot canvas')")
    page.wait_for_function(f"() => ({_COLOURED})() > 10")


def test_toast_can_be_closed_and_scrolled_past(billing, open_page):
    """A toast has a close button, and the page has space at its end, so nothing is covered permanently."""
    page = open_page(billing, "/jobs?state=failed")
    height = "() => document.scrollingElement.scrollHeight"
    before = page.evaluate(height)

    page.evaluate("() => firelock.toast('Copied.')")

    room = page.evaluate("() => parseFloat(getComputedStyle(document.querySelector('main')).paddingBottom)")
    tall = page.locator(".toast").bounding_box()["height"] + 20
    assert room >= tall
    assert page.evaluate(height) >= before
    page.locator(".toast").get_by_role("button", name="Close").click()
    expect(page.locator(".toast")).to_have_count(0)


@pytest.mark.parametrize("width", [1_440, 1_024])
def test_toast_does_not_cover_row_buttons(shop, open_context, width):
    """After "Run now" in one row, the button in the next row can still be pressed."""
    page = open_context(shop).new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/recurring")

    page.evaluate("() => firelock.toast('The job of nightly-sales was enqueued.', 'good', '/jobs')")

    assert page.locator("tbody .tools .button").count() > 20
    assert page.evaluate(_COVERED) == []


# Returns the buttons of rows that a toast covers at any scroll position.
_COVERED = """() => {
  const toast = document.querySelector(".toast").getBoundingClientRect();
  const meets = (one) => one.left < toast.right && one.right > toast.left;
  return [...document.querySelectorAll("tbody .tools .button")]
    .filter((one) => one.offsetWidth && meets(one.getBoundingClientRect()))
    .map((one) => one.textContent.trim());
}"""


@pytest.mark.parametrize("state", ["failed", "deleted"])
def test_desktop_shows_every_state_tab(shop, open_page, state):
    """With a thousand jobs in each state, no tab is cut off at either end, whichever tab is selected."""
    page = open_page(shop, f"/jobs?state={state}")

    ends = page.evaluate(
        """() => {
          for (const number of document.querySelectorAll(".tabs .number")) number.textContent = "1,000";
          const row = document.querySelector(".tabs").getBoundingClientRect();
          return [...document.querySelectorAll(".tabs a")].map((tab) => tab.getBoundingClientRect())
            .map((tab) => [tab.left - row.left, row.right - tab.right]);
        }"""
    )

    assert len(ends) == 9
    assert min(min(pair) for pair in ends) >= 0


# Returns the number of lines of each element.
_LINES = """(found) => found.map((one) => {
  const range = document.createRange();
  range.selectNodeContents(one);
  const boxes = [...range.getClientRects()].filter((box) => box.width);
  boxes.sort((one, other) => one.top - other.top);
  let [lines, bottom] = [0, -Infinity];
  for (const box of boxes) {
    if (box.top >= bottom - 2) lines += 1;
    bottom = Math.max(bottom, box.bottom);
  }
  return lines;
})"""


@pytest.mark.parametrize(
    ("address", "selector"),
    [
        ("/queues", "td[data-label=Listeners] a"),
        ("/queues", "td .aged"),
        ("/failures", "td.task"),
        ("/recurring", "td.lead .strong"),
        ("/recurring", "td.lead > .more.one-line"),
        ("/tasks", "td.lead > a"),
    ],
)
def test_name_has_one_line_on_a_desktop(shop, open_page, address, selector):
    """Names of ordinary length do not wrap next to half-empty columns, and the table fits."""
    page = open_page(shop, address)

    lines = page.locator(selector).evaluate_all(_LINES)

    assert lines
    assert set(lines) == {1}
    fits = page.locator(".scroll:has(table)").evaluate_all(
        "(all) => all.map((one) => one.scrollWidth <= one.clientWidth)"
    )
    assert all(fits)


def test_phone_shows_history_dates_in_one_column(billing, open_context):
    """Each date has its own line, even if other columns are next to it on wider screens."""
    page = open_context(billing).new_page()
    page.set_viewport_size({"width": 390, "height": 844})

    failed = next(iter(billing.fire.jobs.iterate(state="failed")))
    page.goto(f"/jobs/{failed.id}")

    starts = [
        one.bounding_box()["x"] for one in page.locator("#region-life .entry > .line time[data-at]").all()
    ]
    assert len(starts) > 1
    assert len(set(starts)) == 1


def test_figures_of_a_row_are_below_its_name(billing, open_context):
    """On a phone, no figure of a job is to the left of its name."""
    page = open_context(billing).new_page()
    page.set_viewport_size({"width": 390, "height": 844})

    page.goto("/jobs?state=failed")

    row = page.locator(".jobs tbody tr").first
    left = row.locator(".name").bounding_box()["x"]
    figures = [one.bounding_box() for one in row.locator("td.queue, td.number, td.nowrap").all()]
    assert all(box is None or box["x"] >= left - 1 for box in figures)


def test_scrollable_tabs_have_shadows_at_hidden_ends(billing, open_context):
    """On a phone, the row of tabs has a shadow at each end at which more tabs are hidden."""
    page = open_context(billing).new_page()
    page.set_viewport_size({"width": 390, "height": 844})

    page.goto("/jobs")

    attachment = page.locator(".tabs").evaluate("(one) => getComputedStyle(one).backgroundAttachment")
    assert attachment == "local, local, scroll, scroll"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A read-only dashboard of a production environment."""
    path = tmp_path_factory.mktemp("guarded") / "jobs.db"
    with closing(Firelock(f"sqlite:///{path}")) as fire:
        fire.storage.migrate()
        served = Served(fire, environment="production", read_only=True).start()
        yield served
        served.stop()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_environment_is_visible_at_every_width(guarded, open_context, width):
    """A visitor must not mistake production for staging, even on a phone.

    The page also shows that the dashboard is read-only.
    """
    page = open_context(guarded).new_page()
    page.set_viewport_size({"width": width, "height": 844})
    page.goto("/")

    ribbon = page.locator(".ribbon")
    expect(ribbon).to_have_text("production")
    assert ribbon.evaluate("one => one.scrollWidth <= one.clientWidth")
    expect(page.locator("header.bar .chip")).to_be_visible()
    expect(page.get_by_role("button", name="Search")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
