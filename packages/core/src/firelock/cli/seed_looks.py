"""What the made-up jobs of each of the shop's tasks look like: arguments, tags, result, duration."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, cast

import attrs

from firelock.cli import seed_values as values
from firelock.clock import SECOND

if TYPE_CHECKING:
    from firelock.retry import Retry
    from firelock.task import TaskInfo

__all__ = ["Drawn", "Look", "Looks"]

_EXTRA_TAGS = ("eu", "us", "tr", "vip", "mobile")
_EXTRA_SHARE = 0.25


@attrs.frozen
class _Sketch:
    """One task by hand: how common, its median duration, arguments, result as JSON with %(name)s."""

    weight: float
    seconds: float
    fragments: Mapping[str, values.Fragment]
    result: str = "null"


_SKETCHES: Mapping[str, _Sketch] = {
    "shop.orders.reserve_stock": _Sketch(
        60,
        0.05,
        {
            "order_id": values.order,
            "sku": values.one_of("TS-104", "MG-221", "BK-007", "LP-310"),
            "quantity": values.whole(1, 4),
        },
        '{"order":%(order_id)s,"reserved":%(quantity)s}',
    ),
    "shop.orders.confirm_order": _Sketch(
        60, 0.12, {"order_id": values.order, "user_id": values.user}, '"order %(order_id)s confirmed"'
    ),
    "shop.accounts.send_login_code": _Sketch(
        40, 0.22, {"user_id": values.user, "channel": values.one_of("sms", "app")}
    ),
    "shop.fraud.score_order": _Sketch(
        50, 0.15, {**values.PAYMENT, "country": values.one_of("DE", "TR", "US", "FR", "ES", "GB")}, "0.0%(n)s"
    ),
    "shop.catalog.reindex_product": _Sketch(
        90, 0.08, {"product_id": values.product, "locale": values.locale}, "4"
    ),
    "shop.catalog.update_prices": _Sketch(
        4,
        0.5,
        {"category": values.one_of("garden", "kitchen", "toys", "books"), "percent": values.number(-15, 9)},
        "%(n)s",
    ),
    "shop.carts.expire_carts": _Sketch(4, 0.6, {"older_than_hours": values.whole(24, 72)}, "%(n)s"),
    "shop.loyalty.add_points": _Sketch(
        55, 0.03, {"user_id": values.user, "points": values.whole(5, 400)}, "%(n)s"
    ),
    "shop.shipping.create_label": _Sketch(
        45, 0.7, {"order_id": values.order, "carrier": values.carrier}, '"DHL000%(order_id)s"'
    ),
    "shop.shipping.track_parcels": _Sketch(8, 1.4, {"carrier": values.carrier}, "%(n)s"),
    "shop.crm.sync_customer": _Sketch(45, 0.35, {"user_id": values.user}),
    "shop.crm.merge_duplicates": _Sketch(1, 2.5, {"region": values.region}, "7"),
    "shop.mail.send_receipt": _Sketch(
        70, 0.16, {"order_id": values.order, **values.MAIL}, '"receipt of order %(order_id)s sent"'
    ),
    "shop.mail.send_shipped": _Sketch(
        50, 0.16, {"order_id": values.order, **values.MAIL}, '"order %(order_id)s announced"'
    ),
    "shop.mail.send_welcome": _Sketch(18, 0.16, {"user_id": values.user, **values.MAIL}),
    "shop.mail.send_password_reset": _Sketch(12, 0.13, {"user_id": values.user, "email": values.email}),
    "shop.mail.send_newsletter": _Sketch(
        90, 0.11, {"campaign": values.campaign, "user_id": values.user, "email": values.email}
    ),
    "shop.mail.remind_cart": _Sketch(
        20, 0.13, {"user_id": values.user, "email": values.email, "items": values.whole(1, 7)}
    ),
    "shop.billing.charge_card": _Sketch(
        60,
        0.9,
        {**values.PAYMENT, "currency": values.currency},
        '{"charge":"ch_%(n)s%(order_id)s","status":"captured"}',
    ),
    "shop.billing.refund_payment": _Sketch(
        5,
        1.0,
        {**values.PAYMENT, "reason": values.reason},
        '{"refund":"re_%(n)s%(order_id)s","status":"succeeded"}',
    ),
    "shop.billing.create_invoice": _Sketch(55, 0.35, {"order_id": values.order}, '"INV-%(order_id)s"'),
    "shop.billing.renew_subscription": _Sketch(
        12,
        1.0,
        {"user_id": values.user, "plan": values.one_of("basic", "plus", "pro")},
        '{"plan":%(plan)s,"status":"active"}',
    ),
    "shop.billing.remind_debtor": _Sketch(
        5, 0.25, {"user_id": values.user, "invoice": values.invoice, "step": values.whole(1, 3)}
    ),
    "shop.billing.reconcile_payouts": _Sketch(
        1, 22, {"provider": values.one_of("card", "bank", "wallet")}, "0"
    ),
    "shop.reports.nightly_sales": _Sketch(2, 48, {"region": values.region}, '{"orders":1%(n)s,"refunds":17}'),
    "shop.reports.weekly_margin": _Sketch(1, 95, {"region": values.region}, "31.%(n)s"),
    "shop.reports.stock_levels": _Sketch(3, 14, {"warehouse": values.warehouse}, "%(n)s"),
    "shop.reports.export_orders": _Sketch(
        4,
        36,
        {"since": values.day(31), "until": values.day(1), "form": values.one_of("csv", "xlsx")},
        '"s3://shop-exports/orders-1%(n)s.csv"',
    ),
    "shop.media.resize_image": _Sketch(
        45, 0.5, {"product_id": values.product, "width": values.width}, '"/img/%(product_id)s-%(width)s.webp"'
    ),
    "shop.media.make_thumbnail": _Sketch(
        25, 0.25, {"product_id": values.product}, '"/img/%(product_id)s-thumb.webp"'
    ),
    "shop.media.transcode_video": _Sketch(
        3,
        140,
        {"video_id": values.whole(500, 2_400), "preset": values.one_of("720p", "1080p")},
        '"/video/%(video_id)s-720p.mp4"',
    ),
    "shop.media.watermark_document": _Sketch(
        6, 0.8, {"document_id": values.whole(9_000, 30_000), "user_id": values.user}
    ),
    "shop.imports.import_products": _Sketch(
        2, 75, {"supplier": values.supplier, "path": values.path}, '{"added":3,"changed":1%(n)s}'
    ),
    "shop.imports.import_prices": _Sketch(3, 11, {"supplier": values.supplier}, "1%(n)s"),
    "shop.imports.import_stock": _Sketch(6, 1.5, {"warehouse": values.warehouse}, "%(n)s"),
    "shop.imports.geocode_addresses": _Sketch(8, 0.8, {"user_ids": values.users}, "5"),
    "shop.webhooks.deliver": _Sketch(
        65, 0.3, {"endpoint_id": values.whole(11, 96), "event": values.event, "order_id": values.order}, "200"
    ),
    "shop.webhooks.notify_partner": _Sketch(
        15, 0.5, {"partner": values.partner, "order_id": values.order}, "202"
    ),
    "shop.webhooks.post_to_chat": _Sketch(
        6, 0.25, {"channel": values.one_of("ops", "sales", "stock"), "text": values.text}
    ),
    "shop.webhooks.sync_marketplace": _Sketch(
        5, 1.8, {"marketplace": values.one_of("bazaar", "megashop", "pazar")}, '{"offers":1%(n)s,"refused":2}'
    ),
}

_NOUNS = {
    "shop.imports.import_products": "batches",
    "shop.imports.import_prices": "batches",
    "shop.media.transcode_video": "segments",
    "shop.reports.export_orders": "pages",
    "shop.reports.nightly_sales": "hours",
    "shop.reports.stock_levels": "aisles",
    "shop.reports.weekly_margin": "days",
    "shop.billing.reconcile_payouts": "payouts",
}


@attrs.frozen
class Drawn:
    """One job's own values: arguments and result as they are stored, and its tags."""

    arguments: str
    result: str
    tags: tuple[str, ...]


