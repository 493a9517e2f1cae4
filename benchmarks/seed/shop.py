"""The fictional shop as an app that can run its jobs: eight queues and 40 tasks.

Each task simulates a short piece of plausible work, and sometimes fails. `firelock server
benchmarks.seed.shop:fire` runs the waiting jobs; the storage is FIRELOCK_STORAGE, by default this process's
memory.
"""

# The arguments of the tasks are only displayed; work and failures are random.
# ruff: noqa: ARG001

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import date
from decimal import Decimal
from typing import Literal

from firelock.app import Firelock
from firelock.context import JobContext
from firelock.retry import Retry

__all__ = ["fire"]

Currency = Literal["EUR", "USD", "GBP", "TRY"]
Region = Literal["eu", "us", "tr"]

fire = Firelock(os.environ.get("FIRELOCK_STORAGE") or "memory://")


class CardDeclined(Exception):
    """The bank declined the card; a retry would not help."""


class GatewayDown(ConnectionError):
    """The other system does not respond."""


# Errors that a retry does not fix. Classes of other packages are given by name, so they are not imported.
_LASTING = (
    CardDeclined, "shop.billing.CardDeclined", "shop.billing.PlanWithdrawn", "shop.crm.CrmError",
    "shop.imports.QuotaUsedUp", "shop.orders.OutOfStock", "aiosmtplib.errors.SMTPRecipientsRefused",
    "jinja2.exceptions.UndefinedError", "sqlalchemy.exc.IntegrityError", "PIL.UnidentifiedImageError",
    "ValueError", "KeyError",
)  # fmt: skip
_PATIENT = Retry(except_on=_LASTING)  # ten retries
_STUBBORN = Retry.exponential(15, factor=4, attempts=6, except_on=_LASTING)
_GATEWAY = Retry.exponential(20, factor=3, attempts=2, except_on=_LASTING)
_THRICE = Retry.exponential(30, factor=4, attempts=3, except_on=_LASTING)
_TWICE = Retry.fixed(60, attempts=2, except_on=_LASTING)
_NEVER = Retry.never()
_DROPPED = Retry.fixed(30, attempts=2, on_exceeded="delete", except_on=_LASTING)


def _work(seconds: float) -> None:
    time.sleep(seconds * random.uniform(0.5, 1.6))


async def _call(seconds: float, *, risk: float = 0.01, to: str = "api.partner.example") -> None:
    """Simulate a call to another system, which fails with this probability."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.6))
    if random.random() < risk:
        message = f"{to} did not respond within {random.randint(5, 30)} s"
        raise GatewayDown(message)


def _steps(job: JobContext, seconds: float, steps: int, noun: str) -> None:
    """Simulate long work in steps, and report each step; stop if the job is cancelled."""
    job.log(f"starting with {steps} {noun}")
    for step in range(1, steps + 1):
        job.raise_if_cancelled()
        _work(seconds / steps)
        job.progress(step, steps, f"{noun} {step} of {steps}")
    job.log(f"{steps} {noun} done")


# ---- critical --------------------------------------------------------------------------------------------


@fire.task(
    name="shop.orders.reserve_stock", queue="critical", priority=10, retry=_PATIENT, tags=["order:{order_id}"]
)
def reserve_stock(order_id: int, sku: str, quantity: int) -> dict[str, int]:
    """Reserve the goods of an order."""
    _work(0.05)
    return {"order": order_id, "reserved": quantity}


@fire.task(
    name="shop.orders.confirm_order", queue="critical", priority=10, retry=_PATIENT, tags=["order:{order_id}"]
)
async def confirm_order(order_id: int, user_id: int) -> str:
    """Confirm an order to the shop's website."""
    await _call(0.1)
    return f"order {order_id} confirmed"


@fire.task(name="shop.accounts.send_login_code", queue="critical", retry=_NEVER, tags=["user:{user_id}"])
async def send_login_code(user_id: int, channel: Literal["sms", "app"]) -> None:
    """Send a code that expires after a minute, so the job is never retried."""
    await _call(0.2, to="sms.example.net")


