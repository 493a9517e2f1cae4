"""What a driver's error means to those who called, whatever the driver."""

from __future__ import annotations

from enum import Enum

import attrs

__all__ = ["Failure", "Meaning"]


class Meaning(Enum):
    """What is to be done about it."""

    CONFLICT = "others were in the way: the whole transaction is tried again"
    LOST = "the connection is gone: what was under way may have happened"
    PASSING = "trying again later may help"
    LASTING = "trying again will not help"


@attrs.frozen
class Failure:
    """An error of a database: what it means, and one line for people, without a value or a password."""

    meaning: Meaning
    text: str
