"""Distributed locks with fencing tokens, which are renewed while they are held.

A lock that is based only on time makes it unlikely, but not impossible, that two processes hold the lock at
the same time. The fence makes it possible to detect a previous holder: pass `lock.fence` to every system that
must reject requests from a previous holder.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from firelock.errors import ConfigurationError, LockLost, LockTimeout, StorageError
from firelock.model.aio import in_thread
from firelock.model.clock import elapsed_seconds
from firelock.model.ids import new_id
from firelock.model.text import shown

log = logging.getLogger(__name__)

_NAME_LIMIT = 200
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_SHORTEST_LIFE, _LONGEST_LIFE = 0.001, 366 * 86_400.0
_MOST_SLOTS, _TRIES_PER_ROUND = 1_000, 8
_NAMES_KEPT = 10_000


class LockProvider(Protocol):
    """A provider of locks. Every storage is a lock provider, and plugins can supply others; see `Storage`."""

    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """Return a fencing token; None if another owner holds the lock."""

    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        """Extend the lock; return False if it is lost."""

    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        """Release the lock; return False if it was lost."""


class Lock:
    """A lock that is held inside a `with` block. It is not reentrant; create one per use.

    Entering the block waits up to `timeout` seconds and then raises `LockTimeout`. While the lock is held, it
    is renewed each time a third of its `ttl` has passed. If the lock was lost, leaving the block raises
    `LockLost`, unless another exception is already being raised.

    With `slots`, this number of holders can hold the lock at the same time. Each of them acquires one of the
    locks `name#0`, `name#1` and so on. Fences of different slots must not be compared.
    """

    def __init__(
        self,
        provider: LockProvider,
        keeper: LockKeeper,
        name: str,
        *,
        timeout: float,
        ttl: float,
        slots: int | None = None,
        elapsed: Callable[[], float] = elapsed_seconds,
    ) -> None:
        _check_name(name)
        _check_durations(timeout, ttl)
        self._names = _slot_names(name, slots)
        keeper.check_slots(name, slots)
        self.name = name
        self.slot: int | None = None  # the number of the acquired slot, from 0; None without slots
        self.fence = 0  # the token of the acquired lock
        self._is_first_try = True
        self._next = random.randrange(len(self._names))  # the first slot to try  # noqa: S311 - to use all
        self._held_name = name
        self._provider = provider
        self._keeper = keeper
        # This clock must continue while the machine is suspended, as the storage's clock does.
        self._elapsed = elapsed
        self._timeout = timeout
        self._ttl = ttl
        self._owner = new_id()
        self._ends_at = 0.0
        self._is_held = False  # whether the lock was acquired and the block has not been left
        self._is_lost = False

    @property
    def lost(self) -> bool:
        """Whether the lock ended before the block was left; from then on, another owner can hold it."""
        return self._is_lost or (self.fence > 0 and self._elapsed() >= self._ends_at)

    # ---- acquiring ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Acquire the lock.

        Raises:
            LockTimeout: If the lock did not become free in time.
        """
        deadline, waits = self._begin(), _waits()
        while not self._try():
            self._keeper.pause(min(self._left(deadline), next(waits)))
        return self

    async def __aenter__(self) -> Self:
        """Acquire the lock. Waiting does not occupy a thread, so that threads stay free for releases."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        deadline, waits = self._begin(), _waits()
        while not await self._atry():
            await asyncio.sleep(min(self._left(deadline), next(waits)))
        return self

    def _begin(self) -> float:
        """Start a wait whose first attempt tries all slots; return the deadline of the wait."""
        self._is_first_try = True
        return time.monotonic() + self._timeout

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            which = f"None of the {len(self._names)} slots of lock" if len(self._names) > 1 else "Lock"
            verb = "was" if len(self._names) > 1 else "was not"
            raise LockTimeout(f"{which} {self.name!r} {verb} free within {self._timeout:g} s.")
        return left

    def _try(self) -> bool:
        if self._is_held:
            raise ConfigurationError(
                f"Lock {self.name!r} is already held by this object; create a new lock object for each use."
            )
        count = len(self._names)
        tries = count if self._is_first_try else min(count, _TRIES_PER_ROUND)
        self._is_first_try = False
        for _ in range(tries):
            slot = self._next
            self._next = (slot + 1) % count  # continue with the next slot, so that each wait tries all slots
            requested_at = self._elapsed()
            fence = self._provider.acquire_lock(self._names[slot], self._owner, self._ttl)
            if fence is not None:
                break
        else:
            return False
        self._held_name = self._names[slot]
        self.slot = slot if self._held_name != self.name else None
        self.fence, self._ends_at = fence, requested_at + self._ttl
        self._is_lost, self._is_held = False, True
        self._keeper.add(self)
        return True

    async def _atry(self) -> bool:
        """Try to acquire the lock in a thread; release it if the coroutine is cancelled in the meantime."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        mutex = threading.Lock()
        is_cancelled = is_taken = False

        def try_lock() -> bool:
            nonlocal is_taken
            taken = self._try()
            with mutex:
                is_taken = taken and not is_cancelled
            if taken and not is_taken:
                self._release_unused()
            return taken

        try:
            return await in_thread(try_lock)
        except asyncio.CancelledError:
            with mutex:
                is_cancelled = True
            if is_taken:
                threading.Thread(target=self._release_unused, name="firelock-unlock").start()
            raise

    # ---- releasing ---------------------------------------------------------------------------------------

    def __exit__(self, kind: object, *_: object) -> None:
        """Release the lock."""
        self._keeper.remove(self)
        # Set before the release, so that the result of a renewal in progress is ignored.
        self._is_held = False
        if not self.lost:
            self._ends_at = float("inf")  # the lock is no longer held, so it can no longer be lost
        try:
            # Only the provider can decide whether this token was valid until now or the lock was lost.
            released = self._provider.release_lock(self._held_name, self._owner, self.fence)
        except StorageError:
            if kind is None:
                raise
            log.warning("Lock %r could not be released; it expires within %g s.", self.name, self._ttl)
            return
        if kind is None and not released:
            self._is_lost = True
            raise LockLost(
                f"Lock {self.name!r} (fence {self.fence}) was lost before the end of its block. The work in "
                "the block may have overlapped with the work of another holder."
            )

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Release the lock."""
        await in_thread(self.__exit__, kind)

    def _release_unused(self) -> None:
        """Release a lock whose coroutine was cancelled before it could use the lock."""
        try:
            self.__exit__(None)
        except (StorageError, LockLost) as error:
            log.warning("Lock %r could not be released; it expires by itself: %s", self.name, error)

    # ---- renewing ----------------------------------------------------------------------------------------

    @property
    def renews_every(self) -> float:
        """The number of seconds between two renewals."""
        return self._ttl / 3

    def renew(self) -> bool:
        """Extend the lock by its ttl; return False if it is lost. The keeper calls this."""
        requested_at = self._elapsed()
        try:
            is_ours = self._provider.renew_lock(self._held_name, self._owner, self.fence, self._ttl)
        except Exception:
            log.warning("Lock %r could not be renewed; retrying until it expires.", self.name, exc_info=True)
            is_ours = requested_at < self._ends_at
        else:
            if is_ours and self._is_held:
                self._ends_at = requested_at + self._ttl
        if self._is_held and not is_ours:
            self._is_lost = True
        return is_ours


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_LIMIT or not name.isprintable():
        raise ConfigurationError(
            f"A lock name must have 1 to {_NAME_LIMIT} printable characters, got {shown(name)}."
        )


def _slot_names(name: str, slots: object) -> tuple[str, ...]:
    """Return the names of the locks of which one must be acquired."""
    if slots is None:
        return (name,)
    if not isinstance(slots, int) or isinstance(slots, bool) or not 1 <= slots <= _MOST_SLOTS:
        raise ConfigurationError(
            f"Lock {name!r}: slots must be an integer from 1 to {_MOST_SLOTS:,}, got {shown(slots)}."
        )
    names = tuple(f"{name}#{slot}" for slot in range(slots))
    if len(names[-1]) > _NAME_LIMIT:
        raise ConfigurationError(
            f"Lock name {shown(name)} is too long for a lock with slots; use at most {_NAME_LIMIT - 4} "
            "characters."
        )
    return names


def _check_durations(timeout: object, ttl: object) -> None:
    if not _is_between(timeout, 0, float("inf")) or not _is_between(ttl, _SHORTEST_LIFE, _LONGEST_LIFE):
        raise ConfigurationError(
            f"A lock's timeout must be at least 0 seconds, and its ttl from {_SHORTEST_LIFE:g} s to 366 "
            f"days, got timeout={timeout!r} and ttl={ttl!r}."
        )


def _is_between(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _waits() -> Iterator[float]:
    """Yield the pauses, in seconds and with jitter, between attempts to acquire a lock that is not free."""
    wait = _FIRST_WAIT
    while True:
        yield wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        wait = min(_LONGEST_WAIT, wait * 1.6)


class LockKeeper:
    """The thread of an app that renews its held locks; it runs while any lock is held."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}  # number of slots of each name that was used with slots
        self._reset()

    def check_slots(self, name: str, slots: int | None) -> None:
        """Check that this app always uses the name with the same number of slots.

        Raises:
            ConfigurationError: If the name was previously used with another number of slots.
        """
        previous = self._slots.get(name)
        if previous is not None and previous != slots:
            given = "without slots" if slots is None else f"with slots={slots}"
            raise ConfigurationError(
                f"Lock {name!r} was used with slots={previous} in this app, and is now used {given}. Use the "
                "same number everywhere; otherwise too many holders could have the lock."
            )
        if slots is not None and previous is None:
            if len(self._slots) >= _NAMES_KEPT:
                self._slots.clear()
            self._slots[name] = slots

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._held: dict[int, tuple[Lock, float]] = {}
        self._thread: threading.Thread | None = None

    def _follow_fork(self) -> None:
        if self._pid != os.getpid():  # a forked process has neither the thread nor the locks of its parent
            self._reset()

    def pause(self, seconds: float) -> None:
        """Return after this number of seconds, or when this process releases a lock."""
        self._follow_fork()
        with self._condition:
            self._condition.wait(seconds)

    def add(self, lock: Lock) -> None:
        """Start renewing the lock."""
        self._follow_fork()
        with self._condition:
            self._held[id(lock)] = (lock, time.monotonic() + lock.renews_every)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-locks", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def remove(self, lock: Lock) -> None:
        """Stop renewing the lock."""
        self._follow_fork()
        with self._condition:
            self._held.pop(id(lock), None)
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._held:
                    self._thread = None
                    return
                now = time.monotonic()
                due = [lock for lock, at in self._held.values() if at <= now]
                if not due:
                    self._condition.wait(min(at for _, at in self._held.values()) - now)
                    continue
            for lock in due:
                self._renew(lock)

    def _renew(self, lock: Lock) -> None:
        is_held = lock.renew()
        with self._condition:
            if id(lock) not in self._held:
                return
            if is_held:
                self._held[id(lock)] = (lock, time.monotonic() + lock.renews_every)
            else:
                del self._held[id(lock)]
