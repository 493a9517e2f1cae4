"""A shop on FastAPI with its dashboard at /jobs, which only users with the operators' token may open.

    FIRELOCK_STORAGE=sqlite:///shop.db uvicorn examples.dashboard_fastapi:app
    FIRELOCK_STORAGE=sqlite:///shop.db firelock server examples.dashboard_fastapi:fire

The page requires a name and a password; programs send the token to /jobs/api. Without `auth=`, users on this
machine could log in only with a one-time link.
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from firelock import Firelock
from firelock_dashboard import Dashboard, any_of, basic_auth, bearer_tokens

fire = Firelock(os.environ.get("FIRELOCK_STORAGE", "sqlite:///shop.db"))
password = os.environ.get("DASHBOARD_PASSWORD", "only-for-this-example")
auth = any_of(basic_auth({"operator": password}, level="admin"), bearer_tokens({password: "operate"}))

app = FastAPI()
app.mount("/jobs", Dashboard(fire, auth=auth, title="Shop jobs", back_url="/"))


@fire.task(queue="mail", tags=["order:{order_id}"])
def send_receipt(order_id: int, locale: str = "en") -> str:
    """Send the receipt of an order to its buyer."""
    return f"receipt of order {order_id} sent ({locale})"


@app.post("/orders/{order_id}")
async def buy(order_id: int) -> dict[str, str]:
    """Accept the order immediately, and send its receipt as a job."""
    job = await send_receipt.aenqueue(order_id)
    return {"job": job.id}
