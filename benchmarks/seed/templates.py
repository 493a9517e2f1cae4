"""Templates of fictional jobs, by task: arguments, tags, result and duration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, cast

import attrs

from firelock.model.clock import SECOND, from_micros

if TYPE_CHECKING:
    from firelock.options import TaskInfo
    from firelock.retry import Retry

__all__ = [
    "Drawn",
    "JobTemplate",
    "JobTemplates",
]

# ---- fragments of JSON ---------------------------------------------------------------------------------

Fragment = Callable[[Random, int], str]  # (random, timestamp) → a JSON value as a string

_FIRST_NAMES = (
    "ada", "ali", "anna", "ben", "carla", "deniz", "elif", "emma", "finn", "grace", "hugo", "ines", "jonas",
    "kaya", "lena", "mehmet", "mia", "noah", "olga", "paul", "rosa", "sena", "tom", "yusuf", "zoe",
)  # fmt: skip
_LAST_NAMES = (
    "aydin", "becker", "brown", "celik", "dubois", "evans", "fischer", "garcia", "hansen", "ito",
    "jensen", "kaplan", "kowalski", "lopez", "martin", "novak", "ozturk", "rossi", "schmidt",
    "silva", "weber", "yilmaz",
)  # fmt: skip


def whole(low: int, high: int) -> Fragment:
    """Return a fragment with an integer between the two, both included."""
    count = high - low + 1
    return lambda random, _: str(low + int(random.random() * count))


def one_of(*texts: str) -> Fragment:
    """Return a fragment with one of the strings."""
    quoted = [f'"{text}"' for text in texts]
    return lambda random, _: quoted[int(random.random() * len(quoted))]


def whole_of(*numbers: str) -> Fragment:
    """Return a fragment with one of the numbers."""
    return lambda random, _: numbers[int(random.random() * len(numbers))]


def number(low: float, high: float) -> Fragment:
    """Return a fragment with a number between the two, with one decimal."""
    return lambda random, _: f"{low + random.random() * (high - low):.1f}"


def user(random: Random, _: int) -> str:
    """Return the number of a customer; low numbers are more frequent."""
    return str(1 + int(random.random() ** 2 * 48_000))


def email(random: Random, _: int) -> str:
    """Return an email address at example.com."""
    first = _FIRST_NAMES[int(random.random() * len(_FIRST_NAMES))]
    last = _LAST_NAMES[int(random.random() * len(_LAST_NAMES))]
    return f'"{first}.{last}{int(random.random() * 90)}@example.com"'


def amount(random: Random, _: int) -> str:
    """Return an amount of money as a stored Decimal; small amounts are more frequent."""
    return f'"{4 + random.random() ** 3 * 600:.2f}"'


def day(days_ago: int) -> Fragment:
    """Return a fragment with the date this number of days before the job."""
    return lambda _, at: f'"{from_micros(at - days_ago * 86_400 * SECOND):%Y-%m-%d}"'


def path(random: Random, at: int) -> str:
    """Return the path of a supplier's catalogue on that day."""
    number = 1_000 + int(random.random() * 9_000)
    return f'"s3://supplier-files/{from_micros(at):%Y/%m/%d}/catalogue-{number}.csv"'


def users(random: Random, at: int) -> str:
    """Return five customers."""
    return f"[{','.join(user(random, at) for _ in range(5))}]"


order = whole(400_000, 989_999)
width: Fragment = whole_of("320", "640", "1280")
product = whole(1_000, 9_400)
locale = one_of("de-DE", "en-GB", "en-US", "tr-TR", "fr-FR", "es-ES")
currency = one_of("EUR", "EUR", "EUR", "USD", "GBP", "TRY")
region = one_of("eu", "us", "tr")
carrier = one_of("dhl", "ups", "ptt")
warehouse = one_of("ankara-1", "berlin-2", "izmir-1", "lyon-1", "ohio-3")
supplier = one_of("acme", "bosphorus", "globex", "initech", "umbra", "wonka")
invoice = one_of(*(f"INV-{number}" for number in range(410_233, 410_733)))
campaign = one_of("autumn-sale", "black-week", "new-in", "spring-mood")
event = one_of("order.paid", "order.shipped", "order.refunded", "stock.low", "customer.created")
partner = one_of("nordwind", "sunrise", "parcelhub")
reason = one_of("damaged", "late", "wrong size", "changed mind")
text = one_of("Stock of 12 products is low", "Nightly sales are in", "A refund above 500 EUR was made")

MAIL = {"email": email, "locale": locale}
PAYMENT = {"order_id": order, "amount": amount}


