"""Pages and panels of plugins, and the permissions that a plugin grants."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from firelock import Firelock, hookimpl
from firelock_dashboard import Access, Dashboard, JobPanel, Page, Permission, Visit
from tests.dashboard.browser import Browser


class Tenants:
    def __init__(self, *pages, panels=(), level=None):
        self.pages, self.panels, self.level = pages, panels, level

    @hookimpl
    def dashboard_pages(self):
        return self.pages

    @hookimpl
    def job_panels(self, job):
        return self.panels

    @hookimpl
    def dashboard_permission(self, request):
        return self.level


@pytest.fixture
def browse():
    opened = []

    def browse(*plugins, **options):
        fire = Firelock("memory://", plugins=list(plugins))
        browser = Browser(Dashboard(fire, **options))
        opened.extend([browser, fire])
        browser.fire = fire
        return browser

    yield browse
    for one in opened:
        one.close()


def test_plugin_page_is_in_the_navigation(browse):
    """Every page links to the plugin's page by its title.

    The plugin's content is shown in the frame of a page, and plain text is escaped.
    """
    browser = browse(
        Tenants(
            Page("tenants", "Tenants", lambda visit: Markup("<p>{}</p>").format("<all>")),
            Page("plain", "Plain", lambda visit: "<b>not bold</b>"),
        )
    )

    assert 'href="/x/tenants"' in browser.get("/queues").text
    assert "<p>&lt;all&gt;</p>" in browser.get("/x/tenants").text
    assert "&lt;b&gt;not bold" in browser.get("/x/plain").text
    assert 404 == browser.get("/x/others").status


def test_plugin_page_gets_a_visit(browse):
    """The visit has the documented attributes: app, fields, URLs, the visitor's name and permissions."""
    seen = []

    def render(visit):
        seen.append(visit)
        counts = visit.fire.jobs.counts()
        return (
            f"{visit.query.maybe('day')} {visit.query.maybe('none')} {counts.by_state.get('failed', 0)} "
            f"{visit.url('/jobs', state='failed')} {visit.here} {visit.may('requeue')} {visit.may('delete')} "
            f"{visit.setting('theme')} {visit.now.tzinfo} {visit.redacted('plain')} {visit.who}"
        )

    browser = browse(
        Tenants(Page("tenants", "Tenants", render)),
        auth=lambda request: Access({Permission.READ, Permission.REQUEUE}, name="ada"),
    )

    text = browser.get("/x/tenants?day=monday").text

    assert "monday None 0 /jobs?state=failed /x/tenants?day=monday True False system UTC plain ada" in text
    assert all(isinstance(visit, Visit) for visit in seen)


def test_plugin_page_requires_its_permission(browse):
    """A visitor with read permission cannot open a page that requires another permission."""
    page = Page("secret", "Secret", lambda visit: "s", Permission.STOP_SERVER)
    browser = browse(Tenants(page), auth=lambda request: "read")

    assert 403 == browser.get("/x/secret").status


class Unknown:
    """An object that is not a page, and whose name cannot be read."""

    @property
    def name(self):
        raise RuntimeError("no name today")


def broken(*_):
    raise RuntimeError("password=hunter2 no tenants today")


def leaving(*_):
    raise SystemExit(3)


@pytest.mark.parametrize(
    "page",
    [
        Page("No Name", "T", str), "no page", None, 7, Unknown(), Page(None, "T", str), Page(7, "T", str),
        Page("x" * 41, "T", str), Page("a/../b", "T", str), Page("\u202e", "T", str), Page("bad", "", str),
        Page("bad", None, str), Page("bad", "T" * 81, str), Page("bad", "T", None), Page("bad", "T", "text"),
        Page("bad", "T", str, "admin"), Page("bad", "T", str, None), Page("good", "Twice", str),
    ],
)  # fmt: skip
def test_invalid_plugin_page_does_not_affect_others(browse, caplog, page):
    """All other pages work, including the plugin's valid page.

    The log and the System page report the problem.
    """
    browser = browse(Tenants(Page("good", "Good", lambda visit: "well"), page))

    assert {200} == {browser.get(path).status for path in ("/", "/queues", "/jobs", "/x/good", "/system")}
    assert 404 == browser.get("/x/bad").status
    assert "Twice" not in browser.get("/queues").text
    assert 1 == len([one for one in caplog.records if "left out" in one.message])
    assert "banner bad" in browser.get("/system").text


@pytest.mark.parametrize("offer", [broken, lambda: 7, lambda: "pages", lambda: Page("a", "A", str)])
def test_failing_plugin_loses_only_its_own_pages(browse, caplog, offer):
    """The plugin may raise an error immediately, fail halfway, or return something other than a list."""

    class Bad:
        @hookimpl
        def dashboard_pages(self):
            return offer()

    class Halfway:
        @hookimpl
        def dashboard_pages(self):
            yield Page("half", "Half", str)
            raise RuntimeError("no more")

    browser = browse(Bad(), Halfway(), Tenants(Page("good", "Good", lambda visit: "well")))

    assert {200} == {browser.get(path).status for path in ("/", "/queues", "/x/good", "/system")}
    assert 2 == len([one for one in caplog.records if "left out" in one.message])


@pytest.mark.parametrize(
    "render", [broken, leaving, lambda visit: None, lambda visit: 7, lambda: "no argument"]
)
def test_failing_plugin_page_shows_its_error(browse, caplog, render):
    """The error is shown in the page frame with status 500, without secrets."""
    browser = browse(Tenants(Page("bad", "Bad", render), Page("good", "Good", lambda visit: "well")))

    answer = browser.get("/x/bad")

    assert 500 == answer.status
    assert 'href="/x/good"' in answer.text
    assert "hunter2" not in answer.text
    assert {200} == {browser.get(path).status for path in ("/queues", "/x/good")}


@pytest.mark.parametrize(
    "panel", [JobPanel("Bad", broken), JobPanel("Bad", leaving), JobPanel("Bad", lambda visit, job: None),
              JobPanel(None, lambda visit, job: "x"), JobPanel("Bad", None), 7, None, Unknown()],
)  # fmt: skip
def test_failing_panel_does_not_affect_others(browse, panel):
    """Panels are cards with escaped text on a job's page. A panel that raises shows its error there."""
    browser = browse(Tenants(panels=[panel, JobPanel("Trace", lambda visit, job: f"<{job.id}>")]))
    job = browser.fire.task(name="send")(lambda: None).enqueue()

    page = browser.get(f"/jobs/{job.id}").text

    assert "Trace" in page
    assert f"&lt;{job.id}&gt;" in page
    assert "hunter2" not in page
    if isinstance(panel, JobPanel) and panel.render is broken:
        assert "no tenants today" in page
