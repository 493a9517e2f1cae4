"""Code as users of web frameworks write it: mypy --strict and pyright must accept every line.

`make types` reads this file; it is never run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, FastAPI
from flask import Flask
from litestar import Litestar
from litestar.di import Provide
from starlette.applications import Starlette
from starlette.middleware import Middleware

from firelock import Firelock
from firelock.integrations.fastapi import RequestIdMiddleware, RequestMeta, dependency, lifespan, request_id
from firelock.integrations.flask import FlaskJobs

current_tenant: ContextVar[str | None] = ContextVar("current_tenant", default=None)
flask_jobs = FlaskJobs("shop:create_app", tenant=lambda: "acme")
fire = Firelock("memory://", plugins=[RequestMeta(tenant=current_tenant), flask_jobs])
jobs = dependency(fire)


@asynccontextmanager
async def own(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    """A lifespan with a state."""
    yield {"greeting": "hello"}


app = FastAPI(lifespan=lifespan(fire, own, server=True, workers=4, host_loop=True))
app.add_middleware(RequestIdMiddleware, header=None)


@app.get("/")
async def home(fire: Annotated[Firelock, Depends(jobs)]) -> str | None:
    """A handler with an injected app."""
    return request_id.get() or fire.storage.url


starlette_app = Starlette(lifespan=lifespan(fire), middleware=[Middleware(RequestIdMiddleware)])
litestar_app = Litestar(
    [], lifespan=[lifespan(fire)], dependencies={"jobs": Provide(jobs)}, middleware=[RequestIdMiddleware]
)
flask_jobs.init_app(Flask("shop"), fire)
