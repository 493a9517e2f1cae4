"""A storage that fails on demand, to test how a program behaves when its storage is unreachable."""

from __future__ import annotations

import abc
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Self, TypeVar

import attrs

from firelock.errors import ConfigurationError, StorageUnavailable
from firelock.storage import Storage
from firelock.testing.movable_clock import movable

_Kind = TypeVar("_Kind", bound=type)

_VERBS = tuple(
    name for name, value in vars(Storage).items() if inspect.isfunction(value) and not name.startswith("_")
)
_NEVER_FAIL = frozenset({"close", "interrupt", "new_ids"})  # these verbs work without a reachable storage


@attrs.define(eq=False)
class _Fault:
    error: Exception
    times: int
    after_effect: bool


def _passes_on(verb: str) -> Callable[..., object]:
    """Return a method that calls the verb of the inner storage, unless this call should fail."""

    @wraps(getattr(Storage, verb), updated=())  # do not copy __dict__, which would make the method abstract
    def call(self: FaultyStorage, *args: object, **kwargs: object) -> object:
        return self.pass_on(verb, *args, **kwargs)

    return call


def _passes_on_every_verb(kind: _Kind) -> _Kind:
    """Add every verb of the storage contract to the class, including verbs of later versions."""
    for verb in _VERBS:
        if verb not in vars(kind):
            setattr(kind, verb, _passes_on(verb))
    abc.update_abstractmethods(kind)
    return kind


@_passes_on_every_verb
class FaultyStorage(Storage):
    """A wrapper around another storage that can make any of its verbs fail.

    `FaultyStorage.around(storage)` creates one.

    ::

        storage = FaultyStorage.around(MemoryStorage())
        fire = Firelock(storage)
        storage.fail_next("insert", times=2)              # the next enqueue raises StorageUnavailable
        storage.fail_next("insert", after_effect=True)    # stored, but no reply: sent again, still one job
    """

    contract = 1

    def __init__(self, inside: Storage) -> None:
        self.inside = inside
        self.features = inside.features
        self.url, self.connect_url = inside.url, inside.connect_url
        self._lock = threading.Lock()
        self._faults: dict[str, list[_Fault]] = {}
        self._is_away = False
        self.refusals = 0  # the number of calls while the storage was unreachable

    @classmethod
    def around(cls, storage: Storage) -> Self:
        """Return a wrapper around the storage; use and close the storage through the wrapper."""
        return cls(storage)

    @property
    def clock_offset(self) -> int:
        """The clock offset of the inner storage."""
        return movable(self.inside).clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        movable(self.inside).clock_offset = offset

    # ---- planned faults ----------------------------------------------------------------------------------

    def fail_next(
        self, verb: str, error: Exception | None = None, *, times: int = 1, after_effect: bool = False
    ) -> None:
        """Make the next calls of the verb raise the error, by default a `StorageUnavailable`.

        Args:
            verb: a method of `firelock.storage.Storage`: `insert`, `claim`, `apply`, `exchange`, …
            error: the error to raise; each call raises the same object.
            times: the number of calls that fail, after the failures planned by earlier calls of this method.
            after_effect: whether the storage carries out the call, and only its result is lost.

        Raises:
            ConfigurationError: If a storage has no such verb.
        """
        if verb not in _VERBS or verb in _NEVER_FAIL:
            known = ", ".join(sorted(set(_VERBS) - _NEVER_FAIL))
            raise ConfigurationError(f"verb must be one of {known}, got {verb!r}.")
        fault = _Fault(error or StorageUnavailable(f"{verb} fails, see fail_next()"), times, after_effect)
        with self._lock:
            self._faults.setdefault(verb, []).append(fault)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Make every verb raise `StorageUnavailable` within the block, without doing anything."""
        self._is_away = True
        try:
            yield
        finally:
            self._is_away = False

    # ---- every verb --------------------------------------------------------------------------------------

    def pass_on(self, verb: str, *args: object, **kwargs: object) -> object:
        """Return the result of the inner storage, or raise the next planned fault."""
        if verb not in _NEVER_FAIL and self._is_away:
            with self._lock:
                self.refusals += 1
            raise StorageUnavailable(f"{self.url} is unreachable within away()")
        fault = self._take(verb)
        if fault is not None and not fault.after_effect:
            raise fault.error
        answer: object = getattr(self.inside, verb)(*args, **kwargs)
        if fault is not None:
            raise fault.error
        return answer

    def _take(self, verb: str) -> _Fault | None:
        with self._lock:
            faults = self._faults.get(verb)
            if not faults:
                return None
            fault = faults[0]
            fault.times -= 1
            if fault.times <= 0:
                del faults[0]
            return fault
