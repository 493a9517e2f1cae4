"""FastAPI, Starlette and Litestar: the lifespan, an embedded server, and metadata from requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from litestar import Litestar, get
from litestar.di import NamedDependency, Provide
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from firelock import ConfigurationError, Firelock, Settings, StorageError, current_job
from firelock.integrations.fastapi import (
    RequestIdMiddleware,
    RequestMeta,
    dependency,
    lifespan,
    request_id,
)
from firelock.testing import Tester
from tests.core.fakes import unmeasured

tenant = ContextVar("tenant", default=None)


class Shop:
    """An app with a task that returns its thread and metadata."""

    def __init__(self, url, *plugins):
        self.fire = fire = Firelock(
            url, plugins=list(plugins), settings=Settings(poll=0.05, grace=5, heartbeat=0.5)
        )

        @fire.task(name="report")
        async def report() -> dict[str, str]:
            return {"thread": threading.current_thread().name, **current_job().meta}

        @fire.task(name="parent")
        def parent() -> str:
            return report.enqueue().id

        self.report, self.parent = report, parent


@pytest.fixture
def shop(tmp_path):
    return Shop(f"sqlite:///{tmp_path}/jobs.db", RequestMeta(tenant=tenant))


def web_of(shop, inner=None, **options):
    """Return a FastAPI application whose pages enqueue a job and return its metadata or result."""
    web = FastAPI(lifespan=lifespan(shop.fire, inner, **options))
    web.add_middleware(RequestIdMiddleware)
    jobs = dependency(shop.fire)

    @web.get("/")
    async def home(app: Firelock = Depends(jobs)):  # noqa: B008 - as a string it could not be resolved
        job = await shop.report.aenqueue()
        return {"stored": app.jobs.get(job.id).meta, "id": request_id.get()}

    @web.get("/ran")
    async def ran():
        return await (await shop.report.aenqueue()).aresult(timeout=20)

    @web.get("/state")
    async def state(request: Request):
        return {"is_app": request.state.firelock is shop.fire, "own": getattr(request.state, "own", None)}

    return web


# ---- lifespan --------------------------------------------------------------------------------------------


def test_app_opens_and_closes_with_the_application(shop):
    """The app opens again if the application is started again."""
    web = web_of(shop)
    for _ in range(2):
        with TestClient(web) as client:
            assert client.get("/").json()["stored"]
            assert {"is_app": True, "own": None} == client.get("/state").json()

    with pytest.raises(StorageError, match="closed"):
        shop.report.enqueue()
    with shop.fire:
        assert 2 == shop.fire.jobs.counts().enqueued


def test_custom_lifespan_encloses_the_server(shop):
    """Jobs can use the resources that the custom lifespan opens.

    The lifespan starts before the server, ends after it, and its state is kept.
    """
    notes = []

    @asynccontextmanager
    async def own(app):
        notes.append(("own begins", len(shop.fire.servers.list())))
        yield {"own": "state"}
        notes.append(("own ends", [server.is_alive for server in shop.fire.servers.list()]))

    with TestClient(web_of(shop, own, server=True, workers=1, async_workers=2)) as client:
        assert "firelock-loop" == client.get("/ran").json()["thread"]
        assert {"is_app": True, "own": "state"} == client.get("/state").json()

    assert [("own begins", 0), ("own ends", [False])] == notes


def test_host_loop_runs_jobs_on_the_application_s_event_loop(shop):
    """Jobs run in the same thread that handles requests."""
    web = web_of(shop, server=True, workers=1, async_workers=2, host_loop=True)

    @web.get("/thread")
    async def thread():
        return threading.current_thread().name

    with TestClient(web) as client:
        assert client.get("/thread").json() == client.get("/ran").json()["thread"]


def test_server_options_without_a_server_raise(shop):
    """The error contains the fix: add server=True."""
    with pytest.raises(ConfigurationError, match="without a server; add server=True"):
        lifespan(shop.fire, workers=2)
    with pytest.raises(ConfigurationError, match="without a server; add server=True"):
        lifespan(shop.fire, host_loop=True)


def test_dependency_can_be_overridden_in_a_test(shop, tmp_path):
    """A test can use the framework's own overrides."""
    jobs, other = dependency(shop.fire), Firelock("memory://")
    web = FastAPI()

    @web.get("/")
    async def home(app: Firelock = Depends(jobs)):  # noqa: B008 - as a string it could not be resolved
        return str(app.storage.url)

    web.dependency_overrides[jobs] = dependency(other)

    assert "memory://" == TestClient(web).get("/").json()
    assert str(tmp_path) in asyncio.run(jobs()).storage.url


def test_tester_runs_the_jobs_of_an_application(shop):
    """The storage stays open when the application stops, so the test can check the jobs."""
    web = web_of(shop)
    for _ in range(2):
        with Tester(shop.fire) as tester, TestClient(web) as client:
            client.get("/")
            assert 1 == tester.drain(raises=True).succeeded


# ---- metadata from requests ------------------------------------------------------------------------------