@fire.task(
    name="shop.fraud.score_order", queue="critical", priority=5, retry=_PATIENT, tags=["order:{order_id}"]
)
def score_order(order_id: int, amount: Decimal, country: str) -> float:
    """Return the probability that an order is fraudulent, from 0 to 1."""
    _work(0.15)
    return round(random.random() ** 4, 3)


# ---- default ---------------------------------------------------------------------------------------------


@fire.task(name="shop.catalog.reindex_product", retry=_STUBBORN, tags=["{locale}"])
def reindex_product(product_id: int, locale: str) -> int:
    """Write a product to the search index; return the number of documents."""
    _work(0.08)
    return random.randint(1, 6)


@fire.task(name="shop.catalog.update_prices", retry=_PATIENT)
def update_prices(category: str, percent: float) -> int:
    """Raise or lower the prices of a category; return the number of changed prices."""
    _work(0.4)
    return random.randint(20, 400)


@fire.task(name="shop.carts.expire_carts", retry=_TWICE)
def expire_carts(older_than_hours: int) -> int:
    """Delete abandoned carts; return their number."""
    _work(0.5)
    return random.randint(0, 90)


@fire.task(name="shop.loyalty.add_points", retry=_STUBBORN, tags=["user:{user_id}"])
def add_points(user_id: int, points: int) -> int:
    """Add points to a customer's account; return the new balance."""
    _work(0.03)
    return points * 7


@fire.task(name="shop.shipping.create_label", retry=_THRICE, tags=["order:{order_id}", "{carrier}"])
async def create_label(order_id: int, carrier: Literal["dhl", "ups", "ptt"]) -> str:
    """Request a parcel label from the carrier; return the parcel's number."""
    await _call(0.6, to="labels.carrier.example")
    return f"{carrier.upper()}{order_id:09}"


@fire.task(name="shop.shipping.track_parcels", retry=_TWICE, tags=["{carrier}"])
async def track_parcels(carrier: Literal["dhl", "ups", "ptt"]) -> int:
    """Update the locations of all parcels of a carrier; return the number of parcels that moved."""
    await _call(1.2, to="track.carrier.example")
    return random.randint(3, 60)


@fire.task(name="shop.crm.sync_customer", retry=_STUBBORN, tags=["user:{user_id}"])
async def sync_customer(user_id: int) -> None:
    """Update a customer's record in the CRM."""
    await _call(0.3, to="crm.example.net")


@fire.task(name="shop.crm.merge_duplicates", retry=_TWICE)
def merge_duplicates(region: Region) -> int:
    """Merge duplicate customers; return their number."""
    _work(2.0)
    return random.randint(0, 12)


# ---- mail ------------------------------------------------------------------------------------------------


@fire.task(name="shop.mail.send_receipt", queue="mail", retry=_PATIENT, tags=["order:{order_id}"])
async def send_receipt(order_id: int, email: str, locale: str) -> str:
    """Send the receipt of an order by email."""
    await _call(0.15, to="smtp.example.net")
    return f"receipt of order {order_id} sent"


@fire.task(name="shop.mail.send_shipped", queue="mail", retry=_PATIENT, tags=["order:{order_id}"])
async def send_shipped(order_id: int, email: str, locale: str) -> str:
    """Notify a customer by email that an order has been shipped."""
    await _call(0.15, to="smtp.example.net")
    return f"order {order_id} announced"


@fire.task(name="shop.mail.send_welcome", queue="mail", retry=_PATIENT, tags=["user:{user_id}"])
async def send_welcome(user_id: int, email: str, locale: str) -> None:
    """Send a welcome email to a new customer."""
    await _call(0.15, to="smtp.example.net")


@fire.task(
    name="shop.mail.send_password_reset", queue="mail", priority=5, retry=_TWICE, tags=["user:{user_id}"]
)
async def send_password_reset(user_id: int, email: str) -> None:
    """Send a link for resetting the password by email."""
    await _call(0.12, to="smtp.example.net")


@fire.task(name="shop.mail.send_newsletter", queue="mail", priority=-10, retry=_DROPPED, tags=["{campaign}"])
async def send_newsletter(campaign: str, user_id: int, email: str) -> None:
    """Send one email of a campaign; if this fails, the job is deleted."""
    await _call(0.1, to="smtp.example.net")


