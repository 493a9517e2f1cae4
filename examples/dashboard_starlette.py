"""A shop on Starlette with two dashboards: one to operate, one for everybody in the house to look at.

FIRELOCK_STORAGE=sqlite:///shop.db uvicorn examples.dashboard_starlette:app
firelock dashboard link --storage sqlite:///shop.db --at http://127.0.0.1:8000/jobs
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from firelock import Firelock
from firelock_dashboard import Access, Dashboard

fire = Firelock(os.environ.get("FIRELOCK_STORAGE", "sqlite:///shop.db"))


@fire.task(queue="mail")
def send_receipt(order_id: int) -> str:
    """Send the receipt of an order to its buyer."""
    return f"receipt of order {order_id} sent"


async def buy(request: Request) -> JSONResponse:
    """The order is taken at once; its receipt is a job."""
    job = await send_receipt.aenqueue(int(request.path_params["order_id"]))
    return JSONResponse({"job": job.id})


async def everybody(request: Request) -> Access | str:
    """Whoever comes through the house's own proxy may look; it tells who that is."""
    return "read" if request.headers.get("x-house-user") else "none"


app = Starlette(
    routes=[
        Route("/orders/{order_id:int}", buy, methods=["POST"]),
        Mount("/jobs", Dashboard(fire)),  # this machine, by a link
        Mount("/board", Dashboard(fire, auth=everybody, read_only=True, title="What runs")),
    ]
)