class Look:
    """What jobs of one task look like."""

    __slots__ = (
        "_arguments", "_fragments", "_result", "_tags", "name", "noun", "priority", "queue", "retry",
        "seconds", "takes_context", "weight",
    )  # fmt: skip

    def __init__(self, info: TaskInfo, sketch: _Sketch) -> None:
        self.name = info.name
        self.queue = info.queue
        self.priority = info.priority
        self.retry = cast("Retry", info.retry)  # the shop has no other policies
        self.weight = sketch.weight
        self.seconds = sketch.seconds
        self.takes_context = info.takes_context  # who takes it logs its steps
        self.noun = _NOUNS.get(info.name, "steps")
        self._fragments = tuple(sketch.fragments.items())
        self._arguments = "{" + ",".join(f'"{name}":%({name})s' for name in sketch.fragments) + "}"
        self._result = sketch.result
        self._tags = tuple(template.replace("{", "%(").replace("}", ")s") for template in info.tags)

    def draw(self, random: Random, at: int) -> Drawn:
        """Return a new job's values; `at` is when it is made."""
        own = {name: fragment(random, at) for name, fragment in self._fragments}
        arguments = self._arguments % own
        own["n"] = str(100 + int(random.random() * 899))
        tags = tuple((template % own).replace('"', "") for template in self._tags)
        if random.random() < _EXTRA_SHARE:
            tags = tuple(dict.fromkeys((*tags, _EXTRA_TAGS[int(random.random() * len(_EXTRA_TAGS))])))
        return Drawn(arguments, self._result % own, tags)

    def duration(self, random: Random) -> int:
        """Return how long a run takes, in micros."""
        return int(self.seconds * random.lognormvariate(0, 0.45) * SECOND)


class Looks:
    """The looks of all the shop's tasks."""

    def __init__(self, infos: list[TaskInfo]) -> None:
        self.by_name = {info.name: Look(info, _SKETCHES[info.name]) for info in infos}
        self._all = list(self.by_name.values())
        self._weights = list(accumulate(look.weight for look in self._all))

    def some(self, random: Random, count: int) -> list[Look]:
        """Return so many looks, common ones more often."""
        return random.choices(self._all, cum_weights=self._weights, k=count)
