"""Live pages: they update without a reload, and without disturbing the visitor."""

from __future__ import annotations

from contextlib import closing

import pytest
from playwright.sync_api import expect

from firelock import Retry, State
from firelock.model.memo import chunk_offset
from firelock.storage import Chunk
from firelock.testing import eventually
from tests.dashboard import flows
from tests.end_to_end.browser import seeds

REGION = "#region-rows"


@pytest.fixture
def page(served, open_page):
    """The page of queues, with live updates."""
    page = open_page(served, "/queues")
    expect(page.locator("[data-live-chip]")).to_have_text("Live")
    return page


def expect_waiting(page, number):
    """Assert that the page of queues shows this number of waiting jobs in mail."""
    expect(page.locator("tr#queue-mail td.number").first).to_have_text(str(number))


@pytest.fixture
def mail(tasks):
    """Return a function that enqueues this number of jobs in mail."""
    return lambda number=1: tasks.send.enqueue_many([("a@example.com",)] * number)


def mark(page):
    """Set a mark that a reload would remove."""
    page.evaluate("() => { window.isSamePage = true; }")


def await_refreshes(page, seconds=3):
    """Wait until the page has had time for several requests, so that it would have made any change."""
    began = page.evaluate("() => performance.now()")
    page.wait_for_function(
        "([began, most]) => performance.now() - began > most", arg=[began, seconds * 1_000]
    )


def seconds_of(page):
    """Return for how many seconds the page has been open."""
    return page.evaluate("() => performance.now()") / 1_000


def is_same(page):
    return page.evaluate("() => window.isSamePage === true")


# ---- changes ---------------------------------------------------------------------------------------------


def test_number_changes_without_a_reload(page, mail):
    """The number changes as soon as any client enqueues jobs."""
    mark(page)
    expect_waiting(page, 5)

    mail(2)

    expect_waiting(page, 7)
    expect(page.locator("#region-nav a", has_text="Enqueued")).to_contain_text("7")
    assert is_same(page)


def test_numbers_change_without_a_stream(stocked, mail, serve, open_page):
    """Without a stream, the page polls."""
    page = open_page(serve(stocked, without_stream=True), "/queues")
    expect_waiting(page, 5)

    mail()

    expect_waiting(page, 6)


def test_page_of_a_running_job_is_updated(stocked, tasks, served, open_page):
    """The job's state, progress and log are updated. When the job has ended, its final state is shown."""
    job = tasks.work.using(queue="now").enqueue(4)
    page = open_page(served, f"/jobs/{job.id}")
    badge = page.locator("#region-head .badge")
    expect(badge).to_have_text("Enqueued")

    with stocked.server(queues=["now"], workers=1):
        expect(badge).to_have_text("Processing")
        expect(page.locator("#region-now")).to_contain_text("step one")
        expect(page.locator("[data-log]")).to_contain_text("begun")
        tasks.gate.set()
        expect(badge).to_have_text("Succeeded")


def test_hidden_region_appears_with_a_new_problem(tmp_path, serve, open_page):
    """A region that is hidden while there are no problems appears when a problem occurs."""
    fire, tasks = seeds.small(f"sqlite:///{tmp_path / 'quiet.db'}")
    with closing(fire):
        fire.storage.migrate()
        job = tasks.send.enqueue("a@example.com")
        job.delete()
        served = serve(fire)
        overview, page = open_page(served), open_page(served, f"/jobs/{job.id}")
        expect(overview.locator("#region-tiles")).to_be_visible()
        expect(overview.locator("#region-health")).to_be_hidden()
        expect(page.locator("#region-now")).to_be_hidden()

        job.requeue()
        fire.queues.pause("mail", note="the provider is down")

        expect(overview.locator("#region-health")).to_contain_text("no server is alive")
        expect(page.locator("#region-now")).to_contain_text("the provider is down")
        for opened in (overview, page):  # before the app closes, because they still send requests
            opened.close()


