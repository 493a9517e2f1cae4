"""A storage that fails when it is told to: for tests of what a program does while its storage is away."""

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
_NEVER_FAIL = frozenset({"close", "interrupt", "new_ids"})  # what one that is away does as well


@attrs.define(eq=False)
class _Fault:
    error: Exception
    times: int
    after_effect: bool


def _passes_on(verb: str) -> Callable[..., object]:
    """Return a method that does the verb of the storage inside, unless it is to fail."""

    @wraps(getattr(Storage, verb), updated=())  # its being abstract is not passed on
    def call(self: FaultyStorage, *args: object, **kwargs: object) -> object:
        return self.pass_on(verb, *args, **kwargs)

    return call


def _passes_on_every_verb(kind: _Kind) -> _Kind:
    """The class has every verb of the contract, also those that a later version of it brings."""
    for verb in _VERBS:
        if verb not in vars(kind):
            setattr(kind, verb, _passes_on(verb))
    abc.update_abstractmethods(kind)
    return kind


@_passes_on_every_verb
class FaultyStorage(Storage):
    """Another storage, each of whose verbs can be told to fail; `FaultyStorage.around(storage)` makes one.

    ::

        storage = FaultyStorage.around(MemoryStorage())
        fire = Firelock(storage)
        storage.fail_next("insert", times=2)              # the next enqueue raises StorageUnavailable
        storage.fail_next("insert", after_effect=True)    # stored, the reply is lost: sent again, one job
    """

    contract = 1

    def __init__(self, inside: Storage) -> None:
        self.inside = inside
        self.features = inside.features
        self.url, self.connect_url = inside.url, inside.connect_url
        self._lock = threading.Lock()
        self._faults: dict[str, list[_Fault]] = {}
        self._is_away = False
        self.refusals = 0  # calls that met the storage away

    @classmethod
    def around(cls, storage: Storage) -> Self:
        """Return the storage with faults to come; it is used and closed through what is returned."""
        return cls(storage)

    @property
    def clock_offset(self) -> int:
        """The offset of the storage inside."""
        return movable(self.inside).clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        movable(self.inside).clock_offset = offset

    # ---- faults to come ----------------------------------------------------------------------------------

    def fail_next(
        self, verb: str, error: Exception | None = None, *, times: int = 1, after_effect: bool = False
    ) -> None:
        """The next calls of the verb raise; the error is a `StorageUnavailable` unless given.

        Args:
            verb: a method of `firelock.storage.Storage`: `insert`, `claim`, `apply`, `exchange`, …
            error: what is raised, each time the same.
            times: how many calls fail, after those that were told to fail before.
            after_effect: the storage has done it all the same: only its answer is lost.

        Raises:
            ConfigurationError: a storage has no such verb.
        """
        if verb not in _VERBS or verb in _NEVER_FAIL:
            known = ", ".join(sorted(set(_VERBS) - _NEVER_FAIL))
            raise ConfigurationError(f"No verb {verb!r} of a storage can fail; use one of {known}.")
        fault = _Fault(error or StorageUnavailable(f"{verb} was told to fail"), times, after_effect)
        with self._lock:
            self._faults.setdefault(verb, []).append(fault)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within the block every verb raises `StorageUnavailable`, and nothing is done."""
        self._is_away = True
        try:
            yield
        finally:
            self._is_away = False

    # ---- every verb --------------------------------------------------------------------------------------

    def pass_on(self, verb: str, *args: object, **kwargs: object) -> object:
        """Return what the storage inside answers, unless a fault has its turn."""
        if verb not in _NEVER_FAIL and self._is_away:
            with self._lock:
                self.refusals += 1
            raise StorageUnavailable(f"{self.url} is away")
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
