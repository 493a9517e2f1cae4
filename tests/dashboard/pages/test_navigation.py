"""On every page, the navigation updates from a separate URL."""

from __future__ import annotations

import re

import pytest

from tests.core.fakes import Worker


def nav_of(html):
    """Return a match with the URL from which the navigation of a page is updated, or None."""
    return re.search(r'id="region-nav"[^>]* data-from="([^"]+)"', html)


def part(html, name):
    """Return the content of a live region in a page."""
    return html.partition(f'id="region-{name}"')[2].partition("</nav>")[0]


def count_of(html, address):
    """Return the number after a link in the navigation or the tabs, or None if there is none."""
    link = re.search(rf'<a [^>]*href="{re.escape(address)}"[^>]*>(.*?)</a>', html, re.DOTALL)[1]
    found = re.search(r'class="number[^"]*">(?:<span>)?([^<]+)<', link)
    return None if found is None else found[1]


@pytest.fixture
def retrying(fire):
    """Return a function that creates jobs that wait for a retry: `retrying(3)`."""

    @fire.task(name="shop.charge")
    def charge() -> None:
        raise TimeoutError

    def make(count):
        jobs = charge.enqueue_many([()] * count)
        Worker(fire).run(limit=count)
        return jobs

    return make


def test_retries_are_counted(client, dashboard, fire, retrying):
    """The navigation and the tab show the number of retries, without the jobs that are only scheduled."""
    fire.task(name="shop.later")(lambda: None).schedule(3600)

    none = client.get("/jobs").text
    jobs = retrying(3)
    dashboard.invalidate()
    three = client.get("/jobs").text
    client.act("/api/jobs/delete", {"id": [job.id for job in jobs[:2]]})
    one = client.get("/retries").text

    assert (None, "0") == (count_of(none, "/retries"), count_of(part(none, "tabs"), "/retries"))
    assert ("3", "3") == (count_of(three, "/retries"), count_of(part(three, "tabs"), "/retries"))
    assert ("1", "1") == (count_of(one, "/retries"), count_of(part(one, "tabs"), "/retries"))


def test_retries_are_counted_up_to_a_hundred(client, dashboard, retrying):
    """If there are more than a hundred retries, their number is shown as "100+"."""
    retrying(101)
    dashboard.invalidate()

    assert "100+" == count_of(client.get("/jobs").text, "/retries")


def test_overview_requests_navigation_and_tiles_from_one_url(client):
    """One response contains the navigation and the tiles, so both show the same reading."""
    page = client.get("/").text

    assert nav_of(page) is None
    assert '<div data-live="nav" id="region-nav" data-with="now"' in page


@pytest.mark.parametrize("address", ["/queues", "/jobs?state=failed", "/failures/gone", "/nowhere"])
def test_every_page_contains_the_navigation_url(client, address):
    """Even the page of a deleted object, whose own URL would not be found, contains this URL."""
    found = nav_of(client.get(address).text)

    assert found is not None
    address = found[1].replace("&amp;", "&")
    answer = client.get(f"{address}{'&' if '?' in address else '?'}part=nav")
    assert 200 == answer.status
    assert "<nav" not in answer.text
    assert "/failures" in answer.text


def test_navigation_marks_the_requested_section(client):
    text = client.get("/navigation?section=queues&part=nav").text

    assert re.search(r'href="/queues" aria-current="page"', text)
    assert 1 == text.count("aria-current")


def test_navigation_is_not_a_page(client):
    """The navigation exists only as a part of other pages."""
    assert 404 == client.get("/navigation?section=queues").status
    assert 404 == client.get("/navigation?part=head").status


def test_section_may_be_any_name_up_to_a_length(client):
    """If the section is unknown, no entry is marked. A name that is too long causes an error."""
    assert 200 == client.get("/navigation?section=%22%3E%3Cscript%3E&part=nav").status
    assert 400 == client.get(f"/navigation?section={'x' * 300}&part=nav").status


def test_palette_and_shortcuts_list_every_section(client):
    """The command palette and the keyboard shortcuts use the titles and the order of the navigation."""
    html = client.get("/").text
    nav = re.search(r"<nav.*?</nav>", html, re.DOTALL)[0]
    palette = re.search(r'<dialog id="palette".*?</dialog>', html, re.DOTALL)[0]
    keys = re.search(r'<dl class="shortcuts">.*?</dl>', html, re.DOTALL)[0]

    sections = re.findall(r'<a class="to" href="([^"?]+)"[^>]*><svg.*?<span>([^<]+)</span>', nav)
    options = re.findall(r'data-key="\w?"[^>]* href="([^"]+)">.*?<span>([^<]+)</span>', palette)
    with_a_key = re.findall(r"<kbd>g</kbd> <kbd>\w</kbd> </dt><dd>([^<]+)</dd>", keys)

    assert ("/limits", "Limits") in sections
    assert options == sections
    assert with_a_key == [title for _, title in sections if title != "Settings"]