def test_live_chart_is_updated(stocked, tasks, served, open_page):
    """The live chart shows the attempts that ended within the last seconds."""
    page = open_page(served, "/?span=live")
    expect(page.locator("fl-chart canvas")).to_be_visible()

    with stocked.server(queues=["mail"], workers=1):
        page.wait_for_function(
            """() => document.querySelector("fl-chart").data?.lines
                 .some((line) => line.values.some((value) => value > 0))"""
        )


# ---- regions in use --------------------------------------------------------------------------------------


TYPING = """() => {
  const field = document.createElement("input");
  field.id = "typed-in";
  document.querySelector("#region-rows td").append(field);
  field.focus();
}"""


@pytest.mark.parametrize(
    ("begin", "is_so", "end"),
    [
        (TYPING, "document.activeElement.id === 'typed-in'", "document.activeElement.blur()"),
        (
            "() => getSelection().selectAllChildren(document.querySelector('tr#queue-mail td'))",
            "getSelection().toString() !== ''",
            "getSelection().removeAllRanges()",
        ),
    ],
    ids=["typing", "selecting text"],
)
def test_region_in_use_is_not_updated(page, mail, begin, is_so, end):
    """Typed text is kept and text can be copied. The region is updated after that."""
    page.evaluate(begin)

    mail()

    expect(page.locator("#region-nav a", has_text="Enqueued")).to_contain_text("6")  # another region changed
    expect_waiting(page, 5)
    assert page.evaluate(is_so)
    page.evaluate(end)
    expect_waiting(page, 6)


def test_open_dialog_stays_open(page, mail):
    """Typed text is kept, and the numbers behind the dialog are updated after it is closed."""
    page.locator("tr#queue-mail [data-open]").click()
    note = page.locator("#note-mail")
    note.fill("half a")

    mail()
    await_refreshes(page)
    note.press_sequentially(" sentence")

    expect(note).to_have_value("half a sentence")
    expect_waiting(page, 5)
    page.locator("dialog[open] [data-close]").click()
    expect_waiting(page, 6)


def test_focus_survives_an_update(page, mail):
    """The link is found again by the id of its row and keeps the focus."""
    page.locator("tr#queue-mail a").first.focus()
    mail()

    expect_waiting(page, 6)

    expect(page.locator("tr#queue-mail a").first).to_be_focused()


def test_new_jobs_are_inserted_by_a_button(served, mail, open_page):
    """Rows do not move under the pointer.

    A button shows the number of new jobs, and inserts them when it is pressed.
    """
    page = open_page(served, "/jobs?state=enqueued")
    rows = page.locator("tbody tr[id]")
    expect(rows).to_have_count(5)
    before = [row.get_attribute("id") for row in rows.all()]

    mail(2)

    pill = page.locator(f"{REGION} .pill")
    expect(pill).to_have_text("Show 2 new")
    assert before == [row.get_attribute("id") for row in rows.all()]
    pill.click()
    expect(rows).to_have_count(7)
    expect(pill).to_have_count(0)


def test_row_of_a_job_that_changed_state_turns_grey(stocked, served, open_page):
    """The row stays in its place until the list is loaded again."""
    page = open_page(served, "/jobs?state=enqueued")
    job = next(iter(stocked.jobs.find(state=State.ENQUEUED, limit=1)))
    row = page.locator(f"tr#job-{job.id}")

    job.delete()

    expect(row).to_have_class("is-gone")
    expect(row).to_contain_text("left this list")


# ---- menus of rows ---------------------------------------------------------------------------------------


