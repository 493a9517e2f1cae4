"""Tests of locks: one holder at a time, and a token that distinguishes a late holder from the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.ids import new_id
from firelock.storage.locks import LockProvider
from firelock.testing.conformance.kit import REPORTED, Conformance
from firelock.testing.conformance.race import ROUNDS, race
from firelock.testing.movable_clock import movable

_TTL = 3_600.0


class LockHandles(Protocol):
    """Handles of the same locks, whose clocks are moved together."""

    @property
    def first(self) -> LockProvider:
        """The handle that most tests use."""
        ...

    def open(self) -> LockProvider:
        """Return another handle of the same locks."""
        ...

    def advance(self, seconds: float) -> None:
        """Move the clock of every handle forward."""
        ...


@attrs.frozen
class NamedLock:
    """A lock as seen through one handle; each owner acquires it for an hour."""

    handles: LockHandles
    keeper: LockProvider
    name: str

    def open(self) -> NamedLock:
        """Return the same lock as seen through another handle."""
        return attrs.evolve(self, keeper=self.handles.open())

    def advance(self, hours: float) -> None:
        """Move the clock forward by this number of lifetimes of the lock."""
        self.handles.advance(hours * _TTL)

    def acquire(self, owner: str) -> int | None:
        """Acquire the lock for the owner; return its token, or None if the owner does not get it."""
        return self.keeper.acquire_lock(self.name, owner, _TTL)

    def acquired(self, owner: str) -> int:
        """Acquire the lock for the owner, which must succeed; return its token."""
        fence = self.acquire(owner)
        assert fence is not None, f"{owner} did not get the lock"
        return fence

    def renew(self, owner: str, fence: int) -> bool:
        """Renew the owner's lock for another hour; return whether the owner still holds it."""
        return self.keeper.renew_lock(self.name, owner, fence, _TTL)

    def release(self, owner: str, fence: int) -> bool:
        """Release the owner's lock; return whether the owner held it."""
        return self.keeper.release_lock(self.name, owner, fence)


