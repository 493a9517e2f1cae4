"""The app that `firelock demo` runs: a small shop. Read it as an example of tasks."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from firelock.app import Firelock
from firelock.context import JobContext

fire = Firelock("memory://")  # the demo replaces this storage

approval = fire.signal("approval", bool)


class CardDeclined(Exception):
    """The bank declined the card this time."""


@fire.task(name="shop.send_receipt", queue="mail", tags=["order:{order}"])
async def send_receipt(order: int) -> str:
    """Send a receipt. Because this is a coroutine, one thread can run hundreds of these jobs."""
    await asyncio.sleep(0.05)
    return f"receipt of order {order} sent"


@fire.task(name="shop.resize_image", queue="images")
def resize_image(number: int, seconds: float) -> str:
    """Resize an image. Because this is a plain function, it runs in a thread."""
    time.sleep(seconds)
    return f"image-{number:02}.webp"


@fire.task(name="shop.build_report")
def build_report(job: JobContext, pages: int, seconds: float) -> int:
    """Build a report: long work that reports its progress and stops when it is cancelled."""
    for page in range(1, pages + 1):
        job.raise_if_cancelled()
        time.sleep(seconds / pages)
        job.progress(page, pages, f"page {page}")
        if page in {1, pages}:
            job.log(f"page {page} of {pages} is done")
    return pages


@fire.task(name="shop.mail_report", queue="mail")
async def mail_report(job: JobContext, address: str) -> None:
    """Send the report. As a continuation, it runs after the report has succeeded."""
    job.log(f"report sent to {address}")


@fire.task(name="shop.remind_customer", queue="mail", tags=["order:{order}"])
async def remind_customer(job: JobContext, order: int) -> None:
    """Remind a customer. This is a delayed job, which becomes due some seconds after its creation."""
    job.log(f"order {order} was due at {job.due_at:%H:%M:%S} UTC")


@fire.task(name="shop.count_stock")
def count_stock(job: JobContext) -> int:
    """Count the stock. As a recurring job, each run has the due time for which it was created."""
    return job.due_at.second


@fire.task(name="shop.charge_card", queue="critical", priority=10, tags=["order:{order}"])
def charge_card(job: JobContext, order: int, declines: int) -> str:
    """Charge a card. The job fails `declines` times, then succeeds; the retries are automatic."""
    time.sleep(0.1)
    if job.attempt <= declines:
        raise CardDeclined(f"order {order}: the bank does not respond")
    job.log(f"order {order} charged in attempt {job.attempt}")
    return "paid"


@fire.task(name="shop.import_prices")
def import_prices(path: str) -> int:
    """Import prices. The job fails permanently, because no retry can fix a broken file."""
    raise ValueError(f"{path}: line 3 has no price")


@fire.task(name="shop.publish_catalogue")
def publish_catalogue(images: list[str]) -> int:
    """Publish the images. This member of a batch uses the results of other members and runs after them."""
    return len(images)


@fire.task(name="shop.refund_order", tags=["order:{order}"])
def refund_order(job: JobContext, order: int, amount: float) -> str:
    """Refund an order, in steps whose results are stored; the wait for a person uses no worker."""
    payment = job.step("find payment", _payment_of, order)
    if not job.receive(approval, timeout=timedelta(days=7)):
        return f"order {order} is not refunded"
    job.step("refund", _refund, payment, amount, key=job.key("refund"))
    return job.run("receipt", send_receipt, order)


@fire.task(name="shop.approve_refund")
def approve_refund(job_id: str) -> bool:
    """Send the owner's approval, if the demo has no browser in which a person can do so."""
    return approval.send(job_id, True, author="owner")


def _payment_of(order: int) -> str:
    return f"pay_{order}"


def _refund(payment: str, amount: float, *, key: str) -> str:
    return f"{amount:.2f} of {payment} paid back ({key})"