class HeldClaim:
    """Requests for menus that get no response until `let_go`."""

    def __init__(self, page):
        self._page = page
        self._routes = []
        # a lambda, because Playwright sets an attribute on the handler
        page.route("**/jobs/*?part=menu", lambda route: self._routes.append(route))  # noqa: PLW0108

    def await_requests(self, times=1):
        """Wait until this number of menus has been requested."""
        for _ in range(10_000):
            if len(self._routes) >= times:
                return
            self._page.evaluate("() => 0")  # routes are handled meanwhile
        raise AssertionError(f"{len(self._routes)} menus were requested instead of {times}")

    def let_go(self, number=0, **answer):
        """Let the dashboard respond to one request, or respond as given; the page gets the response."""
        address = self._routes[number].request.url
        with self._page.expect_request_finished(lambda request: request.url == address):
            if answer:
                self._routes[number].fulfill(**answer)
            else:
                self._routes[number].continue_()
        self._page.evaluate("() => new Promise((done) => setTimeout(done))")


def test_menu_stays_open_while_its_row_moves(stocked, served, open_page):
    """An open menu stays in its place and works while the rows around it are refreshed."""
    page = open_page(served, "/jobs?state=failed")
    job = next(iter(stocked.jobs.find(state=State.FAILED, limit=1)))
    row = page.locator(f"tr#job-{job.id}")
    row.locator("a[data-menu]").click()
    menu = row.locator(".menu > .list")
    expect(menu).to_be_visible()

    job.requeue()
    await_refreshes(page)
    expect(menu).to_be_visible()
    menu.get_by_role("button", name="Delete").click()
    page.locator("dialog[open] button.primary").click()

    expect(page.locator(".toast")).to_contain_text("1 job deleted")
    assert State.DELETED == job.refresh().state


@pytest.mark.parametrize("answer", [{}, {"status": 500, "body": "no"}], ids=["menu", "error"])
def test_closed_menu_stays_closed_after_a_late_response(served, open_page, guard, answer):
    """Neither the late response nor an error opens the menu or shows a toast."""
    guard.allow("status of 500")
    page = open_page(served, "/jobs?state=failed")
    held, opener = HeldClaim(page), page.locator("tbody a[data-menu]").first

    opener.click()
    held.await_requests()
    page.keyboard.press("Escape")
    held.let_go(**answer)

    expect(opener).to_have_attribute("aria-expanded", "false")
    expect(page.locator("tbody .menu > .list:visible, .toast")).to_have_count(0)


def test_only_the_last_opened_menu_is_open(served, open_page):
    """In this test, the response for the first menu arrives after the second menu was opened."""
    page = open_page(served, "/jobs?state=failed")
    held, openers = HeldClaim(page), page.locator("tbody a[data-menu]")

    openers.nth(0).click()
    openers.nth(1).click()
    held.await_requests(2)
    held.let_go(1)
    held.let_go(0)

    rows = page.locator("tbody tr[id]")
    expect(rows.nth(1).locator(".menu > .list")).to_be_visible()
    expect(page.locator("tbody .menu > .list:visible")).to_have_count(1)


def test_menu_of_a_removed_job_shows_an_error(stocked, served, open_page, guard):
    """A toast shows the error, and the menu is closed."""
    guard.allow("status of 404")
    page = open_page(served, "/jobs?state=failed")
    opener = page.locator("tbody a[data-menu]").first
    opener.evaluate("(link) => { link.href = link.href.replace(/[^/]+$/, 'gone'); }")

    opener.click()

    expect(page.locator(".toast.bad")).to_contain_text(
        "Job 'gone' was not found: the id is wrong, or the job has been pruned."
    )
    expect(opener).to_have_attribute("aria-expanded", "false")


def test_menu_shows_an_error_if_the_server_is_unreachable(served, open_page, guard):
    """A toast shows the error."""
    guard.allow("Failed to load resource")
    page = open_page(served, "/jobs?state=failed")
    page.route("**/jobs/*?part=menu", lambda route: route.abort())

    page.locator("tbody a[data-menu]").first.click()

    expect(page.locator(".toast.bad")).to_contain_text("The dashboard did not respond. Try again.")