@fire.task(name="shop.mail.remind_cart", queue="mail", retry=_DROPPED, tags=["user:{user_id}"])
async def remind_cart(user_id: int, email: str, items: int) -> None:
    """Remind a customer of an abandoned cart by email."""
    await _call(0.12, to="smtp.example.net")


# ---- billing ---------------------------------------------------------------------------------------------


@fire.task(
    name="shop.billing.charge_card", queue="billing", priority=5, retry=_GATEWAY, tags=["order:{order_id}"]
)
async def charge_card(order_id: int, amount: Decimal, currency: Currency) -> dict[str, str]:
    """Charge the card for an order; a declined card is not retried."""
    await _call(0.8, risk=0.03, to="api.pay.example")
    if random.random() < 0.02:
        message = f"order {order_id}: card declined (insufficient_funds)"
        raise CardDeclined(message)
    return {"charge": f"ch_{order_id:x}", "status": "captured"}


@fire.task(
    name="shop.billing.refund_payment", queue="billing", retry=_GATEWAY, tags=["order:{order_id}", "refund"]
)
async def refund_payment(order_id: int, amount: Decimal, reason: str) -> dict[str, str]:
    """Refund the payment of an order."""
    await _call(0.9, risk=0.02, to="api.pay.example")
    return {"refund": f"re_{order_id:x}", "status": "succeeded"}


@fire.task(name="shop.billing.create_invoice", queue="billing", retry=_THRICE, tags=["order:{order_id}"])
def create_invoice(order_id: int) -> str:
    """Create the invoice of an order; return its number."""
    _work(0.3)
    return f"INV-{order_id}"


@fire.task(
    name="shop.billing.renew_subscription", queue="billing", retry=_GATEWAY, tags=["user:{user_id}", "{plan}"]
)
async def renew_subscription(user_id: int, plan: Literal["basic", "plus", "pro"]) -> dict[str, str]:
    """Charge a customer for the next month of a subscription."""
    await _call(0.9, risk=0.02, to="api.pay.example")
    return {"plan": plan, "status": "active"}


@fire.task(name="shop.billing.remind_debtor", queue="billing", retry=_THRICE, tags=["user:{user_id}"])
def remind_debtor(user_id: int, invoice: str, step: int) -> None:
    """Send a reminder of an unpaid invoice, in firmer words with each step."""
    _work(0.2)


@fire.task(name="shop.billing.reconcile_payouts", queue="billing", retry=_TWICE)
def reconcile_payouts(job: JobContext, provider: Literal["card", "bank", "wallet"]) -> int:
    """Compare payouts with the accounts; return the number of differences."""
    _steps(job, 4.0, 20, "payouts")
    return random.randint(0, 2)


# ---- reports ---------------------------------------------------------------------------------------------


@fire.task(name="shop.reports.nightly_sales", queue="reports", retry=_TWICE, timeout=900, tags=["{region}"])
def nightly_sales(job: JobContext, region: Region) -> dict[str, int]:
    """Add up a day's sales of a region."""
    _steps(job, 8.0, 24, "hours")
    return {"orders": random.randint(400, 4_000), "refunds": random.randint(3, 60)}


@fire.task(name="shop.reports.weekly_margin", queue="reports", retry=_TWICE, timeout=1800, tags=["{region}"])
def weekly_margin(job: JobContext, region: Region) -> float:
    """Calculate the week's margin, in percent."""
    _steps(job, 10.0, 7, "days")
    return round(random.uniform(18, 41), 1)


@fire.task(name="shop.reports.stock_levels", queue="reports", retry=_TWICE, tags=["{warehouse}"])
def stock_levels(job: JobContext, warehouse: str) -> int:
    """Count the stock of a warehouse; return the number of products with low stock."""
    _steps(job, 3.0, 10, "aisles")
    return random.randint(0, 80)


@fire.task(name="shop.reports.export_orders", queue="reports", retry=_TWICE, timeout=1200)
def export_orders(job: JobContext, since: date, until: date, form: Literal["csv", "xlsx"]) -> str:
    """Write the orders of a period to a file; return its address."""
    _steps(job, 6.0, 30, "pages")
    return f"s3://shop-exports/orders-{since}-{until}.{form}"


