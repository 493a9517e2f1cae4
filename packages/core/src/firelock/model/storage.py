"""What a storage offers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import attrs


class Feature(StrEnum):
    """The six things a storage need not offer; what is not offered is refused with `UnsupportedFeature`."""

    NOTIFY = "notify"  # `wait` returns as soon as there is work; others let it time out
    TRANSACTIONAL_ENQUEUE = "transactional enqueue"  # `insert(within=…)` joins the caller's transaction
    SHARED = "shared"  # several processes may open it at once
    DURABLE = "durable"  # what was stored is there after everything was closed
    LIMITS = "limits"  # jobs with limits: how many at once, how often, whose turn
    UNIQUE = "unique"  # jobs with a unique key, debounced ones too


@attrs.frozen
class OpenTransaction:
    """A transaction of the caller's on a driver's own connection, of whose commit somebody knows."""

    connection: object  # the driver's, as `within=` takes it; the transaction has begun or begins by itself
    on_commit: Callable[[Callable[[], None]], object]  # calls what it is given, after the commit alone
    is_open: Callable[[], bool] | None = None  # whether it has not ended yet; called by `Tester` alone


@attrs.frozen
class SchemaState:
    """The stored schema's version and the one this code needs; 0 where nothing is stored yet."""

    found: int
    wanted: int