_WHOLE_MENU = """(list) => [...list.querySelectorAll("a, button")].map((one) => {
  const place = one.getBoundingClientRect();
  return one.contains(document.elementFromPoint(place.x + place.width / 2, place.y + place.height / 2));
})"""


@pytest.mark.parametrize("address", ["/recurring", "/jobs?state=failed", "/jobs?state=scheduled"])
def test_menu_of_every_row_is_completely_visible(served, open_page, address):
    """The scrolling table does not cut off any menu, not even the menu of its last row."""
    page = open_page(served, address)
    openers = page.locator("tbody a[data-menu]")
    assert openers.count() >= 2

    for number in range(openers.count()):
        openers.nth(number).click()
        menu = page.locator("tbody .menu > .list:not([hidden])")
        expect(menu).to_be_visible()
        shown = menu.evaluate(_WHOLE_MENU)
        assert shown
        assert all(shown)
        page.keyboard.press("Escape")


@pytest.mark.parametrize(("address", "region"), [("/", "#region-figures"), ("/servers", "#region-servers")])
def test_open_details_element_stays_open(stocked, served, open_page, address, region):
    """An open `details` element stays open while its region is refreshed."""
    with stocked.server(queues=["nothing"], workers=1):
        eventually(lambda: bool(stocked.servers.list()))
        page = open_page(served, address)
        fold = page.locator(f"{region} details:not(.menu)").first
        fold.locator("summary").click()

        with page.expect_response(lambda reply: "part=" in reply.url and reply.status == 200):
            page.evaluate(f"""() => {{
              const region = document.querySelector("{region}");
              document.activeElement.blur();
              region.querySelector("summary").textContent += " ";
              firelock.refresh(region, true);
            }}""")
        page.wait_for_function(
            f"() => !document.querySelector('{region} summary').textContent.endsWith('  ')"
        )

        expect(fold).to_have_attribute("open", "")


# ---- the chip --------------------------------------------------------------------------------------------


def test_chip_pauses_and_resumes_updates(page, mail):
    """The page does not change while it is paused, and is updated as soon as it is resumed."""
    chip = page.locator("[data-live-chip]")
    chip.click()
    expect(chip).to_have_text("Paused")

    mail()
    await_refreshes(page)
    expect_waiting(page, 5)

    chip.click()
    expect(chip).to_have_text("Live")
    expect_waiting(page, 6)


def test_chip_shows_that_the_server_is_unreachable(page, served, mail, guard):
    """As soon as a server responds again, the page continues automatically."""
    guard.allow("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET")
    mark(page)
    chip = page.locator("[data-live-chip]")

    served.stop()
    expect(chip).to_have_text("Reconnecting")
    mail()
    served.start()

    expect(chip).to_have_text("Live")
    expect_waiting(page, 6)
    assert is_same(page)


_SHOWN = """() => {
  const number = (place) => document.querySelector(place)?.textContent.trim() ?? "0";
  return [
    number('#region-nav a[href="/jobs?state=enqueued"] .number'),
    number("#tile-enqueued .value"),
    number("#overview-queue-mail td[data-label=Enqueued]"),
  ];
}"""


