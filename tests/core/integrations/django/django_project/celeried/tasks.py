"""A shared task, as in a reusable Django app."""

from __future__ import annotations

from shop.models import Order

from firelock.compat.celery import shared_task


@shared_task(name="celeried.buyer_of", acks_late=True)
def buyer_of(order_id: int) -> str:
    """Return the buyer of an order."""
    return Order.objects.get(pk=order_id).buyer
