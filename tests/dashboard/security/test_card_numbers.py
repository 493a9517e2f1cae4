"""Card numbers in text: the numbers that are masked, and the long numbers that are not."""

from __future__ import annotations

import random
import uuid

import pytest

from firelock_dashboard.security.redaction import MASK, Redactor

# Test numbers that card networks and payment services publish.
CARDS = [
    "4111111111111111", "4012888888881881", "4222222222222", "4000000000000000006", "5555555555554444",
    "5105105105105100", "2223003122003222", "2720990000000007", "378282246310005", "371449635398431",
    "6011111111111117", "6011000990139424", "30569309025904", "38520000023237", "36227206271667",
    "3530111333300000", "3566002020360505", "6200000000000005", "6759649826438453", "2200000000000004",
]  # fmt: skip


@pytest.fixture
def redactor():
    return Redactor()


@pytest.mark.parametrize("card", CARDS)
def test_card_number_is_masked_in_text_and_as_a_number(redactor, card):
    assert redactor.text(f"card {card} refused") == f"card {MASK} refused"
    assert redactor.value({"note": f"({card})", "n": int(card)}) == {"note": f"({MASK})", "n": MASK}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("my card is 4111 1111 1111 1111", f"my card is {MASK}"),
        ("4111-1111-1111-1111.", f"{MASK}."),
        ("4111\u00a01111\u00a01111\u00a01111", MASK),
        ("3782 822463 10005", MASK),
        ("3056 930902 5904", MASK),
        ("41111111 11111111", MASK),
        ("4000 0000 0000 0000 006", MASK),
        ("order 7 4111 1111 1111 1111 12/27", f"order 7 {MASK} 12/27"),
        ("order 1234 4111 1111 1111 1111", f"order 1234 {MASK}"),
        ("4111 1111 1111 1111 5555 5555 5555 4444", f"{MASK} {MASK}"),
        ("Ada,4111111111111111,5555555555554444", f"Ada,{MASK},{MASK}"),
        ("card-4111111111111111", f"card-{MASK}"),
        ("#4111111111111111, €4111111111111111", f"#{MASK}, €{MASK}"),
        (r"'pay\n4111111111111111'", rf"'pay\n{MASK}'"),
        ('["4111111111111111"]', f'["{MASK}"]'),
        ("4111111111111111\u2028", f"{MASK}\u2028"),
        ("٤ 4111111111111111", f"٤ {MASK}"),
    ],
)
def test_card_number_is_masked_with_its_spaces_and_hyphens(redactor, text, masked):
    assert redactor.text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112", "4111 1111 1111 1112",  # wrong check digit
        "411111111111111", "41111111111111111111", "24111111111111111", "41111111111111112",  # wrong length
        "x4111111111111111", "4111111111111111x", "a_4111111111111111", "0x4111111111111111ab",
        "0.4111111111111111", "4111111111111111.5", "-0.4532015112830366",
        "1" * 16, "0" * 16, "7992739871300000", "9" * 16,  # no network
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "41 11 11 11 11 11 11 11",  # no card's grouping
        "4111  1111  1111  1111", "4111:1111:1111:1111", "4111\n1111\n1111\n1111",
        "2026-11-30 03-44-52 123456", "+49 30 1234 5678 901", "192.168.100.200",
        "01a21072-9d46-7c87-a484-8087cf5d557e", "41111111-1111-4111-8111-111111111111",
        "00000000-0000-4111-1111-111111111111",
    ],
)  # fmt: skip
def test_other_numbers_are_not_masked(redactor, text):
    assert redactor.text(text) == text


def test_timestamps_are_not_masked(redactor):
    """The range is 2001-09-09 to 2033-05-18 in seconds, milliseconds, microseconds and nanoseconds."""
    chosen = random.Random(7)
    for unit in (1, 1_000, 1_000_000, 1_000_000_000):
        for _ in range(2_000):
            at = chosen.randrange(1_000_000_000 * unit, 2_000_000_000 * unit)
            assert redactor.value({"at": at, "text": f"since {at}"}) == {"at": at, "text": f"since {at}"}


def test_uuids_are_not_masked(redactor):
    chosen = random.Random(7)
    for _ in range(5_000):
        text = str(uuid.UUID(int=int("".join(chosen.choices("0123456789", k=32)), 16)))
        assert redactor.text(text) == text


def test_few_random_numbers_are_masked(redactor):
    """One random number in ten passes the Luhn check.

    Because the first digits and lengths of card networks are checked too, at most one in thirty is masked.
    """
    chosen = random.Random(7)
    for digits in range(13, 20):
        numbers = [str(chosen.randrange(10 ** (digits - 1), 10**digits)) for _ in range(4_000)]
        taken = sum(MASK in redactor.text(number) for number in numbers)
        assert taken / len(numbers) < 0.04, digits


@pytest.mark.parametrize("value", [True, False, None, 0, -4111111111111111, 4111111111111111.0, 10**400])
def test_other_values_are_not_masked(redactor, value):
    assert redactor.value([value]) == [value]


@pytest.mark.parametrize(
    "text",
    ["4111 " * 40_000, "4" * 400_000, "123 " * 100_000 + "x", "1-" * 200_000],
    ids=["cards", "digits", "groups", "hyphens"],
)
def test_cost_of_a_long_text_is_linear(redactor, text):
    """Very long texts are processed too, because a page may show texts of any size."""
    assert redactor.text(text)