def test_overview_shows_consistent_numbers_while_jobs_arrive(served, mail, open_page):
    """The navigation, tiles and tables are replaced together, even those outside the visible part."""
    page = open_page(served, "/")
    page.wait_for_function("() => firelock.isStreaming()")
    page.evaluate(f"""() => {{
      const shown = {_SHOWN};
      window.readings = [];
      const note = () => setTimeout(() => window.readings.push(shown()), 50);
      document.addEventListener("firelock:swapped", note);
    }}""")
    page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    waiting = int(page.evaluate(_SHOWN)[1]) + 7

    mail(7)

    page.wait_for_function("(waiting) => window.readings.some((one) => one[1] === waiting)", arg=str(waiting))
    readings = page.evaluate("() => window.readings")
    assert all(len(set(one)) == 1 for one in readings), readings


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (1, [0, 1]), (3, [0, 1, 2, 3]), (7, [0, 2, 4, 6, 8]), (12, [0, 5, 10, 15]),
        (418, [0, 100, 200, 300, 400, 500]), (502, [0, 200, 400, 600]), (900, [0, 200, 400, 600, 800, 1_000]),
    ],
)  # fmt: skip
def test_bars_of_a_chart_stay_below_its_top_label(served, open_page, most, labels):
    page = open_page(served, "/?span=24h")
    page.wait_for_function("() => document.querySelector('fl-chart').plot")
    page.evaluate(
        """(most) => {
      const chart = document.querySelector("fl-chart");
      for (const line of chart.data.lines) line.values.fill(0);
      chart.data.lines[0].values[3] = most;
      chart.show();
    }""",
        most,
    )

    page.wait_for_function(
        "(labels) => document.querySelector('fl-chart').plot.axes[1]._splits?.join() === labels",
        arg=",".join(map(str, labels)),
    )
    assert labels[-1] == page.evaluate("() => document.querySelector('fl-chart').plot.scales.y.max")


def test_facts_of_a_job_change_with_its_state(stocked, served, open_page):
    """Facts outside the visible part are updated too, for example those below the cards on a phone."""
    flows.add(stocked, flows.new_batch(stocked), queue="flows")
    (job,) = flows.claim(stocked, queues=["flows"])
    page = open_page(served, f"/jobs/{job.id}")
    page.set_viewport_size({"width": 390, "height": 400})
    page.wait_for_function("() => firelock.isStreaming()")
    expect(page.locator("#region-head .badge")).to_have_text("Processing")

    flows.end(stocked, job, State.SUCCEEDED)

    expect(page.locator("#region-head .badge")).to_have_text("Succeeded")
    expect(page.locator("#region-facts")).to_contain_text("Ended", timeout=1_000)


def test_theme_button_shows_the_other_theme(served, open_page):
    """A moon switches to the dark theme, and a sun to the light one."""
    page = open_page(served, "/queues")
    page.emulate_media(color_scheme="light")
    button = page.locator("[data-theme-switch] button")
    expect(button.locator(".in-light")).to_be_visible()
    expect(button.locator(".in-dark")).to_be_hidden()

    button.click()

    expect(button.locator(".in-dark")).to_be_visible()
    expect(button.locator(".in-light")).to_be_hidden()


def test_storage_time_in_the_footer_is_updated(page):
    """The footer shows the current time of the storage, not that of the last reload."""
    clock = page.locator("time[data-clock]")
    before = clock.text_content()

    expect(clock).not_to_have_text(before)


# ---- costs -----------------------------------------------------------------------------------------------


def test_tab_sends_at_most_two_requests_per_second(stocked, tasks, served, open_page):
    """Every page observes this limit even if all of its data changes. A stream counts as one request."""
    job = tasks.work.using(queue="now").enqueue(4)
    requests, pages = {}, {}
    with stocked.server(queues=["now", "mail"], workers=2):
        for address in (
            "/",
            "/?span=live",
            "/queues",
            "/queues/mail",
            "/jobs",
            "/servers",
            f"/jobs/{job.id}",
        ):
            page = open_page(served, address)
            page.wait_for_function("() => firelock.isStreaming()")
            page.on("request", lambda one, address=address: requests.setdefault(address, []).append(one.url))
            pages[address] = page, seconds_of(page)
        for number in range(8):
            tasks.send.enqueue(f"{number}@example.com")
            await_refreshes(page, 1)

    for address, (page, began) in pages.items():
        assert len(requests[address]) <= 2 * (seconds_of(page) - began), (address, requests[address])


