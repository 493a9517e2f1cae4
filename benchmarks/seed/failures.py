"""About 25 kinds of failure of fictional jobs, with their tracebacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import attrs

from firelock.model.job import ErrorInfo
from firelock.server.failure import failure_of_text

__all__ = [
    "GATEWAY_DOWN",
    "KILLED",
    "KINDS",
    "Failure",
    "Failures",
    "Raised",
]

_OWN, _LIBRARY = "/srv/shop/", "/srv/venv/lib/python3.12/site-packages/"


@attrs.frozen
class Raised:
    """One exception of a traceback: its type, its message with {n}, and its frames, outermost first.

    A frame is "file:line:function:code"; those of libraries begin with "@".
    """

    type: str
    message: str
    frames: tuple[str, ...]


class Failure:
    """A kind of failure, with its tasks, its frequency and the time until it occurs."""

    def __init__(
        self, tasks: str, weight: float, seconds: float, raised: Raised, *, cause: Raised | None = None
    ) -> None:
        self.tasks = tuple(f"shop.{task}" for task in tasks.split())
        self.weight = weight
        self.seconds = seconds
        self._raised = raised
        self._cause = cause
        self.fingerprint = failure_of_text(raised.type, raised.message.replace("{n}", "1")).fingerprint
        module, _, name = raised.type.rpartition(".")
        self._class = type(name, (Exception,), {"__module__": module or "builtins", "__qualname__": name})
        self.example = self._class(raised.message)
        chain = (
            [_formatted(raised)]
            if cause is None
            else [_formatted(cause), "\nThat caused the following:\n", _formatted(raised)]
        )
        self._traceback = "\n".join(chain)

    def draw(self, random: Random) -> tuple[Exception, ErrorInfo]:
        """Return the exception of one run and its stored form; the numbers in the messages differ."""
        number = str(100_000 + int(random.random() * 899_999))
        message = self._raised.message.replace("{n}", number)
        text = self._traceback.replace("{n}", number)
        return self._class(message), ErrorInfo(self._raised.type, message, self.fingerprint, text)


def _formatted(raised: Raised) -> str:
    lines = ["Traceback (most recent call last):"]
    for frame in raised.frames:
        file, line, function, code = frame.removeprefix("@").split(":", 3)
        mark, folder = ("  ", _LIBRARY) if frame.startswith("@") else ("→ ", _OWN)
        lines += [f'{mark}File "{folder}{file}", line {line}, in {function}', f"    {code}"]
    return "\n".join([*lines, f"{raised.type}: {raised.message}"])


class Failures:
    """The kinds of failure by task."""

    def __init__(self, kinds: Sequence[Failure]) -> None:
        self.kinds = kinds
        self._by_task: Mapping[str, tuple[Failure, ...]] = {
            task: tuple(kind for kind in kinds if task in kind.tasks) for kind in kinds for task in kind.tasks
        }

    def of_task(self, random: Random, task: str) -> Failure:
        """Return a kind of failure of the task, or any kind if the task has none."""
        return random.choice(self._by_task.get(task) or self.kinds)


# ---- shared frames ---------------------------------------------------------------------------------------

_HTTP = (
    "@httpx/_client.py:1540:request:return await self.send(request, auth=auth, follow_redirects=follow)",
    "@httpx/_client.py:1629:send:response = await self._send_handling_auth(",
    "@httpx/_transports/default.py:393:handle_async_request:with map_httpcore_exceptions():",
)
_SQL = (
    "@sqlalchemy/orm/session.py:2351:execute:return self._execute_internal(",
    "@sqlalchemy/engine/base.py:1967:_exec_single_context:self._handle_dbapi_exception(",
    "@sqlalchemy/engine/default.py:941:do_execute:cursor.execute(statement, parameters)",
)
_SMTP = (
    "@aiosmtplib/api.py:148:send:result = await client.send_message(message)",
    "@aiosmtplib/smtp.py:371:sendmail:raise SMTPRecipientsRefused(refused)",
)
_PAY = ("shop/billing/gateway.py:88:_post:response = await self.client.post(path, json=body)", *_HTTP)
_HOOK = "shop/webhooks/delivery.py:52:deliver:response = await client.post(endpoint.url, json=body)"
_S3 = (
    "shop/files.py:31:open_remote:body = bucket.Object(key).get()['Body']",
    "@botocore/client.py:569:_api_call:return self._make_api_call(operation_name, kwargs)",
    "@botocore/client.py:1023:_make_api_call:raise error_class(parsed_response, operation_name)",
)
_CHARGE = "shop/billing/tasks.py:41:charge_card:charge = await gateway.charge(order_id, amount, currency)"
_REFUSED = Raised(
    "httpcore.ConnectError", "All connection attempts failed",
    ("@httpcore/_async/connection.py:124:_connect:stream = await self._network_backend.connect_tcp(**kwargs)",
     "@anyio/_core/_sockets.py:232:connect_tcp:raise OSError('All connection attempts failed') from cause"),
)  # fmt: skip
_LOST = Raised(
    "psycopg.OperationalError", "consuming input failed: server closed the connection unexpectedly",
    ("@psycopg/cursor.py:97:execute:raise ex.with_traceback(None)",),
)  # fmt: skip


# ---- kinds -----------------------------------------------------------------------------------------------

GATEWAY_DOWN = Failure(
    "billing.charge_card billing.refund_payment billing.renew_subscription", 0.0, 10.0,
    Raised("ConnectionError", "api.pay.example did not answer for order {n}: all connection attempts failed",
            (_CHARGE, "shop/billing/gateway.py:93:_post:raise ConnectionError(message) from error")),
    cause=attrs.evolve(_REFUSED, frames=(*_PAY, *_REFUSED.frames)),
)  # fmt: skip

KILLED = "its process died: killed by SIGKILL, out of memory perhaps"

KINDS = (
    Failure(
        "billing.charge_card",
        14,
        0.7,
        Raised(
            "shop.billing.CardDeclined",
            "order {n}: card declined (insufficient_funds)",
            (
                _CHARGE,
                "shop/billing/gateway.py:61:charge:raise CardDeclined(order_id, answer['decline_code'])",
            ),
        ),
    ),
    Failure(
        "billing.charge_card billing.refund_payment",
        6,
        30,
        Raised(
            "httpx.ReadTimeout",
            "no answer from api.pay.example within 30 s for payment {n}",
            (_CHARGE, *_PAY),
        ),
    ),
    Failure(
        "billing.renew_subscription",
        5,
        0.6,
        Raised(
            "shop.billing.PlanWithdrawn",
            "user {n} has a plan 'plus-2023' that is no longer sold",
            (
                "shop/billing/tasks.py:88:renew_subscription:price = plans.price_of(subscription.plan)",
                "shop/billing/plans.py:24:price_of:raise PlanWithdrawn(user_id, plan)",
            ),
        ),
    ),
    Failure(
        "billing.create_invoice",
        4,
        0.2,
        Raised(
            "sqlalchemy.exc.IntegrityError",
            'duplicate key value violates unique constraint "invoices_number_key": (number)=(INV-{n})',
            ("shop/billing/tasks.py:70:create_invoice:session.flush()", *_SQL),
        ),
    ),
    Failure(
        "billing.reconcile_payouts",
        2,
        18,
        Raised(
            "shop.billing.BookingMismatch",
            "payout {n} differs by 12.40 EUR from what is booked",
            (
                "shop/billing/tasks.py:131:reconcile_payouts:compare(payout, booked)",
                "shop/billing/booking.py:77:compare:raise BookingMismatch(payout, difference)",
            ),
        ),
    ),
    Failure(
        "webhooks.deliver webhooks.notify_partner",
        16,
        1.1,
        Raised(
            "httpx.HTTPStatusError",
            "Server error '503 Service Unavailable' for url 'https://hook.example.com/{n}'",
            (
                _HOOK,
                "shop/webhooks/delivery.py:57:deliver:response.raise_for_status()",
                "@httpx/_models.py:829:raise_for_status:raise HTTPStatusError(message, response=self)",
            ),
        ),
    ),
    Failure(
        "webhooks.deliver",
        9,
        10,
        Raised(
            "httpx.ConnectTimeout",
            "timed out connecting to hook-{n}.example.com",
            (_HOOK, *_HTTP),
        ),
        cause=attrs.evolve(_REFUSED, type="httpcore.ConnectTimeout", message="timed out"),
    ),
    Failure(
        "webhooks.deliver",
        5,
        0.4,
        Raised(
            "httpx.HTTPStatusError",
            "Client error '410 Gone' for url 'https://old.example.com/orders/{n}'",
            (
                _HOOK,
                "shop/webhooks/delivery.py:57:deliver:response.raise_for_status()",
                "@httpx/_models.py:829:raise_for_status:raise HTTPStatusError(message, response=self)",
            ),
        ),
    ),
    Failure(
        "webhooks.sync_marketplace",
        4,
        1.3,
        Raised(
            "shop.webhooks.RateLimited",
            "megashop allows 100 calls a minute; wait {n} ms",
            (
                "shop/webhooks/market.py:40:sync:self._check_limit(response)",
                "shop/webhooks/market.py:66:_check_limit:raise RateLimited(self.name, wait)",
            ),
        ),
    ),
    Failure(
        "mail.send_receipt mail.send_shipped mail.send_welcome mail.send_newsletter",
        14,
        1.2,
        Raised(
            "aiosmtplib.errors.SMTPRecipientsRefused",
            "550 5.1.1 mailbox unavailable (id {n})",
            ("shop/mail/sending.py:44:send:await aiosmtplib.send(message, hostname=host)", *_SMTP),
        ),
    ),
    Failure(
        "mail.send_newsletter mail.remind_cart mail.send_receipt",
        8,
        20,
        Raised(
            "TimeoutError",
            "smtp.example.net did not greet within 20 s (connection {n})",
            (
                "shop/mail/sending.py:38:_connect:await asyncio.wait_for(client.connect(), 20)",
                "@aiosmtplib/smtp.py:204:connect:response = await self._create_connection(timeout)",
            ),
        ),
    ),
    Failure(
        "mail.send_shipped mail.send_welcome",
        4,
        0.1,
        Raised(
            "jinja2.exceptions.UndefinedError",
            "'order' has no attribute 'parcel_url' (template 4, order {n})",
            (
                "shop/mail/templates.py:29:render:return template.render(order=order)",
                "@jinja2/environment.py:1304:render:self.environment.handle_exception()",
                "templates/shipped.html:18:top-level template code:{{ order.parcel_url }}",
            ),
        ),
    ),
    Failure(
        "accounts.send_login_code",
        6,
        5,
        Raised(
            "shop.accounts.SmsRefused",
            "sms.example.net refused message {n}: number is not reachable",
            (
                "shop/accounts/codes.py:33:send_login_code:await sms.send(user.phone, code)",
                "shop/accounts/sms.py:21:send:raise SmsRefused(answer)",
            ),
        ),
    ),
    Failure(
        "orders.reserve_stock",
        5,
        0.1,
        Raised(
            "shop.orders.OutOfStock",
            "order {n}: 'TS-104' is sold out",
            (
                "shop/orders/tasks.py:22:reserve_stock:warehouse.reserve(sku, quantity)",
                "shop/orders/warehouse.py:58:reserve:raise OutOfStock(order_id, sku)",
            ),
        ),
    ),
    Failure(
        "orders.reserve_stock loyalty.add_points orders.confirm_order",
        7,
        4,
        Raised(
            "sqlalchemy.exc.OperationalError",
            "deadlock detected: process {n} waits for ShareLock on transaction 88213",
            ("shop/database.py:47:locked:session.execute(statement)", *_SQL),
        ),
    ),
    Failure(
        "crm.sync_customer catalog.reindex_product fraud.score_order",
        6,
        2,
        Raised(
            "sqlalchemy.exc.OperationalError",
            "server closed the connection unexpectedly (backend {n})",
            ("shop/database.py:31:fetch:return session.execute(query).one()", *_SQL),
        ),
        cause=_LOST,
    ),
    Failure(
        "crm.sync_customer",
        6,
        0.5,
        Raised(
            "shop.crm.CrmError",
            "CRM answered 422 for customer {n}: phone is not in E.164 form",
            (
                "shop/crm/tasks.py:19:sync_customer:await crm.put(customer)",
                "shop/crm/client.py:71:put:raise CrmError(answer)",
            ),
        ),
    ),
    Failure(
        "fraud.score_order",
        3,
        3,
        Raised(
            "KeyError",
            "'ZZ'",
            ("shop/fraud/model.py:102:score:base = RISK_BY_COUNTRY[country]",),
        ),
    ),
    Failure(
        "shipping.create_label shipping.track_parcels",
        8,
        8,
        Raised(
            "shop.shipping.CarrierError",
            "carrier answered 400 for order {n}: postal code does not match the city",
            (
                "shop/shipping/tasks.py:27:create_label:label = await carrier.label(order)",
                "shop/shipping/carriers.py:93:label:raise CarrierError(answer)",
            ),
        ),
    ),
    Failure(
        "catalog.reindex_product",
        6,
        10,
        Raised(
            "elastic_transport.ConnectionTimeout",
            "Connection timed out (read timeout=10.0, node {n})",
            (
                "shop/catalog/search.py:64:index:await client.index(index=name, document=document)",
                "@elasticsearch/_async/client/__init__.py:2282:index:return await self.perform_request(",
                "@elastic_transport/_async_transport.py:271:perform_request:raise errors[-1]",
            ),
        ),
    ),
    Failure(
        "imports.import_products imports.import_prices",
        9,
        6,
        Raised(
            "ValueError",
            "line {n}: price '12,9O' is not a number",
            (
                "shop/imports/tasks.py:58:import_products:rows = [read_row(line) for line in lines]",
                "shop/imports/rows.py:33:read_row:raise ValueError(message) from error",
            ),
        ),
        cause=Raised(
            "decimal.InvalidOperation",
            "[<class 'decimal.ConversionSyntax'>]",
            ("shop/imports/rows.py:30:read_row:price = Decimal(text.replace(',', '.'))",),
        ),
    ),
    Failure(
        "imports.import_products imports.import_stock",
        5,
        2,
        Raised(
            "botocore.errorfactory.NoSuchKey",
            "GetObject: the key catalogue-{n}.csv does not exist",
            ("shop/imports/tasks.py:44:import_products:with open_remote(path) as file:", *_S3),
        ),
    ),
    Failure(
        "imports.geocode_addresses",
        4,
        1,
        Raised(
            "shop.imports.QuotaUsedUp",
            "geo.example.net: the day's 50,000 calls are used up (request {n})",
            ("shop/imports/geocode.py:40:geocode_addresses:raise QuotaUsedUp(answer)",),
        ),
    ),
    Failure(
        "media.resize_image media.make_thumbnail",
        9,
        0.4,
        Raised(
            "PIL.UnidentifiedImageError",
            "cannot identify image file '/var/media/{n}.upload'",
            (
                "shop/media/images.py:18:opened:return Image.open(path)",
                "@PIL/Image.py:3498:open:raise UnidentifiedImageError(msg)",
            ),
        ),
    ),
    Failure(
        "media.transcode_video media.watermark_document",
        5,
        60,
        Raised(
            "subprocess.CalledProcessError",
            "Command 'ffmpeg' returned non-zero exit status 187 (video {n})",
            (
                "shop/media/video.py:77:transcode_video:subprocess.run(command, check=True)",
                "@../subprocess.py:571:run:raise CalledProcessError(retcode, process.args)",
            ),
        ),
    ),
    Failure(
        "reports.nightly_sales reports.export_orders reports.weekly_margin",
        6,
        900,
        Raised(
            "TimeoutError",
            "timed out after 900 s",
            (
                "shop/reports/tasks.py:35:nightly_sales:rows = session.execute(SALES, {'day': day}).all()",
                *_SQL,
            ),
        ),
    ),
)
