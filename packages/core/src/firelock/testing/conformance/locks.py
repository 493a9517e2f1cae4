"""Locks: one holder at a time, and a token that tells a late holder from the present one."""

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
    """Handles of one keeper of locks, moved through time together."""

    @property
    def first(self) -> LockProvider:
        """The handle that most tests use."""
        ...

    def open(self) -> LockProvider:
        """Return another handle of the same locks."""
        ...

    def advance(self, seconds: float) -> None:
        """It is that much later for every handle."""
        ...


@attrs.frozen
class NamedLock:
    """A lock as one handle reaches it; each owner asks for it for an hour."""

    handles: LockHandles
    keeper: LockProvider
    name: str

    def open(self) -> NamedLock:
        """Return the lock as another handle reaches it."""
        return attrs.evolve(self, keeper=self.handles.open())

    def advance(self, hours: float) -> None:
        """It is that much later."""
        self.handles.advance(hours * _TTL)

    def acquire(self, owner: str) -> int | None:
        """Return the token that the owner is given, None where it is not."""
        return self.keeper.acquire_lock(self.name, owner, _TTL)

    def acquired(self, owner: str) -> int:
        """Return the token that the owner is given for sure."""
        fence = self.acquire(owner)
        assert fence is not None, f"{owner} did not get the lock"
        return fence

    def renew(self, owner: str, fence: int) -> bool:
        """Tell whether the owner holds it for another hour."""
        return self.keeper.renew_lock(self.name, owner, fence, _TTL)

    def release(self, owner: str, fence: int) -> bool:
        """Tell whether the owner gave it back."""
        return self.keeper.release_lock(self.name, owner, fence)


