"""A shop on Starlette with two dashboards: one for operators, and a read-only one for all employees.

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
    """Accept the order immediately, and send its receipt as a job."""
    job = await send_receipt.aenqueue(int(request.path_params["order_id"]))
    return JSONResponse({"job": job.id})


async def everybody(request: Request) -> Access | str:
    """Allow users who come through the company's own proxy to view jobs; the proxy sends the user's name."""
    return "read" if request.headers.get("x-house-user") else "none"


app = Starlette(
    routes=[
        Route("/orders/{order_id:int}", buy, methods=["POST"]),
        Mount("/jobs", Dashboard(fire)),  # only on this machine, with a link
        Mount("/board", Dashboard(fire, auth=everybody, read_only=True, title="What runs")),
    ]
)
