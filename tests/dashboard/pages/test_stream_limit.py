"""The number of streams that a dashboard keeps open, per visitor and in total."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, closing

import pytest

from firelock import ConfigurationError
from firelock_dashboard import LEVELS, Access, Dashboard
from tests.dashboard.flows import claim


@pytest.fixture
def job(fire):
    """A running job."""

    @fire.task(name="shop.answer")
    def answer() -> None:
        """Never run here."""

    answer.enqueue()
    return claim(fire)[0]


def named(request):
    return Access(LEVELS["read"], request.headers.get("x-who", ""))


@asynccontextmanager
async def opened(dashboard, path, who="ada", method="GET", peer="127.0.0.1"):
    """Open a stream and keep it open for the block; yield the status and headers of its response."""
    gone, begun = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            begun.set_result((message["status"], dict(message["headers"])))

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"x-who", who.encode())], "client": (peer, 50_000),
        "server": ("127.0.0.1", 80),
    }  # fmt: skip
    response = asyncio.create_task(dashboard(scope, receive, send))
    try:
        yield await asyncio.wait_for(begun, 30)
    finally:
        gone.set()
        await asyncio.wait_for(response, 30)


def statuses(dashboard, *requests, **options):
    """Return the statuses of streams that are open at the same time."""

    async def open_all():
        async with AsyncExitStack() as stack:
            return [
                (await stack.enter_async_context(opened(dashboard, path, who, **options)))[0]
                for path, who in requests
            ]

    return asyncio.run(open_all())


def test_visitor_may_open_a_quarter_of_the_streams(fire, job):
    """If a page exceeds the limit, the status of the response makes the page poll instead.

    A program gets a 503 with Retry-After.
    """
    job_stream = f"/jobs/{job.id}/stream"
    with closing(Dashboard(fire, auth=named, max_streams=8)) as dashboard:
        live = statuses(dashboard, *[("/live", "ada")] * 3, ("/live", "bob"))
        of_jobs = statuses(dashboard, *[(job_stream, "ada")] * 3, (job_stream, "bob"))
        mixed = statuses(dashboard, ("/live", "ada"), (job_stream, "ada"), ("/live", "ada"))

    assert live == [200, 200, 204, 200]
    assert of_jobs == [200, 200, 503, 200]
    assert mixed == [200, 200, 204]


def test_number_of_streams_is_limited_in_total(fire):
    with closing(Dashboard(fire, auth=named, max_streams=4)) as dashboard:
        assert (
            statuses(dashboard, *[("/live", f"user-{number}") for number in range(6)])
            == [200] * 4 + [204] * 2
        )


def test_ended_stream_allows_another_one(fire):
    with closing(Dashboard(fire, auth=named, max_streams=4)) as dashboard:
        for _ in range(3):
            assert statuses(dashboard, ("/live", "ada"), ("/live", "ada")) == [200, 204]


def test_head_request_does_not_count_as_a_stream(fire, job):
    with closing(Dashboard(fire, auth=named, max_streams=4)) as dashboard:
        for path in ("/live", f"/jobs/{job.id}/stream"):
            assert statuses(dashboard, *[(path, "ada")] * 3, method="HEAD")[-1] != 503
        assert statuses(dashboard, ("/live", "ada")) == [200]


def test_visitors_without_a_name_are_distinguished_by_address(fire):
    with closing(Dashboard(fire, auth=named, max_streams=4)) as dashboard:
        assert statuses(dashboard, ("/live", ""), ("/live", "")) == [200, 204]

        async def from_two_addresses():
            async with (
                opened(dashboard, "/live", "") as one,
                opened(dashboard, "/live", "", peer="10.0.0.9") as two,
            ):
                return one[0], two[0]

        assert asyncio.run(from_two_addresses()) == (200, 200)


def test_refused_stream_has_the_security_headers(fire, job):
    with closing(Dashboard(fire, auth=named, max_streams=0)) as dashboard:

        async def refused():
            async with opened(dashboard, f"/jobs/{job.id}/stream") as answer:
                return answer

        status, headers = asyncio.run(refused())

    assert status == 503
    assert headers[b"retry-after"] == b"10"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("wrong", [-1, 1.5, "8", True, None])
def test_invalid_stream_limit_is_refused(fire, wrong):
    with pytest.raises(ConfigurationError, match="max_streams="):
        Dashboard(fire, max_streams=wrong)
