"""The queues that a server checks, and their order."""

from __future__ import annotations

from collections import Counter

import pytest

from firelock.errors import ConfigurationError
from firelock.server.queue_choice import QueueChoice, parse_queues


@pytest.mark.parametrize("queues", [["critical", "default"], "critical,default", " critical , default ,"])
def test_listed_queues_are_checked_in_order(queues):
    """Queues that are named in a list or a string are checked in the given order each time."""
    choice = parse_queues(queues)

    assert [("critical", "default")] * 3 == [tuple(choice.order()) for _ in range(3)]
    assert "critical,default" == str(choice)


@pytest.mark.parametrize("queues", ["critical:3,default:1", ["critical:3", "default:1"]])
def test_weight_determines_how_often_a_queue_is_checked_first(queues):
    """Every claim checks all queues, whatever their weights are."""
    choice = parse_queues(queues)

    orders = [tuple(choice.order()) for _ in range(4_000)]

    first = Counter(order[0] for order in orders)
    assert {("critical", "default"), ("default", "critical")} == set(orders)
    assert 2_700 < first["critical"] < 3_300
    assert QueueChoice(("critical", "default"), (3, 1)) == choice
    assert "critical:3,default:1" == str(choice)


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ("", "must contain at least one queue, got"),
        ([], "must contain at least one queue"),
        (" , ", "must contain at least one queue"),
        ("a,a", "must not contain a queue twice, got"),
        ("a:3,b", "Either all queues or none must have a weight"),
        ("a:0", "a weight must be an integer from 1 to 1000, got '0'"),
        ("a:1001", "from 1 to 1000, got '1001'"),
        ("a:", "from 1 to 1000, got ''"),
        ("a:²", "from 1 to 1000, got '²'"),
        ("*,a", "'_', '.', '-', got '*'"),
        ("Mail", "'_', '.', '-', got 'Mail'"),
        (["x" * 65], "'_', '.', '-', got 'x{65}'"),
        ([5], r"queues must contain only strings, got 5"),
        (5, "queues must be a list or a string, got 5"),
    ],
)
def test_invalid_queue_name_or_weight_raises_an_error(queues, words):
    """An invalid name or weight raises a configuration error that contains it."""
    with pytest.raises(ConfigurationError, match=words.replace("*", r"\*")):
        parse_queues(queues)