def test_hidden_tab_sends_no_requests(page, mail, served):
    """The page is updated when the tab becomes visible again."""
    hide = """(is) => {
      Object.defineProperty(document, "hidden", { get: () => is, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    requests = []
    page.on("request", lambda request: requests.append(request.url))

    mail()
    await_refreshes(page, 5)
    assert requests == []

    page.evaluate(hide, False)
    expect_waiting(page, 6)


def test_windows_of_a_browser_share_one_stream(served, stocked, open_context):
    """One window receives the stream for all windows. When it is closed, another one takes over."""
    context = open_context(served)
    first, second, third = (context.new_page() for _ in range(3))
    for page in (first, second, third):
        page.goto("/queues")
        expect(page.locator("[data-live-chip]")).to_have_text("Live")
        page.wait_for_function("() => firelock.isStreaming()")

    assert ["/live"] == [path for path in served.requested if path == "/live"]
    stocked.queues.pause("mail", note="sent to every tab")
    for page in (first, second, third):
        expect(page.locator("main")).to_contain_text("sent to every tab")

    first.close()
    second.wait_for_function("() => firelock.isStreaming()")
    stocked.queues.pause("mail", note="changed by another")
    for page in (second, third):
        expect(page.locator("main")).to_contain_text("changed by another")
    assert 2 == len([path for path in served.requested if path == "/live"])


def test_each_window_listens_if_locks_are_not_available(served, open_context):
    """Browsers provide locks only in a secure context. Without locks, each window has its own stream."""
    context = open_context(served)
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    pages = [context.new_page() for _ in range(2)]
    for page in pages:
        page.goto("/queues")
        page.wait_for_function("() => firelock.isStreaming()")

    assert 2 == len([path for path in served.requested if path == "/live"])


def test_output_of_a_stream_is_appended(stocked, served, open_page):
    """The panel appears with the first output of the job. Later output is appended as text."""
    stocked.queues.resume("reports")
    stocked.tasks_of_test.work.enqueue(1)
    (job,) = flows.claim(stocked, queues=["reports"])

    def emit(number, text):
        chunk = Chunk("out", chunk_offset(job.fence, number), text)
        stocked.storage.append_stream(job.id, [chunk], session=flows.SESSION, fence=job.fence)

    page = open_page(served, f"/jobs/{job.id}")
    expect(page.locator("#stream")).to_be_hidden()

    emit(0, "Once ")
    expect(page.locator("[data-stream]")).to_have_text("Once ", timeout=60_000)
    emit(1, "<b>upon</b> a time")

    expect(page.locator("[data-stream]")).to_have_text("Once <b>upon</b> a time")
    expect(page.locator("[data-stream-open]")).to_have_count(0)


# ---- after an action -------------------------------------------------------------------------------------

_FAILED = """() => {
  const number = (where) => Number(document.querySelector(where)?.textContent.match(/\\d+/g)?.at(-1) ?? 0);
  const rows = [...document.querySelectorAll("#region-rows tbody td.number a")];
  return [
    rows.reduce((sum, row) => sum + Number(row.textContent), 0),
    number("#region-rows footer"),
    number('#region-nav a[href="/jobs?state=failed"]'),
  ];
}"""


def test_rows_footer_and_navigation_agree_after_an_action(stocked, served, open_page):
    """The rows, the footer and the navigation are requested separately.

    All of them show that the operation has ended.
    """
    broken = stocked.task(name="shop.stock.count", retry=Retry.never())(lambda: {}["shelf"])
    broken.enqueue_many([()] * 2)
    with stocked.server(queues=["default"], workers=2):
        eventually(lambda: stocked.jobs.counts().by_state[State.FAILED] == 5)
    page = open_page(served, "/failures")
    assert [5, 5, 5] == page.evaluate(_FAILED)

    page.get_by_role("row", name="ValueError").get_by_role("button", name="Requeue").click()
    page.get_by_role("dialog").get_by_role("button", name="Requeue").click()

    page.wait_for_function(f"() => ({_FAILED})().every((number) => number === 2)")
