"""The optional features of a storage, and small values of its interface."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import attrs


class Feature(StrEnum):
    """The six optional features of a storage; a call that needs a missing one raises `UnsupportedFeature`."""

    NOTIFY = "notify"  # `wait` returns as soon as there is work; without it, `wait` lasts until its timeout
    TRANSACTIONAL_ENQUEUE = "transactional enqueue"  # `insert(within=…)` joins the caller's transaction
    SHARED = "shared"  # several processes can open it at the same time
    DURABLE = "durable"  # stored data still exists after all handles have been closed
    LIMITS = "limits"  # jobs with limits: concurrency, rates and turns
    UNIQUE = "unique"  # jobs with a unique key, including debounced ones


@attrs.frozen
class OpenTransaction:
    """A caller's transaction on a driver's connection, with a function that registers commit callbacks."""

    connection: object  # a valid value of `within=`; its transaction has begun, or begins automatically
    # This function registers a callback that is called only after the commit.
    on_commit: Callable[[Callable[[], None]], object]
    # This function returns whether the transaction is still open; only `Tester` uses it.
    is_open: Callable[[], bool] | None = None


@attrs.frozen
class SchemaState:
    """The version of the stored schema and the version that this code needs; 0 if nothing is stored yet."""

    found: int
    wanted: int