class LockTests(Conformance):
    """The requirements for `acquire_lock`, `renew_lock` and `release_lock`."""

    verbs = "acquire_lock renew_lock release_lock"

    @pytest.fixture
    def lock(self, locks: LockHandles) -> NamedLock:
        """Return a lock that has never been held."""
        return NamedLock(locks, locks.first, f"lock:{new_id()}")

    def test_free_lock_is_acquired(self, lock: NamedLock) -> None:
        """A free lock is acquired with a positive token.

        If this fails: work that needs a lock never runs.
        """
        fence = lock.acquire("ada")

        assert fence is not None
        assert fence > 0

    def test_held_lock_cannot_be_acquired_by_another_owner(self, lock: NamedLock) -> None:
        """While one owner holds a lock, another owner gets None through every handle.

        If this fails: two processes simultaneously do work that only one of them may do.
        """
        lock.acquire("ada")

        answers = [lock.acquire("bob"), lock.open().acquire("bob")]

        assert [None, None] == answers

    def test_each_name_is_a_separate_lock(self, lock: NamedLock) -> None:
        """Two locks with different names can be held by two owners at the same time.

        If this fails: unrelated owners wait for each other.
        """
        lock.acquire("ada")

        assert attrs.evolve(lock, name=lock.name + "2").acquire("bob") is not None

    @pytest.mark.parametrize("character", ["n", "\U0001f525"], ids=["one byte", "four bytes"])
    def test_longest_lock_names_are_distinguished(self, lock: NamedLock, character: str) -> None:
        """Names of 200 characters (up to 800 bytes) are separate locks even if only the last one differs.

        If this fails: a store that limits, truncates or case-folds names refuses a lock with a long name, or
        unrelated owners wait for each other.
        """
        own = "".join(chr(ord(character) // 256 * 256 + ord(letter)) for letter in lock.name)
        first, second = (
            attrs.evolve(lock, name=own + character * (199 - len(own)) + end) for end in (character, "x")
        )

        fence, other = first.acquired("ada"), second.acquired("bob")

        assert [None, None] == [first.open().acquire("bob"), second.open().acquire("ada")]
        assert first.renew("ada", fence)
        assert first.release("ada", fence)
        assert second.renew("bob", other)
        assert first.acquired("bob") > fence

    @pytest.mark.parametrize("frees", ["release", "expiry"])
    def test_released_or_expired_lock_can_be_acquired(self, lock: NamedLock, frees: str) -> None:
        """A lock that was released or has expired can be acquired by another owner, with a larger token.

        If this fails: locks are held forever, the lock of a dead process blocks all others, or an old token
        is accepted as the current one.
        """
        first = lock.acquired("ada")

        if frees == "release":
            assert lock.release("ada", first)
        else:
            lock.advance(2)

        assert lock.acquired("bob") > first

    def test_token_grows_when_its_owner_acquires_again(self, lock: NamedLock) -> None:
        """An owner that acquires a lock again after a release or an expiry gets a larger token.

        If this fails: work under the first token is mistaken for work under the second, or an owner that was
        suspended cannot be distinguished from one that kept its lock.
        """
        fences = []
        for _ in range(4):
            fences.append(lock.acquired("ada"))
            lock.release("ada", fences[-1])
        fences.append(lock.acquired("ada"))
        lock.advance(2)
        fences.append(lock.acquired("ada"))

        assert sorted(set(fences)) == fences

    def test_holder_gets_the_same_token_from_a_second_acquire(self, lock: NamedLock) -> None:
        """An owner that acquires a lock that it already holds gets the same token and a full lifetime.

        If this fails: an acquire that is sent again after a lost reply locks out its own sender.
        """
        first = lock.acquired("ada")
        lock.advance(0.75)

        second = lock.acquired("ada")
        lock.advance(0.75)

        assert first == second
        assert lock.acquire("bob") is None

    def test_renewed_lock_has_its_full_lifetime(self, lock: NamedLock) -> None:
        """A renewed lock lasts for the given time from now.

        If this fails: a lock that is still held is given to another owner.
        """
        fence = lock.acquired("ada")
        lock.advance(0.75)

        renewed = lock.renew("ada", fence)
        lock.advance(0.75)

        assert renewed
        assert lock.acquire("bob") is None
        lock.advance(1)
        assert lock.acquire("bob") is not None

    def test_expired_lock_is_not_renewed(self, lock: NamedLock) -> None:
        """A renewal after expiry returns False, whether or not another owner has the lock by then.

        If this fails: a holder that was suspended takes the lock from its successor.
        """
        fence = lock.acquired("ada")
        lock.advance(2)

        before_the_successor = lock.renew("ada", fence)
        successor = lock.acquired("bob")
        after_it = lock.renew("ada", fence)

        assert (False, False) == (before_the_successor, after_it)
        assert lock.renew("bob", successor)

    def test_only_the_owner_with_the_current_token_renews_or_releases(self, lock: NamedLock) -> None:
        """Only the current token, sent by its own owner, renews or releases a lock.

        An old or guessed token does not, and neither does the current token sent by another owner.

        If this fails: a late release, or anyone who guesses a number, frees a lock that another owner uses.
        """
        stale = lock.acquired("ada")
        lock.release("ada", stale)
        fence = lock.acquired("ada")

        answers = [
            answer
            for owner, token in (("ada", stale), ("ada", fence + 1), ("bob", fence))
            for answer in (lock.renew(owner, token), lock.release(owner, token))
        ]

        assert [False] * 6 == answers
        assert lock.acquire("bob") is None

    def test_free_lock_is_neither_renewed_nor_released(self, lock: NamedLock) -> None:
        """Renewing or releasing a lock that is free, or was never held, returns False and leaves it free.

        If this fails: a second release, or a late renewal, locks out everyone.
        """
        fence, never = lock.acquired("ada"), attrs.evolve(lock, name=lock.name + "never")
        lock.release("ada", fence)

        for one in (lock, never):
            assert (False, False) == (one.release("ada", fence), one.renew("ada", fence))
            assert one.acquire("bob") is not None

    def test_one_of_eight_concurrent_owners_gets_the_lock(self, lock: NamedLock) -> None:
        """If eight owners try to acquire an expired or free lock at the same time, exactly one gets it.

        The tokens grow from round to round.

        If this fails: several owners hold the lock at the same time, for example after the death of its
        holder.
        """
        handles = [lock.open() for _ in range(8)]
        tokens = [lock.acquired("ada")]
        lock.advance(2)

        for _ in range(ROUNDS):
            answers = race(
                [partial(handle.acquire, f"owner {place}") for place, handle in enumerate(handles)]
            )
            ((winner, token),) = [(place, one) for place, one in enumerate(answers) if one is not None]
            tokens.append(token)
            assert lock.release(f"owner {winner}", token)

        assert sorted(set(tokens)) == tokens


class _Providers:
    """The handles of a provider; a test can open any number of them."""

    def __init__(self, open_provider: Callable[[], LockProvider]) -> None:
        self._open_provider = open_provider
        self._opened: list[LockProvider] = []
        self._offset = 0
        self.first = self.open()

    def open(self) -> LockProvider:
        provider = self._open_provider()
        self._opened.append(provider)
        self._move(provider)
        return provider

    def advance(self, seconds: float) -> None:
        self._offset += int(seconds * SECOND)
        for provider in self._opened:
            self._move(provider)

    def _move(self, provider: LockProvider) -> None:
        movable(provider).clock_offset = self._offset

    def close(self) -> None:
        for provider in self._opened:
            close = getattr(provider, "close", None)
            if close is not None:
                close()


def _open_locks(url: str) -> LockProvider:
    """Return the lock provider at a URL, or the storage at this URL, which also provides locks."""
    from firelock.errors import UnknownScheme
    from firelock.plugins.loader import Plugins

    plugins = Plugins()
    try:
        return plugins.open_locks(url)
    except UnknownScheme:
        return plugins.open_storage(url)


class LockConformance(LockTests):
    """Tests of a lock provider; define the fixture `lock_url`, at which nothing else stores locks.

    A provider without a URL defines `open_provider` instead. All opened handles must reach the same locks, as
    several processes would.
    """

    @pytest.fixture
    def lock_url(self) -> str:
        """Return the URL of the lock provider."""
        raise NotImplementedError(f"{type(self).__name__} must define the fixture lock_url.")

    @pytest.fixture
    def open_provider(self, lock_url: str) -> Callable[[], LockProvider]:
        """Return a function that opens another handle of the provider."""
        return partial(_open_locks, lock_url)

    @pytest.fixture
    def locks(
        self, open_provider: Callable[[], LockProvider], request: pytest.FixtureRequest
    ) -> Iterator[LockHandles]:
        """Yield the handles of the test."""
        providers = _Providers(open_provider)
        try:
            request.node.user_properties.append((REPORTED, type(providers.first).__name__))
            yield providers
        finally:
            providers.close()
