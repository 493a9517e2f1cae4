"""The queues from which a server claims jobs, and their order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from firelock.errors import ConfigurationError
from firelock.options import check_queue

_HEAVIEST = 1_000  # the largest weight of a queue


@attrs.frozen
class QueueChoice:
    """All queues, a strict order, or a weighted order that is drawn at random for each claim."""

    names: tuple[str, ...] | None
    weights: tuple[int, ...] | None = None

    def order(self) -> Sequence[str] | None:
        """Return the queues of the next claim, in order; None for all queues.

        If the queues have weights, each one comes first in proportion to its weight. A queue with a large
        weight is preferred, but no queue starves.
        """
        if self.names is None or self.weights is None:
            return self.names
        drawn = [random.random() ** (1 / weight) for weight in self.weights]  # noqa: S311 - a fair draw
        return [name for _, name in sorted(zip(drawn, self.names, strict=True), reverse=True)]

    def __str__(self) -> str:
        """Return the choice as a user would write it."""
        if self.names is None:
            return "*"
        if self.weights is None:
            return ",".join(self.names)
        return ",".join(f"{name}:{weight}" for name, weight in zip(self.names, self.weights, strict=True))


def parse_queues(queues: Sequence[str] | str | None) -> QueueChoice:
    """Return the choice for a list of names or a string: "critical,default" or "critical:3,default:1".

    None and "*" mean all queues.

    Raises:
        ConfigurationError: If a name or weight is invalid, a queue is repeated, or only some queues have
            weights.
    """
    if queues is None or queues == "*":
        return QueueChoice(None)
    pairs = [part.strip().partition(":") for part in _parts(queues) if part.strip()]
    names = tuple(check_queue(name) for name, _, _ in pairs)
    if not names:
        raise ConfigurationError(
            f"queues must contain at least one queue, got {queues!r}. Omit it to serve all queues."
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"queues must not contain a queue twice, got {queues!r}.")
    weights = [text for _, colon, text in pairs if colon]
    if weights and len(weights) < len(names):
        raise ConfigurationError(
            f"Either all queues or none must have a weight (critical:3,default:1), got queues={queues!r}."
        )
    return QueueChoice(names, tuple(_weight(text, queues) for text in weights) or None)


def _parts(queues: Sequence[str] | str) -> list[str]:
    if isinstance(queues, str):
        return queues.split(",")
    if not isinstance(queues, list | tuple):
        raise ConfigurationError(f"queues must be a list or a string, got {queues!r}.")
    for name in queues:
        if not isinstance(name, str):
            raise ConfigurationError(f"queues must contain only strings, got {name!r} in {queues!r}.")
    return list(queues)


def _weight(text: str, queues: Sequence[str] | str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _HEAVIEST):
        raise ConfigurationError(
            f"queues={queues!r}: a weight must be an integer from 1 to {_HEAVIEST}, got {text!r}."
        )
    return int(text)
