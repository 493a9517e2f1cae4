"""The navigation keeps itself current at an address of its own, whatever page it is on."""

from __future__ import annotations

import re

import pytest

from tests.core.fakes import Worker


def nav_of(html):
    """The navigation within a page, or alone, and where it is asked for again."""
    return re.search(r'id="region-nav"[^>]* data-from="([^"]+)"', html)


def part(html, name):
    """A live region of a page."""
    return html.partition(f'id="region-{name}"')[2].partition("</nav>")[0]


def count_of(html, address):
    """The number behind a link of the navigation or of the tabs; None where there is none."""
    link = re.search(rf'<a [^>]*href="{re.escape(address)}"[^>]*>(.*?)</a>', html, re.DOTALL)[1]
    found = re.search(r'class="number[^"]*">(?:<span>)?([^<]+)<', link)
    return None if found is None else found[1]


@pytest.fixture
def retrying(fire):
    """Makes jobs that wait for a retry: `retrying(3)`."""

    @fire.task(name="shop.charge")
    def charge() -> None:
        raise TimeoutError

    def make(count):
        jobs = charge.enqueue_many([()] * count)
        Worker(fire).run(limit=count)
        return jobs

    return make


def test_retries_are_counted(client, dashboard, fire, retrying):
    """In the navigation and in the tab; jobs that are only scheduled are not among them."""
    fire.task(name="shop.later")(lambda: None).schedule(3600)

    none = client.get("/jobs").text
    jobs = retrying(3)
    dashboard.forget()
    three = client.get("/jobs").text
    client.act("/api/jobs/delete", {"id": [job.id for job in jobs[:2]]})
    one = client.get("/retries").text

    assert (None, "0") == (count_of(none, "/retries"), count_of(part(none, "tabs"), "/retries"))
    assert ("3", "3") == (count_of(three, "/retries"), count_of(part(three, "tabs"), "/retries"))
    assert ("1", "1") == (count_of(one, "/retries"), count_of(part(one, "tabs"), "/retries"))


def test_retries_are_counted_up_to_a_hundred(client, dashboard, retrying):
    """More than that is not counted, and says so."""
    retrying(101)
    dashboard.forget()

    assert "100+" == count_of(client.get("/jobs").text, "/retries")


def test_the_overview_requests_its_navigation_with_its_tiles(client):
    """From its own address: both show one reading."""
    page = client.get("/").text

    assert nav_of(page) is None
    assert '<div data-live="nav" id="region-nav" data-with="now"' in page


@pytest.mark.parametrize("address", ["/queues", "/jobs?state=failed", "/failures/gone", "/nowhere"])
def test_every_page_says_where_its_navigation_is(client, address):
    """Also one that shows what is gone, which would not answer for itself."""
    found = nav_of(client.get(address).text)

    assert found is not None
    address = found[1].replace("&amp;", "&")
    answer = client.get(f"{address}{'&' if '?' in address else '?'}part=nav")
    assert 200 == answer.status
    assert "<nav" not in answer.text
    assert "/failures" in answer.text


def test_it_marks_the_section_it_is_asked_for(client):
    """The page's own."""
    text = client.get("/navigation?section=queues&part=nav").text

    assert re.search(r'href="/queues" aria-current="page"', text)
    assert 1 == text.count("aria-current")


def test_it_is_no_page(client):
    """There is nothing to see but within others."""
    assert 404 == client.get("/navigation?section=queues").status
    assert 404 == client.get("/navigation?part=head").status


def test_a_section_may_be_anything_that_a_plugin_names_but_not_endless(client):
    """It marks nothing then."""
    assert 200 == client.get("/navigation?section=%22%3E%3Cscript%3E&part=nav").status
    assert 400 == client.get(f"/navigation?section={'x' * 300}&part=nav").status


def test_the_palette_and_its_keys_list_every_section(client):
    """In the order of the navigation, with the same titles."""
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
