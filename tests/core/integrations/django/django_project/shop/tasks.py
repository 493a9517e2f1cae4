"""The tasks of the shop."""

from __future__ import annotations

import logging

from asgiref.sync import sync_to_async
from django.db import connection
from django.db.models import F

from firelock import Retry
from firelock.integrations.django import task
from shop.models import Order


@task(queue="mail", retry=Retry.never(), tags=["order:{order_id}"])
def send_receipt(order_id: int) -> str:
    """Send the receipt of an order to its buyer."""
    logging.getLogger("django.shop").info("A receipt leaves the shop.")
    Order.objects.filter(pk=order_id).update(receipts=F("receipts") + 1)
    return Order.objects.get(pk=order_id).buyer


@task(retry=Retry.never(), tags=["order:{order_id}"])
async def asend_receipt(order_id: int) -> str:
    """Do the same with Django's async queries."""
    await Order.objects.filter(pk=order_id).aupdate(receipts=F("receipts") + 1)
    return (await Order.objects.aget(pk=order_id)).buyer


@task(executor="process", retry=Retry.never())
def draw_catalogue() -> int:
    """Count the orders in a separate process."""
    return Order.objects.count()


def backend():
    """Return the id of the server process for this connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


@task(retry=Retry.never())
def in_thread() -> int:
    """Return the connection id in a thread."""
    return backend()


@task(retry=Retry.never())
async def in_coroutine() -> int:
    """Return the connection id in a coroutine."""
    return await sync_to_async(backend)()


@task(executor="process", retry=Retry.never())
def in_process() -> int:
    """Return the connection id in a separate process."""
    return backend()