# ---- media -----------------------------------------------------------------------------------------------


@fire.task(name="shop.media.resize_image", queue="media", retry=_TWICE)
def resize_image(product_id: int, width: int) -> str:
    """Resize a picture of a product."""
    _work(0.4)
    return f"/img/{product_id}-{width}.webp"


@fire.task(name="shop.media.make_thumbnail", queue="media", priority=2, retry=_TWICE)
def make_thumbnail(product_id: int) -> str:
    """Create a thumbnail of a product's picture."""
    _work(0.2)
    return f"/img/{product_id}-thumb.webp"


@fire.task(name="shop.media.transcode_video", queue="media", retry=_NEVER, timeout=3600)
def transcode_video(job: JobContext, video_id: int, preset: Literal["720p", "1080p"]) -> str:
    """Convert a product video to a format that browsers can play."""
    _steps(job, 12.0, 60, "segments")
    return f"/video/{video_id}-{preset}.mp4"


@fire.task(name="shop.media.watermark_document", queue="media", retry=_TWICE)
def watermark_document(document_id: int, user_id: int) -> None:
    """Add the buyer's name as a watermark to a document."""
    _work(0.6)


# ---- imports ---------------------------------------------------------------------------------------------


@fire.task(
    name="shop.imports.import_products", queue="imports", retry=_THRICE, timeout=3600, tags=["{supplier}"]
)
def import_products(job: JobContext, supplier: str, path: str) -> dict[str, int]:
    """Import a supplier's catalogue."""
    _steps(job, 8.0, 40, "batches")
    return {"added": random.randint(0, 40), "changed": random.randint(10, 900)}


@fire.task(name="shop.imports.import_prices", queue="imports", retry=_THRICE, tags=["{supplier}"])
def import_prices(job: JobContext, supplier: str) -> int:
    """Import a supplier's prices; return the number of changed prices."""
    _steps(job, 3.0, 12, "batches")
    return random.randint(0, 300)


@fire.task(name="shop.imports.import_stock", queue="imports", retry=_THRICE, tags=["{warehouse}"])
def import_stock(warehouse: str) -> int:
    """Import a warehouse's stock; return the number of changed products."""
    _work(1.0)
    return random.randint(0, 500)


@fire.task(name="shop.imports.geocode_addresses", queue="imports", retry=_STUBBORN)
async def geocode_addresses(user_ids: list[int]) -> int:
    """Look up the coordinates of customers' addresses; return the number of results."""
    await _call(0.7, to="geo.example.net")
    return len(user_ids)


# ---- webhooks --------------------------------------------------------------------------------------------


@fire.task(
    name="shop.webhooks.deliver", queue="webhooks", retry=_PATIENT, tags=["endpoint:{endpoint_id}", "{event}"]
)
async def deliver(endpoint_id: int, event: str, order_id: int) -> int:
    """Notify a subscriber of an event; return the HTTP status."""
    await _call(0.25, risk=0.04, to=f"hook-{endpoint_id}.example.com")
    return 200


@fire.task(
    name="shop.webhooks.notify_partner",
    queue="webhooks",
    retry=_STUBBORN,
    tags=["order:{order_id}", "{partner}"],
)
async def notify_partner(partner: str, order_id: int) -> int:
    """Notify a partner of an order; return the HTTP status."""
    await _call(0.4, risk=0.02, to=f"{partner}.example.com")
    return 202


@fire.task(name="shop.webhooks.post_to_chat", queue="webhooks", retry=_DROPPED)
async def post_to_chat(channel: str, text: str) -> None:
    """Post a message to the team's chat; if this fails, the job is deleted."""
    await _call(0.2, to="chat.example.net")


@fire.task(name="shop.webhooks.sync_marketplace", queue="webhooks", retry=_THRICE, tags=["{marketplace}"])
async def sync_marketplace(marketplace: str) -> dict[str, int]:
    """Publish the current stock on a marketplace."""
    await _call(1.5, to="market.example.net")
    return {"offers": random.randint(500, 2_000), "refused": random.randint(0, 4)}