# ---- tasks -----------------------------------------------------------------------------------------------

_EXTRA_TAGS = ("eu", "us", "tr", "vip", "mobile")
_EXTRA_SHARE = 0.25


@attrs.frozen
class _Sketch:
    """The description of a task: frequency, median duration, arguments, and result as JSON with %(name)s."""

    weight: float
    seconds: float
    fragments: Mapping[str, Fragment]
    result: str = "null"


_SKETCHES: Mapping[str, _Sketch] = {
    "shop.orders.reserve_stock": _Sketch(
        60,
        0.05,
        {
            "order_id": order,
            "sku": one_of("TS-104", "MG-221", "BK-007", "LP-310"),
            "quantity": whole(1, 4),
        },
        '{"order":%(order_id)s,"reserved":%(quantity)s}',
    ),
    "shop.orders.confirm_order": _Sketch(
        60, 0.12, {"order_id": order, "user_id": user}, '"order %(order_id)s confirmed"'
    ),
    "shop.accounts.send_login_code": _Sketch(40, 0.22, {"user_id": user, "channel": one_of("sms", "app")}),
    "shop.fraud.score_order": _Sketch(
        50, 0.15, {**PAYMENT, "country": one_of("DE", "TR", "US", "FR", "ES", "GB")}, "0.0%(n)s"
    ),
    "shop.catalog.reindex_product": _Sketch(90, 0.08, {"product_id": product, "locale": locale}, "4"),
    "shop.catalog.update_prices": _Sketch(
        4,
        0.5,
        {"category": one_of("garden", "kitchen", "toys", "books"), "percent": number(-15, 9)},
        "%(n)s",
    ),
    "shop.carts.expire_carts": _Sketch(4, 0.6, {"older_than_hours": whole(24, 72)}, "%(n)s"),
    "shop.loyalty.add_points": _Sketch(55, 0.03, {"user_id": user, "points": whole(5, 400)}, "%(n)s"),
    "shop.shipping.create_label": _Sketch(
        45, 0.7, {"order_id": order, "carrier": carrier}, '"DHL000%(order_id)s"'
    ),
    "shop.shipping.track_parcels": _Sketch(8, 1.4, {"carrier": carrier}, "%(n)s"),
    "shop.crm.sync_customer": _Sketch(45, 0.35, {"user_id": user}),
    "shop.crm.merge_duplicates": _Sketch(1, 2.5, {"region": region}, "7"),
    "shop.mail.send_receipt": _Sketch(
        70, 0.16, {"order_id": order, **MAIL}, '"receipt of order %(order_id)s sent"'
    ),
    "shop.mail.send_shipped": _Sketch(
        50, 0.16, {"order_id": order, **MAIL}, '"order %(order_id)s announced"'
    ),
    "shop.mail.send_welcome": _Sketch(18, 0.16, {"user_id": user, **MAIL}),
    "shop.mail.send_password_reset": _Sketch(12, 0.13, {"user_id": user, "email": email}),
    "shop.mail.send_newsletter": _Sketch(90, 0.11, {"campaign": campaign, "user_id": user, "email": email}),
    "shop.mail.remind_cart": _Sketch(20, 0.13, {"user_id": user, "email": email, "items": whole(1, 7)}),
    "shop.billing.charge_card": _Sketch(
        60,
        0.9,
        {**PAYMENT, "currency": currency},
        '{"charge":"ch_%(n)s%(order_id)s","status":"captured"}',
    ),
    "shop.billing.refund_payment": _Sketch(
        5,
        1.0,
        {**PAYMENT, "reason": reason},
        '{"refund":"re_%(n)s%(order_id)s","status":"succeeded"}',
    ),
    "shop.billing.create_invoice": _Sketch(55, 0.35, {"order_id": order}, '"INV-%(order_id)s"'),
    "shop.billing.renew_subscription": _Sketch(
        12,
        1.0,
        {"user_id": user, "plan": one_of("basic", "plus", "pro")},
        '{"plan":%(plan)s,"status":"active"}',
    ),
    "shop.billing.remind_debtor": _Sketch(
        5, 0.25, {"user_id": user, "invoice": invoice, "step": whole(1, 3)}
    ),
    "shop.billing.reconcile_payouts": _Sketch(1, 22, {"provider": one_of("card", "bank", "wallet")}, "0"),
    "shop.reports.nightly_sales": _Sketch(2, 48, {"region": region}, '{"orders":1%(n)s,"refunds":17}'),
    "shop.reports.weekly_margin": _Sketch(1, 95, {"region": region}, "31.%(n)s"),
    "shop.reports.stock_levels": _Sketch(3, 14, {"warehouse": warehouse}, "%(n)s"),
    "shop.reports.export_orders": _Sketch(
        4,
        36,
        {"since": day(31), "until": day(1), "form": one_of("csv", "xlsx")},
        '"s3://shop-exports/orders-1%(n)s.csv"',
    ),
    "shop.media.resize_image": _Sketch(
        45, 0.5, {"product_id": product, "width": width}, '"/img/%(product_id)s-%(width)s.webp"'
    ),
    "shop.media.make_thumbnail": _Sketch(
        25, 0.25, {"product_id": product}, '"/img/%(product_id)s-thumb.webp"'
    ),
    "shop.media.transcode_video": _Sketch(
        3,
        140,
        {"video_id": whole(500, 2_400), "preset": one_of("720p", "1080p")},
        '"/video/%(video_id)s-720p.mp4"',
    ),
    "shop.media.watermark_document": _Sketch(6, 0.8, {"document_id": whole(9_000, 30_000), "user_id": user}),
    "shop.imports.import_products": _Sketch(
        2, 75, {"supplier": supplier, "path": path}, '{"added":3,"changed":1%(n)s}'
    ),
    "shop.imports.import_prices": _Sketch(3, 11, {"supplier": supplier}, "1%(n)s"),
    "shop.imports.import_stock": _Sketch(6, 1.5, {"warehouse": warehouse}, "%(n)s"),
    "shop.imports.geocode_addresses": _Sketch(8, 0.8, {"user_ids": users}, "5"),
    "shop.webhooks.deliver": _Sketch(
        65, 0.3, {"endpoint_id": whole(11, 96), "event": event, "order_id": order}, "200"
    ),
    "shop.webhooks.notify_partner": _Sketch(15, 0.5, {"partner": partner, "order_id": order}, "202"),
    "shop.webhooks.post_to_chat": _Sketch(
        6, 0.25, {"channel": one_of("ops", "sales", "stock"), "text": text}
    ),
    "shop.webhooks.sync_marketplace": _Sketch(
        5, 1.8, {"marketplace": one_of("bazaar", "megashop", "pazar")}, '{"offers":1%(n)s,"refused":2}'
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
    """The values of one job: its stored arguments and result, and its tags."""

    arguments: str
    result: str
    tags: tuple[str, ...]


class JobTemplate:
    """A template for the jobs of a task."""

    __slots__ = (
        "_arguments", "_fragments", "_result", "_tags", "name", "noun", "priority", "queue", "retry",
        "seconds", "takes_context", "weight",
    )  # fmt: skip

    def __init__(self, info: TaskInfo, sketch: _Sketch) -> None:
        self.name = info.name
        self.queue = info.queue
        self.priority = info.priority
        self.retry = cast("Retry", info.retry)  # the shop has only such policies
        self.weight = sketch.weight
        self.seconds = sketch.seconds
        self.takes_context = info.takes_context  # if so, its jobs log their steps
        self.noun = _NOUNS.get(info.name, "steps")
        self._fragments = tuple(sketch.fragments.items())
        self._arguments = "{" + ",".join(f'"{name}":%({name})s' for name in sketch.fragments) + "}"
        self._result = sketch.result
        self._tags = tuple(template.replace("{", "%(").replace("}", ")s") for template in info.tags)

    def draw(self, random: Random, at: int) -> Drawn:
        """Return the values of a new job that is created at this time."""
        own = {name: fragment(random, at) for name, fragment in self._fragments}
        arguments = self._arguments % own
        own["n"] = str(100 + int(random.random() * 899))
        tags = tuple((template % own).replace('"', "") for template in self._tags)
        if random.random() < _EXTRA_SHARE:
            tags = tuple(dict.fromkeys((*tags, _EXTRA_TAGS[int(random.random() * len(_EXTRA_TAGS))])))
        return Drawn(arguments, self._result % own, tags)

    def duration(self, random: Random) -> int:
        """Return the duration of a run, in micros."""
        return int(self.seconds * random.lognormvariate(0, 0.45) * SECOND)


class JobTemplates:
    """The templates of all tasks."""

    def __init__(self, infos: list[TaskInfo]) -> None:
        self.by_name = {info.name: JobTemplate(info, _SKETCHES[info.name]) for info in infos}
        self._all = list(self.by_name.values())
        self._weights = list(accumulate(template.weight for template in self._all))

    def some(self, random: Random, count: int) -> list[JobTemplate]:
        """Return this number of random templates, weighted by frequency."""
        return random.choices(self._all, cum_weights=self._weights, k=count)
