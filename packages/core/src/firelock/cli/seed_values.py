"""Values for the arguments of made-up jobs, as pieces of JSON text."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from firelock.cli.seed_rhythm import DAY
from firelock.clock import from_micros

Fragment = Callable[[Random, int], str]  # (random, instant) → a JSON value as text

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
    """Return whole numbers between the two, both included."""
    span = high - low + 1
    return lambda random, _: str(low + int(random.random() * span))


def one_of(*texts: str) -> Fragment:
    """Return one of the texts."""
    quoted = [f'"{text}"' for text in texts]
    return lambda random, _: quoted[int(random.random() * len(quoted))]


def whole_of(*numbers: str) -> Fragment:
    """Return one of the numbers."""
    return lambda random, _: numbers[int(random.random() * len(numbers))]


def number(low: float, high: float) -> Fragment:
    """Return numbers between the two, with one decimal."""
    return lambda random, _: f"{low + random.random() * (high - low):.1f}"


def user(random: Random, _: int) -> str:
    """Return a customer; some come more often than others."""
    return str(1 + int(random.random() ** 2 * 48_000))


def email(random: Random, _: int) -> str:
    """Return an address at example.com."""
    first = _FIRST_NAMES[int(random.random() * len(_FIRST_NAMES))]
    last = _LAST_NAMES[int(random.random() * len(_LAST_NAMES))]
    return f'"{first}.{last}{int(random.random() * 90)}@example.com"'


def amount(random: Random, _: int) -> str:
    """Return an amount of money, small ones more often, as Decimal is stored."""
    return f'"{4 + random.random() ** 3 * 600:.2f}"'


def day(days_ago: int) -> Fragment:
    """Return the date so many days before."""
    return lambda _, at: f'"{from_micros(at - days_ago * DAY):%Y-%m-%d}"'


def path(random: Random, at: int) -> str:
    """Return where a supplier put a catalogue on that day."""
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
