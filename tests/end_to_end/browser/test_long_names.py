"""Realistic names of 60 characters: no page scrolls sideways, and truncated texts end in an ellipsis."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from firelock import Every, Firelock, Limit, Retry, Unique
from firelock.storage import ClaimRequest, NewSession
from tests.core.fakes import Worker
from tests.end_to_end.browser.pages import overflow
from tests.end_to_end.browser.serving import Served

WIDTHS = {"phone": 390, "laptop": 1280, "desktop": 1440}

# Returns tables that are wider than their container, so that a part is only visible after scrolling sideways.
_SIDEWAYS = """() => [...document.querySelectorAll("main .scroll")]
  .filter((place) => place.offsetParent && place.scrollWidth > place.clientWidth + 1)
  .map((place) => [place.getAttribute("aria-label"), place.scrollWidth, ">", place.clientWidth].join(" "))"""

# Returns texts that their container cuts off without an ellipsis and without scrolling.
_CUT = """() => [...document.querySelectorAll("main *, nav *")]
  .filter((one) => one.checkVisibility() && one.childElementCount === 0 && one.textContent.trim())
  .flatMap((one) => {
    const problem = (why) => [
      `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 60)}: ${why}`];
    const style = getComputedStyle(one);
    const unseen = "svg, .stacked > thead, .visually-hidden, .visually-hidden *, dialog:not([open]), .toasts";
    if (one.closest(unseen)) return [];
    const cuts = (style) => ["hidden", "clip"].includes(style.overflowX);
    for (let place = one; place && place.id !== "main"; place = place.parentElement) {
      const outer = getComputedStyle(place);
      if (["auto", "scroll"].includes(outer.overflowX)) return [];
      if (!cuts(outer)) continue;
      if (outer.textOverflow === "ellipsis" || outer.webkitLineClamp !== "none") return [];
      const range = document.createRange();
      range.selectNodeContents(one);
      const text = range.getBoundingClientRect(), box = place.getBoundingClientRect();
      if (text.right > box.right + 1 || text.left < box.left - 1) return problem("is cut off");
    }
    return [];
  })"""

# Returns texts that end in an ellipsis and do not show the rest on hover.
_HIDDEN_TEXT = """() => [...document.querySelectorAll("main *")]
  .filter((one) => one.checkVisibility() && getComputedStyle(one).textOverflow === "ellipsis")
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.textContent.trim())
  .filter((one) => {
    one.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    return !one.closest("[title]") && !one.querySelector("[title]");
  })
  .map((one) => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 70)}`)"""


def named(text):
    """Return a name of 60 characters with this beginning, with positions at which a browser may break it."""
    return f"{text}-of-the-warehouse-in-northern-scandinavia-and-its-neighbours"[:60]


TASK = "northwind.warehouse.replenishment.calculate_reorder_quantity"
FAILING = "northwind.accounting.receivables.remind_customers_of_invoices"[:60]
QUEUE, PAUSED, TAG, KEY, BATCH = map(named, ("replenish", "reports", "customer", "tenant", "import"))


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """A dashboard of an app in which all names are long."""
    assert {60} == set(map(len, (TASK, FAILING, QUEUE, PAUSED, TAG, KEY, BATCH)))
    path = tmp_path_factory.mktemp("long") / "jobs.db"
    with closing(Firelock(f"sqlite:///{path}")) as fire:
        _fill(fire)
        served = Served(fire, environment=named("production")[:40]).start()
        yield served
        served.stop()


def _fill(fire):
    fire.storage.migrate()

    class CustomerHasNoAddressInTheCountryOfTheInvoiceRecipientError(Exception):
        """An exception whose name has 60 characters."""

    @fire.task(name=TASK, queue=QUEUE, tags=[TAG], limits=[Limit(KEY, concurrent=1)])
    def calculate(warehouse: str, day: str) -> str:
        """Calculate which quantities are to be ordered of every article that the warehouse stores."""
        return warehouse

    @fire.task(name=FAILING, queue=QUEUE, retry=Retry.never(), tags=[TAG])
    def remind(customer: str) -> None:
        raise CustomerHasNoAddressInTheCountryOfTheInvoiceRecipientError(named("nobody"))

    @fire.task(name=f"{TASK[:50]}_retrying", queue=QUEUE)
    def retrying(customer: str) -> None:
        raise CustomerHasNoAddressInTheCountryOfTheInvoiceRecipientError(named("later"))

    @fire.task(name=f"{TASK[:52]}_report", queue=PAUSED, unique=Unique(KEY))
    def report(day: str) -> None: ...

    fire.limits.sync()
    for number in range(3):
        remind.enqueue(f"{named('customer')} {number}")
    retrying.enqueue(named("customer"))
    with fire.batch(BATCH, tags=[TAG]) as batch:
        batch.add(remind, named("member"))
        batch.add(report, "2026-11-30")
    Worker(fire).run()
    for number in range(4):
        calculate.enqueue(named(f"warehouse-{number}"), "2026-11-30")
    calculate.recur(named("nightly"), Every(timedelta(hours=1)), named("warehouse"), "2026-11-30")
    fire.queues.pause(PAUSED, note="the disk of the report server is full until Thursday afternoon", by="ada")
    now = fire.storage.clock()
    session = NewSession(
        "long", "longest", named("worker") + ":400", named("worker"), 400, now, 86_400, 10, QUEUE
    )
    fire.storage.begin_session(session)
    fire.storage.claim(ClaimRequest([QUEUE], 5, session.id, now))


def pages_of(fire):
    """Return the addresses of the pages that show names."""
    jobs = {job.task: job.id for job in fire.jobs.iterate()}
    cause = fire.jobs.failure_groups(1)[0].fingerprint
    batch = fire.batches.list().batches[0].id
    return [
        "/", "/jobs", "/jobs?state=failed", "/retries", f"/jobs/{jobs[TASK]}", f"/jobs/{jobs[FAILING]}",
        "/batches", f"/batches/{batch}", "/failures", f"/failures/{cause}", "/queues", f"/queues/{QUEUE}",
        f"/queues/{PAUSED}", "/limits", f"/limits/key?key={KEY}", "/limits/unique", "/recurring",
        f"/recurring/view?id={named('nightly')}", f"/recurring/edit?id={named('nightly')}", "/tasks",
        f"/tasks/view?name={TASK}", f"/tasks/run?name={TASK}", "/servers", "/activity", "/system",
        "/settings", f"/search?q={QUEUE}",
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_long_names_fit(long_names, open_context, width):
    """No page scrolls sideways. Truncated texts end with an ellipsis and are shown completely on hover."""
    page = open_context(long_names).new_page()
    page.set_viewport_size({"width": width, "height": 900})
    found = []

    for address in pages_of(long_names.fire):
        page.goto(address)
        for question in (_SIDEWAYS, _CUT, _HIDDEN_TEXT):
            found += [f"{address}: {one}" for one in page.evaluate(question)]
        found += [f"{address}: {one}" for one in overflow(page)]

    assert [] == found
