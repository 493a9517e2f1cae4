"""Numbers and durations as they are displayed."""

from __future__ import annotations

import pytest

from firelock_dashboard.web.formatting import count_text, one_line, percentile


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (1_000, "1,000"), (99_999, "99,999"), (123_456, "123 k"), (1_200_000, "1.2 M")],
)
def test_large_numbers_have_commas_and_then_a_unit(number, text):
    """Sentences of the core contain numbers in the same format: "23 of 1,000 members failed"."""
    assert text == count_text(number)


@pytest.mark.parametrize(
    ("bound", "runs", "text"),
    [
        (None, None, "–"),
        (0.000_013, 2, "< 1 ms"),
        (0.001, None, "< 1 ms"),
        (0.000_013, 1, "13 µs"),
        (0.04, 2, "≤ 40 ms"),
        (0.0505, 2, "≤ 51 ms"),
        (0.098, 1, "98 ms"),
        (0.692_1, None, "≤ 700 ms"),
        (71.3, 3, "≤ 1 min 12 s"),
    ],
)
def test_percentile_of_several_runs_is_rounded_up(bound, runs, text):
    """For a single run, the duration is exact.

    For several runs, it is an upper bound, so it is rounded up.
    """
    assert text == percentile(bound, runs)


@pytest.mark.parametrize(("name", "css_class"), [("a" * 36, "one-line"), ("a" * 37, "")])
def test_short_name_does_not_wrap(name, css_class):
    """A longer name may wrap; otherwise the table would be wider than the page."""
    assert css_class == one_line(name)
