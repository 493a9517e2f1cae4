"""The settings of a limit: the number of jobs that hold a key at the same time, and the rate of their starts.

Rates use the generic cell rate algorithm (GCRA, ITU-T I.371). It stores one time per key, `next_arrival_at`,
which the algorithm calls the theoretical arrival time. Previous starts have used the rate up to this time, so
the next unit is due then. Units within the burst can be used earlier.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

import attrs

from firelock.errors import StorageError
from firelock.model.clock import SECOND


@lru_cache(maxsize=4_096)
def name_of(key: str) -> str:
    """Return the name that supplies the settings of a key without its own settings.

    For example, the name of `tenant:7/openai` is `tenant/openai`.
    """
    return "/".join(part.partition(":")[0] for part in key.split("/"))


@attrs.frozen
class LimitSettings:
    """The settings of a limit: the maximum number of jobs that hold a key, and the rate of their starts."""

    concurrent: int | None = None  # maximum number of jobs that hold a key; None for no limit
    rate: int | None = None  # units of cost per period `per`; None for no limit
    per: int = SECOND  # microseconds
    # The units that can be used at the same moment; None for the units of a second, at least 1.
    burst: int | None = None
    is_paused: bool = False
    interval: float = attrs.field(init=False, eq=False, repr=False)
    """Microseconds per unit; 0 without a rate, and for a rate of 0, which never admits a job."""
    burst_units: float = attrs.field(init=False, eq=False, repr=False)
    """The units that can start at the same moment."""

    @interval.default
    def _interval(self) -> float:
        return self.per / self.rate if self.rate else 0.0

    @burst_units.default
    def _burst_units(self) -> float:
        if self.burst is not None:
            return float(max(1, self.burst))
        return max(1.0, SECOND / self.interval if self.interval else 1.0)

    @property
    def has_any(self) -> bool:
        """Whether a concurrency or a rate is set."""
        return self.concurrent is not None or self.rate is not None

    def opens_at(self, next_arrival_at: float, cost: int = 1) -> float:
        """Return the time when a key with this next arrival allows a start of this cost.

        A start that costs more than a burst waits until the key is completely free, and then uses future
        units. Such a job therefore starts late, but it never starves.
        """
        return next_arrival_at - max(0.0, self.burst_units - cost) * self.interval

    def arrival_after_start(self, next_arrival_at: float, cost: float, now: int) -> float:
        """Return the next arrival of a key after a start of this cost."""
        if not self.interval or not cost:
            return next_arrival_at
        return max(next_arrival_at, now) + cost * self.interval


UNLIMITED = LimitSettings()


def read_settings(value: str) -> LimitSettings:
    """Return the settings from the value of a record of the kind `limit`.

    Raises:
        StorageError: The value does not have this form.
    """
    try:
        said = json.loads(value)
        return LimitSettings(
            concurrent=said.get("concurrent"),
            rate=said.get("rate"),
            per=said.get("per") or SECOND,
            burst=said.get("burst"),
            is_paused=bool(said.get("paused")),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise StorageError(f"The stored settings of a limit are invalid: {value[:200]!r}.") from error


def settings_for(key: str, known: Mapping[str, LimitSettings]) -> LimitSettings:
    """Return the settings of a key: its own settings, otherwise those of its name, otherwise empty settings.

    The key is paused if either it or its name is paused.
    """
    own, named = known.get(key, UNLIMITED), known.get(name_of(key), UNLIMITED)
    settings = own if own.has_any else named
    is_paused = own.is_paused or named.is_paused
    return settings if settings.is_paused == is_paused else attrs.evolve(settings, is_paused=is_paused)


def arrival_after_spend(
    settings: LimitSettings, next_arrival_at: int, *, cost: int, until: int | None, now: int
) -> int:
    """Return the next arrival of a key after `Storage.spend`."""
    if cost >= 0:
        arrival_at = settings.arrival_after_start(next_arrival_at, cost, now)
    else:  # without a rate, no units are used
        arrival_at = next_arrival_at + cost * settings.interval if settings.interval else 0
    if until is not None:
        arrival_at = max(arrival_at, until + (settings.burst_units - 1) * settings.interval)
    return max(0, round(arrival_at))
