"""Pages, files, links, actions and redirects in every framework, at every mount, with ASGI and WSGI."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from firelock import Firelock
from tests.dashboard.hosts import HOSTS, PLACES, visitor

MATRIX = [
    pytest.param(*host, prefix, place, id=f"{host[0]}-{host[1]}-{place.outside or 'root'}{prefix or '-root'}"
                 f"{'-stripped' if place.is_stripped else ''}")
    for host in HOSTS
    for prefix, place in PLACES
    if not (host[0] == "bare" and prefix)
]  # fmt: skip


@pytest.fixture
def fire():
    with closing(Firelock("memory://")) as fire:

        @fire.task(name="send", queue="mail")
        def send(number: int) -> None: ...

        send.enqueue(1)
        yield fire


@pytest.fixture
def mounted(request, fire):
    framework, kind, prefix, place = request.param
    with closing(visitor(framework, kind, fire, prefix, place)) as one:
        one.root = place.outside + prefix
        one.kind = kind
        yield one


def matrix(test):
    """Run the test for every mount."""
    cases = [pytest.param(case.values, id=case.id) for case in MATRIX]
    return pytest.mark.parametrize("mounted", cases, indirect=True)(test)


def links(html):
    return re.findall(r'(?:href|src|action|data-root|data-from)="(/[^"]*)"', html)


@matrix
def test_every_url_on_a_page_exists_below_the_mount(mounted):
    """Every URL on a page is below the mount that the browser uses, and the page's files exist."""
    page = mounted.get(f"{mounted.root}/queues")

    assert page.status == 200
    assert "mail" in page.text
    found = links(page.text)
    assert found
    assert [] == [link for link in found if not (link + "/").startswith(f"{mounted.root}/")]
    files = {link for link in found if "/files/" in link}
    assert len(files) >= 4
    assert {200} == {mounted.get(file).status for file in files}


@matrix
def test_action_redirects_back_with_a_message(mounted, fire):
    """A form performs its action and redirects to the page it came from, which shows a message."""
    here = f"{mounted.root}/queues"

    answer = mounted.post(f"{mounted.root}/queues/pause", {"queue": "mail", "back": here})

    assert 303 == answer.status
    assert here == answer.location
    assert fire.queues.list()[0].is_paused
    assert "banner good" in mounted.get(here).text


@matrix
def test_unsafe_request_from_another_site_is_refused(mounted, fire):
    """In every framework, a request from another site has no effect."""
    answer = mounted.post(
        f"{mounted.root}/queues/pause", {"queue": "mail"}, headers={"sec-fetch-site": "cross-site"}
    )

    assert 403 == answer.status
    assert not fire.queues.list()[0].is_paused


@matrix
def test_mount_without_a_slash_redirects(mounted):
    """`/jobs` redirects to `/jobs/`; the target is an absolute path that includes the prefix of a proxy."""
    if not mounted.root:
        pytest.skip("a mount at the root has no URL without a slash")
    if mounted.place.is_stripped:
        pytest.skip("the framework's own redirect ignores the prefix that the proxy removes")

    answer = mounted.get(mounted.root)

    assert answer.status in {301, 307, 308}
    assert re.sub(r"^https?://localhost", "", answer.location) == f"{mounted.root}/"


@matrix
def test_stream_is_offered_only_with_asgi(mounted):
    """With ASGI, the stream notifies pages of changes.

    Otherwise, its response states that there is no stream, and pages poll instead.
    """
    answer = mounted.get(f"{mounted.root}/live", only_start=True)

    if mounted.kind == "asgi" and answer.header("content-type", "").startswith("text/event-stream"):
        assert 200 == answer.status
    else:
        assert 204 == answer.status


@matrix
def test_unknown_page_is_the_dashboards_404(mounted):
    """The dashboard responds with its own 404 page, whose links are below the mount."""
    answer = mounted.get(f"{mounted.root}/nowhere/at-all")

    assert 404 == answer.status
    assert f'href="{mounted.root}/"' in answer.text


def test_http_1_0_request_is_not_local(fire):
    """Django does not provide the HTTP version of an ASGI request, but the dashboard still detects it."""
    with closing(visitor("django", "asgi", fire, "/jobs", PLACES[0][1], auth=None)) as one:
        assert 401 == one.get("/jobs/queues").status
        assert 403 == one.get("/jobs/queues", http_version="1.0").status


def test_two_dashboards_in_one_process_share_nothing(fire):
    """Each dashboard shows its own app under its own URL."""
    with closing(Firelock("memory://")) as other:
        first = visitor("starlette", "asgi", fire, "/a", PLACES[0][1])
        second = visitor("starlette", "asgi", other, "/b", PLACES[0][1], title="Other")

        with closing(first), closing(second):
            assert "mail" in first.get("/a/queues").text
            page = second.get("/b/queues").text
            assert "mail" not in page
            assert "Other" in page
