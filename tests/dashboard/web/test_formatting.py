"""Numbers and spans as people read them."""

from __future__ import annotations

import pytest

from firelock_dashboard.web.formatting import count_text, percentile


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (1_000, "1,000"), (99_999, "99,999"), (123_456, "123 k"), (1_200_000, "1.2 M")],
)
def test_a_number_has_commas_then_a_unit(number, text):
    """As the core's own sentences write numbers: "23 of 1,000 members failed"."""
    assert text == count_text(number)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "≤ –"),
        (0.000_013, "< 1 ms"),
        (0.000_947, "< 1 ms"),
        (0.001, "< 1 ms"),
        (0.04, "≤ 40 ms"),
    ],
)
def test_a_percentile_claims_no_more_than_its_histogram_knows(seconds, text):
    """The first bucket begins at 0, so a percentile within it says only that it is below its end."""
    assert text == percentile(seconds, "≤ ")
