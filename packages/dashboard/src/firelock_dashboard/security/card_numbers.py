"""The search for card numbers in text.

According to ISO/IEC 7812-1, a card number has up to 19 digits: the number of its issuer, the account, and a
check digit by the Luhn formula. One of ten random numbers passes that check. So a number is treated as a card
number only if a card network also uses this combination of first digits and length; about three of a hundred
random numbers of 16 digits meet both conditions. No card number begins with 1, so timestamps in milliseconds,
microseconds or nanoseconds are not masked.
"""

from __future__ import annotations

import re

_SHORTEST, _LONGEST = 13, 19  # digits
_ENOUGH_DIGITS = re.compile(r"[0-9](?:[ \u00a0-]?[0-9]){12}")  # most strings have too few digits

# Groups of digits with one space or hyphen between two groups. A letter, an underscore or a decimal point
# next to a group shows that it is not part of a card number. UUIDs are matched so that they are skipped.
_RUN = re.compile(
    r"\b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b"
    r"|(?P<groups>(?:(?<![0-9A-Za-z_])(?<![0-9]\.)|(?<=\\[nrt]))(?=(?:[0-9][ \u00a0-]?){12}[0-9])"
    r"[0-9]++(?![A-Za-z_]|\.[0-9])(?:[ \u00a0-][0-9]++(?![A-Za-z_]|\.[0-9]))*)"
)
_GROUP = re.compile(r"[0-9]+")
_SHORTEST_GROUP = 3  # digits; cards have groups of 3 to 6 digits, while other text has many single digits

_NETWORK = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?=\d{16}\Z)(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d+"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?=\d{14,19}\Z)(?:30[0-5]|3095|3[689])\d+"  # Diners Club
    r"|(?=\d{16,19}\Z)(?:6011|64[4-9]|65|352[89]|35[3-8]|62|81)\d+"  # Discover, JCB, UnionPay
    r"|(?=\d{16,19}\Z)(?:60|82|508|220[0-4]|9792)\d+"  # RuPay, Mir, Troy
    r"|(?=\d{13,19}\Z)(?:5018|5020|5038|5893|6304|6759|676[1-3])\d+",  # Maestro
    re.ASCII,
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # the digit sum of twice each digit


def replace_card_numbers(text: str, mask: str) -> str:
    """Return the text with each card number, including its spaces or hyphens, replaced by the mask."""

    def masked(run: re.Match[str]) -> str:
        return run[0] if run["groups"] is None else _masked_run(run[0], mask)

    return _RUN.sub(masked, text) if _ENOUGH_DIGITS.search(text) else text


def is_card_number(number: int) -> bool:
    """Return whether the number is treated as a card number."""
    return 10 ** (_SHORTEST - 1) <= number < 10**_LONGEST and _is_card(str(number))


def _masked_run(run: str, mask: str) -> str:
    groups = list(_GROUP.finditer(run))
    parts, done, first = [], 0, 0
    while first < len(groups):
        last = _end_of_card(groups, first)
        if last is None:
            first += 1
            continue
        parts += [run[done : groups[first].start()], mask]
        done, first = groups[last].end(), last + 1
    return "".join([*parts, run[done:]])


def _end_of_card(groups: list[re.Match[str]], first: int) -> int | None:
    """Return the index of the last group of the longest card number that begins with this group, or None."""
    digits, found = "", None
    for at in range(first, len(groups)):
        group = groups[at][0]
        digits += group
        if len(group) < _SHORTEST_GROUP or len(digits) > _LONGEST:
            break
        if _is_card(digits):
            found = at
    return found


def _is_card(digits: str) -> bool:
    return _NETWORK.fullmatch(digits) is not None and _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    numbers = list(map(int, reversed(digits)))
    return (sum(numbers[::2]) + sum(_DOUBLED[one] for one in numbers[1::2])) % 10 == 0