def test_jobs_store_the_request_id(shop):
    """The id comes from the request.

    If the request has none, a new id is created. The response contains the id.
    """
    with TestClient(web_of(shop)) as client:
        given = client.get("/", headers={"X-Request-ID": "abc-1"})
        made = client.get("/")
        hostile = client.get("/", headers={"X-Request-ID": "a b/" * 50})

    assert ({"request_id": "abc-1"}, "abc-1") == (given.json()["stored"], given.headers["x-request-id"])
    for answer in (made, hostile):
        id_ = answer.headers["x-request-id"]
        assert (32, {"request_id": id_}, id_) == (len(id_), answer.json()["stored"], answer.json()["id"])
    assert request_id.get() is None


def test_jobs_inherit_the_metadata_of_the_running_job(shop):
    """A worker does not have a request. Metadata of the call takes precedence."""
    with Tester(shop.fire) as tester:
        token, id_ = tenant.set("acme"), request_id.set("abc-1")
        parent = shop.parent.enqueue()
        own = shop.report.using(meta={"tenant": "other"}).enqueue()
        tenant.reset(token)
        request_id.reset(id_)
        tester.drain(raises=True)

        child = shop.fire.jobs.get(parent.result())
        assert {"request_id": "abc-1", "tenant": "acme"} == dict(child.meta)
        assert {"request_id": "abc-1", "tenant": "other"} == dict(own.meta)
        assert {} == dict(shop.report.enqueue().meta)


def test_metadata_source_is_called_when_a_job_is_enqueued():
    """A source can be a context variable or a function. Other values raise an error."""
    fire = Firelock("memory://", plugins=[RequestMeta(shard=lambda: 7, nothing=lambda: None)])

    job = (noop := fire.task(name="noop")(lambda: None)).enqueue()
    with fire.batch("two") as batch:
        member = batch.add(noop)

    assert [{"shard": "7"}] * 3 == [dict(each.meta) for each in (job, batch, member)]
    with pytest.raises(ConfigurationError, match="must be a context variable or"):
        RequestMeta(tenant="acme")


def test_request_id_header_can_be_renamed_or_disabled():
    """If the header is disabled, an id is created but not added to the response."""
    seen = []

    async def page(request):
        seen.append(request_id.get())
        return PlainTextResponse("ok", headers={"x-trace": "the page's own"})

    for header in ("X-Trace", None):
        web = Starlette(routes=[Route("/", page)])
        answer = TestClient(RequestIdMiddleware(web, header=header)).get("/", headers={"X-Trace": "abc-1"})
        assert ("abc-1" if header else "the page's own") == answer.headers["x-trace"]

    assert ("abc-1", 32) == (seen[0], len(seen[1]))


def test_websocket_has_a_request_id_but_the_lifespan_does_not(shop):
    """Other ASGI scopes are passed through unchanged."""
    web = web_of(shop)

    @web.websocket("/socket")
    async def socket(connection: WebSocket):
        await connection.accept()
        await connection.send_text(request_id.get())
        await connection.close()

    with (
        TestClient(web) as client,
        client.websocket_connect("/socket", headers={"X-Request-ID": "a-1"}) as one,
    ):
        assert "a-1" == one.receive_text()


# ---- Starlette and Litestar ------------------------------------------------------------------------------


def test_lifespan_and_middleware_work_with_starlette(shop):
    """The lifespan and the middleware use only plain ASGI."""

    async def page(request):
        await shop.report.aenqueue()
        return PlainTextResponse(str(request.state.firelock is shop.fire))

    web = Starlette(routes=[Route("/", page)], lifespan=lifespan(shop.fire))
    with TestClient(RequestIdMiddleware(web)) as client:
        answer = client.get("/", headers={"X-Request-ID": "abc-1"})

    assert ("True", "abc-1") == (answer.text, answer.headers["x-request-id"])


@get("/")
async def litestar_page(jobs: NamedDependency[Firelock]) -> dict[str, str]:
    """Enqueue a job with the injected app, and return its metadata."""
    job = await jobs.task_named("report").aenqueue()
    return {**job.meta, **await job.aresult(timeout=20)}


def test_lifespan_dependency_and_middleware_work_with_litestar(shop):
    """Litestar accepts a list of lifespans."""
    web = Litestar(
        [litestar_page],
        lifespan=[lifespan(shop.fire, server=True, workers=1, async_workers=1)],
        dependencies={"jobs": Provide(dependency(shop.fire))},
        middleware=[RequestIdMiddleware],
    )
    with LitestarClient(web) as client:
        answer = client.get("/", headers={"X-Request-ID": "abc-1"})

    assert {"thread": "firelock-loop", "request_id": "abc-1"} == answer.json()
    assert "abc-1" == answer.headers["x-request-id"]


def test_import_does_not_import_any_framework():
    """Users of one framework do not need the others."""
    program = "import sys, firelock.integrations.fastapi; print(*sorted(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    ).stdout

    assert set() == set(loaded.split()) & {"fastapi", "starlette", "litestar", "flask"}
