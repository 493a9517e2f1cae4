"""The app that `firelock demo` runs: a small shop. Read it as an example of what tasks look like."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from firelock.app import Firelock
from firelock.context import JobContext

fire = Firelock("memory://")  # the demo names another

approval = fire.signal("approval", bool)


class CardDeclined(Exception):
    """The bank said no this time."""


@fire.task(name="shop.send_receipt", queue="mail", tags=["order:{order}"])
async def send_receipt(order: int) -> str:
    """A native coroutine: hundreds of them run in one thread."""
    await asyncio.sleep(0.05)
    return f"receipt of order {order} sent"


@fire.task(name="shop.resize_image", queue="images")
def resize_image(number: int, seconds: float) -> str:
    """A plain function: it runs in a worker's thread."""
    time.sleep(seconds)
    return f"image-{number:02}.webp"


@fire.task(name="shop.build_report")
def build_report(job: JobContext, pages: int, seconds: float) -> int:
    """Long work that says how far it is and stops when it is told to."""
    for page in range(1, pages + 1):
        job.raise_if_cancelled()
        time.sleep(seconds / pages)
        job.progress(page, pages, f"page {page}")
        if page in {1, pages}:
            job.log(f"page {page} of {pages} is set")
    return pages


@fire.task(name="shop.mail_report", queue="mail")
async def mail_report(job: JobContext, address: str) -> None:
    """The continuation: it runs once the report is there."""
    job.log(f"report sent to {address}")


@fire.task(name="shop.remind_customer", queue="mail", tags=["order:{order}"])
async def remind_customer(job: JobContext, order: int) -> None:
    """Delayed: it is due some seconds after its creation."""
    job.log(f"order {order} was due at {job.due_at:%H:%M:%S} UTC")


@fire.task(name="shop.count_stock")
def count_stock(job: JobContext) -> int:
    """Recurring: each run knows the instant it was made for."""
    return job.due_at.second


@fire.task(name="shop.charge_card", queue="critical", priority=10, tags=["order:{order}"])
def charge_card(job: JobContext, order: int, declines: int) -> str:
    """Fails so many times, then succeeds: retries are what a job system is for."""
    time.sleep(0.1)
    if job.attempt <= declines:
        raise CardDeclined(f"order {order}: the bank does not answer")
    job.log(f"order {order} charged in run {job.attempt}")
    return "paid"


@fire.task(name="shop.import_prices")
def import_prices(path: str) -> int:
    """Fails for good: no retry mends a broken file."""
    raise ValueError(f"{path}: line 3 has no price")


@fire.task(name="shop.publish_catalogue")
def publish_catalogue(images: list[str]) -> int:
    """A member of a batch that takes the results of others: it runs when all of them have succeeded."""
    return len(images)


@fire.task(name="shop.refund_order", tags=["order:{order}"])
def refund_order(job: JobContext, order: int, amount: float) -> str:
    """Steps that are remembered, and a wait for a person that holds no worker."""
    payment = job.step("find payment", _payment_of, order)
    if not job.receive(approval, timeout=timedelta(days=7)):
        return f"order {order} is not refunded"
    job.step("refund", _refund, payment, amount, key=job.key("refund"))
    return job.run("receipt", send_receipt, order)


@fire.task(name="shop.approve_refund")
def approve_refund(job_id: str) -> bool:
    """The owner's answer, where the demo has no browser to ask a person in."""
    return approval.send(job_id, True, author="owner")


def _payment_of(order: int) -> str:
    return f"pay_{order}"


def _refund(payment: str, amount: float, *, key: str) -> str:
    return f"{amount:.2f} of {payment} paid back ({key})"
