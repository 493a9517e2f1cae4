"""A shop in a container. FIRELOCK_STORAGE is its storage, and /metrics shows its metrics."""

from __future__ import annotations

from firelock import Firelock, Retry
from firelock.integrations.prometheus import Prometheus

fire = Firelock(plugins=[Prometheus()])


@fire.task(queue="mail", retry=Retry(attempts=5))
def send_receipt(order_id: int) -> str:
    """Send the receipt of an order to its buyer."""
    return f"receipt of order {order_id} sent"


@fire.recurring("hourly-report", "0 * * * *")
@fire.task
def report() -> str:
    """Report the sales."""
    return "reported"
