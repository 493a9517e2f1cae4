"""A shop's background work, written for Celery: retries, a chain, a schedule, routes, progress, results.

    celery -A examples.celery_shop worker --beat       # with Celery and a broker
    python examples/celery_shop.py

`docs/coming-from-celery.md` migrates it to Firelock by changing its imports.
"""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery, chain, group, shared_task
from celery.schedules import crontab
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)

app = Celery(
    "celery_shop",
    broker=os.environ.get("SHOP_BROKER", "memory://"),
    backend=os.environ.get("SHOP_RESULTS", "cache+memory://"),
)
app.conf.update(
    task_acks_late=True,  # every task in this module can safely run again
    task_serializer="json",
    accept_content=["json"],
    timezone="Europe/Istanbul",
    task_routes={"celery_shop.send_*": {"queue": "mail"}},
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
app.conf.beat_schedule = {
    "report every night": {
        "task": "celery_shop.report",
        "schedule": crontab(hour=2, minute=30),
        "args": ("yesterday",),
    },
    "clean carts": {
        "task": "celery_shop.clean_carts",
        "schedule": timedelta(minutes=10),
        "options": {"expires": 300},
    },
}

STOCK = {"tea": 5, "cup": 1}
ORDERS: dict[int, dict[str, object]] = {}
SENT: list[str] = []


class OutOfStock(Exception):
    """The shop has no more pieces of the item."""


class ProviderDown(ConnectionError):
    """The payment provider does not respond."""


# ---- one order: a chain of three tasks ----------------------------------------------------------------


@app.task(name="celery_shop.reserve", throws=(OutOfStock,))
def reserve(order_id: int, item: str) -> int:
    """Reserve one piece, once per order; return the order's number."""
    if order_id in ORDERS:
        return order_id  # the task has run before
    if STOCK.get(item, 0) < 1:
        raise OutOfStock(f"no more {item}")
    STOCK[item] -= 1
    ORDERS[order_id] = {"item": item, "paid": False}
    return order_id


@app.task(
    bind=True,
    name="celery_shop.charge",
    max_retries=3,
    default_retry_delay=0,
)
def charge(self, order_id: int, fails: int = 0) -> int:
    """Charge the customer; the provider does not respond to the first `fails` attempts."""
    if ORDERS[order_id]["paid"]:
        return order_id
    try:
        if self.request.retries < fails:
            raise ProviderDown(f"try {self.request.retries + 1}")
    except ProviderDown as error:
        raise self.retry(exc=error, countdown=0) from error
    ORDERS[order_id]["paid"] = True
    return order_id


@app.task(name="celery_shop.send_receipt", autoretry_for=(ProviderDown,), retry_backoff=True, max_retries=5)
def send_receipt(order_id: int, to: str) -> str:
    """Send a mail; errors are retried automatically."""
    text = f"order {order_id} for {to}"
    if text not in SENT:
        SENT.append(text)
    return text


@app.task(name="celery_shop.apologise", ignore_result=True)
def apologise(order_id: int) -> None:
    """Notify the customer that the order has failed."""
    SENT.append(f"sorry about {order_id}")


def buy(order_id: int, item: str, to: str, *, fails: int = 0):
    """Start an order; return the result of its last task."""
    order = chain(reserve.s(order_id, item), charge.s(fails), send_receipt.s(to))
    return order.apply_async()


def buy_or_apologise(order_id: int, item: str):
    """Reserve an item; if none is left, notify the customer."""
    return reserve.apply_async((order_id, item), link_error=apologise.si(order_id))


# ---- other work ----------------------------------------------------------------------------------------


@shared_task(name="celery_shop.report")
def report(day: str) -> dict[str, int]:
    """Return the number of orders, and of paid orders."""
    log.info("report of %s", day)
    return {"orders": len(ORDERS), "paid": sum(bool(one["paid"]) for one in ORDERS.values())}


@shared_task(name="celery_shop.clean_carts", ignore_result=True)
def clean_carts() -> None:
    """Delete abandoned carts."""


@app.task(bind=True, name="celery_shop.import_prices")
def import_prices(self, prices: dict[str, float]) -> int:
    """Import new prices, one after another."""
    for done, _ in enumerate(prices, start=1):
        self.update_state(state="PROGRESS", meta={"current": done, "total": len(prices)})
    return len(prices)


@app.task(name="celery_shop.price")
def price(item: str, pieces: int) -> float:
    """Return the price of a number of pieces."""
    return {"tea": 4.5, "cup": 9.0}[item] * pieces


def total(basket: dict[str, int]) -> float:
    """Return the price of a basket; a task calculates each line."""
    lines = group(price.s(item, pieces) for item, pieces in basket.items())
    return sum(lines.apply_async().get(timeout=10))


if __name__ == "__main__":
    receipt = buy(1, "tea", "ann@example.com", fails=2)
    print(receipt.get(timeout=10))
