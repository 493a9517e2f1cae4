"""Two storages that get the same calls; their results and their contents are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from operator import methodcaller
from typing import Any, TypeVar

import attrs

from firelock.errors import FirelockError
from firelock.storage import Storage
from firelock.testing.conformance.scene import BASE, HOUR, Running
from firelock.testing.movable_clock import movable

_Answer = TypeVar("_Answer")


def comparable(value: object) -> object:
    """Return the value without fences and with times rounded down to the hour, to compare both storages.

    Each storage may number its fences freely, as long as they grow. Times before `BASE` come from callers and
    stay exact. Later times come from a storage's clock or are half-hours, so the times of the two storages
    never fall into different hours.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return value
    names = _compared_names(kind)  # type: ignore[arg-type]  # every class can be hashed
    if names is not None:
        return kind.__name__, {name: comparable(getattr(value, name)) for name in names}
    match value:
        case bool() | Enum() | str():
            return value
        case int() if value >= BASE:
            return f"hour {(value - BASE) // HOUR}"
        case Mapping():
            return {key: compared for key, one in value.items() if (compared := comparable(one))}
        case list() | tuple():
            return [comparable(one) for one in value]
        case _:
            return value


_PLAIN_TYPES = {str, bool, float, type(None)}  # most values are of these types and need no other check


@cache
def _compared_names(kind: type) -> tuple[str, ...] | None:
    """Return the compared fields of an attrs class; None for any other class."""
    if not attrs.has(kind):
        return None
    return tuple(one.name for one in attrs.fields(kind) if one.name != "fence")


@attrs.frozen
class Pair:
    """One claim, as each of the two storages returned it."""

    model: Running
    real: Running

    @property
    def id(self) -> str:
        """The job's id."""
        return self.real.id


class Twin:
    """The model and the storage under test; every difference between them is an `AssertionError`."""

    def __init__(self, model: Storage, real: Storage) -> None:
        self.model, self.real = model, real
        self._starts = BASE - model.clock(), BASE - real.clock()
        self.hours = 0
        self.advance(0)

    def advance(self, hours: int) -> None:
        """Move both clocks forward by this number of hours."""
        self.hours += hours
        movable(self.model).clock_offset, movable(self.real).clock_offset = (
            start + self.hours * HOUR for start in self._starts
        )

    def half_past(self, hours: int) -> int:
        """Return the half-hour this many hours from now; neither clock reaches it by chance."""
        return BASE + (self.hours + hours) * HOUR + HOUR // 2

    def call(self, verb: str | Callable[[Storage], object], *arguments: object, **named: object) -> Any:  # noqa: ANN401 - the verb's result
        """Return the storage's result, which must equal the model's; None if both raised the same error."""
        function = verb if callable(verb) else methodcaller(verb, *arguments, **named)
        expected, actual = (self._tried(function, storage) for storage in (self.model, self.real))
        if isinstance(expected, FirelockError) or isinstance(actual, FirelockError):
            assert type(expected) is type(actual), f"the model: {expected!r}; the storage: {actual!r}"
            return None
        self.compare(expected, actual)
        return actual

    def call_each(
        self, on_model: Callable[[Storage], _Answer], on_real: Callable[[Storage], _Answer]
    ) -> None:
        """Make a different call on each storage, and check that both results are the same."""
        self.compare(on_model(self.model), on_real(self.real))

    @staticmethod
    def compare(expected: object, actual: object) -> None:
        """Check that the model and the storage have the same value."""
        assert comparable(expected) == comparable(actual), "the storage (right) differs from the model (left)"

    @staticmethod
    def _tried(verb: Callable[[Storage], _Answer], storage: Storage) -> _Answer | FirelockError:
        try:
            return verb(storage)
        except FirelockError as error:
            return error
