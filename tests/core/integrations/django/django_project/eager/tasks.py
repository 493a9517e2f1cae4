"""A task with an option of another library."""

from __future__ import annotations

from firelock.integrations.django import task


@task(max_retries=3)
def charge(order_id: int) -> None:
    """Charge an order."""