class LockDuty(Conformance):
    """What `acquire_lock`, `renew_lock` and `release_lock` promise."""

    verbs = "acquire_lock renew_lock release_lock"

    @pytest.fixture
    def lock(self, locks: LockHandles) -> NamedLock:
        """Return a lock that nobody has held."""
        return NamedLock(locks, locks.first, f"lock:{new_id()}")

    def test_a_free_lock_is_acquired(self, lock: NamedLock) -> None:
        """A lock nobody holds is given with a positive token.

        If this fails: nothing that needs a lock ever runs.
        """
        fence = lock.acquire("ada")

        assert fence is not None
        assert fence > 0

    def test_a_held_lock_is_refused(self, lock: NamedLock) -> None:
        """While one owner holds a lock, another gets None, through whatever handle.

        If this fails: two do at once what only one may do.
        """
        lock.acquire("ada")

        answers = [lock.acquire("bob"), lock.open().acquire("bob")]

        assert [None, None] == answers

    def test_names_are_apart(self, lock: NamedLock) -> None:
        """Each name is a lock of its own.

        If this fails: unrelated work waits for each other.
        """
        lock.acquire("ada")

        assert attrs.evolve(lock, name=lock.name + "2").acquire("bob") is not None

    @pytest.mark.parametrize("character", ["n", "\U0001f525"], ids=["one byte", "four bytes"])
    def test_the_longest_lock_names_are_told_apart(self, lock: NamedLock, character: str) -> None:
        """Names of 200 characters, up to 800 bytes, are whole to the last one: each is a lock of its own.

        If this fails: a store that limits, cuts or folds names refuses a lock with a long name, or unrelated
        work waits for each other.
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
    def test_a_released_or_expired_lock_is_free(self, lock: NamedLock, frees: str) -> None:
        """A lock that was released, or whose life ended, is given to another, with a larger token.

        If this fails: locks are held for ever, that of a process that died blocks everybody, or an old token
        passes for the present one.
        """
        first = lock.acquired("ada")

        if frees == "release":
            assert lock.release("ada", first)
        else:
            lock.advance(2)

        assert lock.acquired("bob") > first

    def test_a_token_grows_by_the_same_owner(self, lock: NamedLock) -> None:
        """An owner that locks again after a release, or after its lock expired, gets a larger token.

        If this fails: work of the first time passes for work of the second, or an owner that slept cannot be
        told from one that held on.
        """
        fences = []
        for _ in range(4):
            fences.append(lock.acquired("ada"))
            lock.release("ada", fences[-1])
        fences.append(lock.acquired("ada"))
        lock.advance(2)
        fences.append(lock.acquired("ada"))

        assert sorted(set(fences)) == fences

    def test_the_holder_gets_its_own_token_again(self, lock: NamedLock) -> None:
        """An owner that asks again while it holds the lock gets the same token and a new life.

        If this fails: an acquire that is sent again after a lost reply locks its sender out.
        """
        first = lock.acquired("ada")
        lock.advance(0.75)

        second = lock.acquired("ada")
        lock.advance(0.75)

        assert first == second
        assert lock.acquire("bob") is None

    def test_a_renewal_gives_a_life_from_now(self, lock: NamedLock) -> None:
        """A renewed lock lives for the given time from now.

        If this fails: a lock that is still held is given away.
        """
        fence = lock.acquired("ada")
        lock.advance(0.75)

        renewed = lock.renew("ada", fence)
        lock.advance(0.75)

        assert renewed
        assert lock.acquire("bob") is None
        lock.advance(1)
        assert lock.acquire("bob") is not None

    def test_a_lost_lock_is_not_renewed(self, lock: NamedLock) -> None:
        """A renewal after expiry answers False, whether or not another has the lock by now.

        If this fails: a holder that slept takes the lock back from its successor.
        """
        fence = lock.acquired("ada")
        lock.advance(2)

        before_the_successor = lock.renew("ada", fence)
        successor = lock.acquired("bob")
        after_it = lock.renew("ada", fence)

        assert (False, False) == (before_the_successor, after_it)
        assert lock.renew("bob", successor)

    def test_only_its_token_in_its_owners_hands_counts(self, lock: NamedLock) -> None:
        """An old or guessed token, or the right one in other hands, neither renews nor releases.

        If this fails: a late release frees what somebody relies on, or anybody who guesses a number does.
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

    def test_what_nobody_holds_is_neither_renewed_nor_released(self, lock: NamedLock) -> None:
        """Renewing or releasing a lock that is free, or was never held, answers False and leaves it free.

        If this fails: a second release, or a late renewal, locks everybody out.
        """
        fence, never = lock.acquired("ada"), attrs.evolve(lock, name=lock.name + "never")
        lock.release("ada", fence)

        for one in (lock, never):
            assert (False, False) == (one.release("ada", fence), one.renew("ada", fence))
            assert one.acquire("bob") is not None

    def test_one_of_eight_gets_the_lock(self, lock: NamedLock) -> None:
        """Of eight that ask at once for a lock that expired, or is free, one gets it; tokens of rounds grow.

        If this fails: the lock does not exclude, or the death of a holder makes two new ones.
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
    """Handles of a provider, opened as often as a test asks."""

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
    """Return the lock provider of a URL, or the storage of it, which keeps locks as well."""
    from firelock.errors import UnknownScheme
    from firelock.plugins.loader import Plugins

    plugins = Plugins()
    try:
        return plugins.open_locks(url)
    except UnknownScheme:
        return plugins.open_storage(url)


class LockConformance(LockDuty):
    """Give `lock_url`: where locks may be taken that nobody else wants.

    A provider without a URL gives `open_provider` instead. Every handle opened has to reach the same locks,
    as several processes would.
    """

    @pytest.fixture
    def lock_url(self) -> str:
        """Return the URL of the lock provider."""
        raise NotImplementedError(f"{type(self).__name__} has to define the fixture lock_url.")

    @pytest.fixture
    def open_provider(self, lock_url: str) -> Callable[[], LockProvider]:
        """Return a function that opens one more handle of the provider."""
        return partial(_open_locks, lock_url)

    @pytest.fixture
    def locks(
        self, open_provider: Callable[[], LockProvider], request: pytest.FixtureRequest
    ) -> Iterator[LockHandles]:
        """Yield the test's handles."""
        providers = _Providers(open_provider)
        try:
            request.node.user_properties.append((REPORTED, type(providers.first).__name__))
            yield providers
        finally:
            providers.close()
