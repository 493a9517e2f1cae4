"""A shop in a container: its storage is named by FIRELOCK_STORAGE, its numbers stand on /metrics."""

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
    """Report what was sold."""
    return "reported"
